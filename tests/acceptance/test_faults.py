"""Four machines and a switch: cables are pulled, and machines lose their power, while calls run.

On the desk are the notebook and the broker, on the head what is an engine's, on the others what
runs functions: hosts that were started there by hand, or placed there by Dask or by Ray (`make
providers`). Whatever happens, every call has one outcome, in time; what must not run twice does
not; and no device has two owners. Of that the calls themselves keep the books, in files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from notebook_ext.inquiry import Inquiry
from tests.acceptance import journals
from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import COMMAND, Laptop, Site
from tests.network import Network, why_not
from tests.providers.engines import BIN
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no lab of namespaces: {why_not()}")

LEASE_SECONDS = 3
FENCE_SECONDS = 9
LIMIT_SECONDS = 8
"""From the cut to the result of a call of 3 s."""
WORKPLACES = ("one", "two")
DEVICES = 3
"""Of each of them."""
SCRIPT = """
import fcntl, threading

def work(label, seconds):
    machine, device = os.uname().nodename, os.environ["CUDA_VISIBLE_DEVICES"]
    with open(f"{shared}/executions", "a") as file:
        file.write(f"{label} {machine} {os.getpid()}\\n")
    if not hasattr(sys, "claim"):  # as long as this process lives
        sys.claim = open(f"{shared}/{machine}-{device}", "a")
        try:
            fcntl.flock(sys.claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            open(f"{shared}/violations", "a").write(f"{label} {machine} {device}\\n")
    time.sleep(seconds)
    return machine

@app.function(gpu=1, cpu=0.1, scaledown_window=2)
def again(label, seconds):
    return work(label, seconds)

@app.function(gpu=1, cpu=0.1, scaledown_window=2, rerun_on_crash=False)
def once(label, seconds):
    return work(label, seconds)

def follow(label, call):
    try:
        value, error = call.get(), ""
    except Exception as failed:
        value, error = "", f"{type(failed).__name__}: {failed}"
    print(json.dumps([label, value, error, time.monotonic()]), flush=True)

def connect(address, options):
    try:
        value, error = nb.connect(address, **options), ""
    except Exception as failed:
        value, error = "", str(failed)
    print(json.dumps(["connected", value, error, 0.0]), flush=True)

for line in sys.stdin:
    what, *words = json.loads(line)
    if what == "connect":
        threading.Thread(target=connect, args=words).start()
    else:
        label, seconds = words
        call = {"again": again, "once": once}[what].spawn(label, seconds)
        threading.Thread(target=follow, args=[label, call]).start()
"""


class Outcome(NamedTuple):
    """How a call ended, for the notebook."""

    machine: str
    error: str
    at: float


class Notebook:
    """A notebook on the desk, that goes on through all faults; what it calls keeps books."""

    def __init__(self, laptop: Laptop, shared: Path) -> None:
        self._shared = shared
        self.outcomes: dict[str, list[Outcome]] = {}
        self.process = laptop.starts(f"shared = {str(shared)!r}\n{SCRIPT}")
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            label, *outcome = json.loads(line)
            self.outcomes.setdefault(label, []).append(Outcome(*outcome))

    def says(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def calls(self, label: str, seconds: float) -> str:
        """Have a function called: its name is the label's first word."""
        self.says(label.partition("-")[0], label, seconds)
        return label

    def executions(self, label: str) -> list[str]:
        """Return on which machines a call has begun, in order."""
        lines = [line.split() for line in self._book("executions")]
        return [machine for said, machine, _ in lines if said == label]

    def _book(self, name: str) -> list[str]:
        file = self._shared / name
        return file.read_text().splitlines() if file.exists() else []

    def begun(self, *labels: str) -> dict[str, str]:
        """Wait until all these calls run; return where."""
        wait_until(lambda: all(map(self.executions, labels)), 30, f"{labels} run: {self.outcomes}")
        return {label: self.executions(label)[0] for label in labels}

    def outcome(self, label: str, limit_seconds: float = 60) -> Outcome:
        wait_until(lambda: label in self.outcomes, limit_seconds, f"{label} has ended")
        return self.outcomes[label][0]

    def ends(self) -> None:
        assert self.process.stdin is not None
        with self.process:
            self.process.stdin.close()
            assert self.process.wait(30 * PATIENCE) == 0
            self._listener.join()

    def audit(self) -> None:
        """Look at the books: what must never be."""
        assert not self._book("violations"), "a device has had two owners"
        begun = Counter(line.split()[0] for line in self._book("executions"))
        assert not [label for label in begun if "once" in label and begun[label] > 1]
        assert not {label: each for label, each in self.outcomes.items() if len(each) > 1}


class Lab:
    """The machines, and what runs on them: hosts that somebody has started by hand."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self.stack = stack
        self.network = stack.enter_context(Network("desk", "head", *WORKPLACES))
        place = Place(home / "p")
        stack.callback(place.end)
        (home / "desk").mkdir()
        self.desk = Site(place, home / "desk")
        self.desk.on = self.network.on("desk")
        self.desk.address = f"tcp://{self.network.addresses['desk']}:9465"
        self.desk.variables |= {
            "NOTEBOOK_EXT_HOST_LEASE": str(LEASE_SECONDS),
            "NOTEBOOK_EXT_HOST_FENCE": str(FENCE_SECONDS),
        }
        self.variables = self.prepares()
        self.desk.variables |= self.variables
        self.desk.types("broker", "start", "--listen", self.desk.address)
        self._log = stack.enter_context((home / "log").open("ab"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.there: dict[str, subprocess.Popen[bytes]] = {}
        """What was started last on each machine."""
        self._count = 0
        laptop = Laptop(home / "desk", None)
        laptop.variables, laptop.on = self.desk.variables, self.desk.on
        (home / "shared").mkdir()
        self.notebook = Notebook(laptop, home / "shared")
        self.begins()

    def prepares(self) -> dict[str, str]:
        """Return the variables that everything has."""
        return {}

    def begins(self) -> None:
        for machine in WORKPLACES:
            self.desk.invite(machine, self.home / f"{machine}.json", "--host")
            self.boots(machine)

    def boots(self, machine: str) -> None:
        """Start what runs there as long as there is power."""
        options = ["--connect", self.home / f"{machine}.json", "--name", machine, "--cpus", "4"]
        gpus = ",".join(f"{index}:H200" for index in range(DEVICES))
        self.runs(machine, [*COMMAND, "host", "start", *options, "--gpus", gpus])

    def runs(self, machine: str, command: Sequence[object]) -> None:
        """Start something on a machine, which has directories of its own."""
        home = self.home / machine
        home.mkdir(exist_ok=True)
        own = {
            "HOME": str(home),
            "NOTEBOOK_EXT_RUNTIME_DIR": f"{self.desk.place.runtime_dir}{machine[0]}",
            "NOTEBOOK_EXT_DATA_DIR": str(home / "data"),
            "NOTEBOOK_EXT_DEVICE_LOCKS": str(home / "locks"),
        }
        self.there[machine] = subprocess.Popen(
            [*self.network.on(machine), *map(str, command)],
            env=os.environ | own | self.variables,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=home,
        )
        self.processes.append(self.there[machine])

    def hosts(self) -> dict[str, str]:
        """Return the state of each host that has devices, by its name: empty where it is well."""
        broker = self.desk.place.broker()
        assert broker is not None
        with Inquiry(broker) as asking:
            hosts = asking.status().hosts
        return {each.host: each.state for each in hosts if each.resources.devices}

    def awaits_health(self) -> None:
        """Wait until every device can be had."""
        wait_until(
            lambda: list(self.hosts().values()) == [""] * len(WORKPLACES),
            150,
            "both machines have a host that is well",
        )

    def calls(self, kind: str, seconds: float = 3.0) -> str:
        """Have `again` or `once` called; return under which label its books are kept."""
        self._count += 1
        return self.notebook.calls(f"{kind}-{self._count}", seconds)

    def in_flight(self) -> tuple[str, dict[str, str]]:
        """Have calls run; return a machine that runs one of each kind, and where each runs."""
        self.awaits_health()
        begun = self.notebook.begun(*(self.calls("once", 5.0) for _ in WORKPLACES))
        for _ in range(2 * DEVICES - len(begun)):  # in the end there is no other place
            begun |= self.notebook.begun(self.calls("again", 3.0))
            for machine in WORKPLACES:
                kinds = {label[:4] for label, where in begun.items() if where == machine}
                if len(kinds) > 1:
                    return machine, begun
        raise AssertionError(f"no machine runs one of each kind: {begun}")

    def ends(self) -> None:
        """End everything, as people do; every input of the journal has one outcome then."""
        self.notebook.ends()
        self.desk.types("broker", "stop")
        for process in reversed(self.processes):  # see `engines`: an engine's head ends last
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(30 * PATIENCE)
        journals.check(self.home / "p")


class EngineLab(Lab):
    """Hosts that an engine places, which the notebook has connected to."""

    @property
    def address(self) -> str:
        """Where the notebook finds the engine."""
        raise NotImplementedError

    def begins(self) -> None:
        for machine in ("head", *WORKPLACES):
            self.boots(machine)
        options = {"max_hosts": 2, "min_hosts": 2, "cpus": 4, "gpus": f"H200:{DEVICES}"}
        self.notebook.says("connect", self.address, options)
        error = self.notebook.outcome("connected", 90).error
        assert not error, error

    def ends(self) -> None:
        for line in self.desk.types("provider", "list").splitlines():
            self.desk.types("provider", "stop", line.split()[0])
        super().ends()


class DaskLab(EngineLab):
    """A scheduler on the head, and a worker on each of the others."""

    @property
    def address(self) -> str:
        return f"dask://{self.network.addresses['head']}:8786"

    def boots(self, machine: str) -> None:
        there = ["--host", self.network.addresses[machine], "--no-dashboard"]
        what = ["scheduler", "--port", "8786"]
        if machine != "head":
            what = ["worker", self.address.replace("dask", "tcp"), "--nthreads", "4", "--no-nanny"]
            what += ["--resources", f"GPU={DEVICES}"]
        self.runs(machine, [BIN / "dask", *what, *there])


class RayLab(EngineLab):
    """A head with no device, and a node on each of the others."""

    @property
    def address(self) -> str:
        return f"ray://{self.network.addresses['head']}:10001"

    def prepares(self) -> dict[str, str]:
        # Jupyter's jsonschema has it, where it takes 5 s of each import of Ray.
        without = self.home / "without"
        without.mkdir()
        (without / "rfc3987_syntax.py").write_text("raise ImportError")
        self._short = tempfile.mkdtemp(prefix="nbr-", dir="/tmp")  # sockets lie there
        self.stack.callback(shutil.rmtree, self._short, ignore_errors=True)
        return {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": f"{without}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        }

    def boots(self, machine: str) -> None:
        what = ["--disable-usage-stats", "--block", "--object-store-memory", 80_000_000]
        what += ["--node-ip-address", self.network.addresses[machine]]
        for at, port in enumerate(("dashboard-agent-grpc", "dashboard-agent-listen")):
            what += [f"--{port}-port", 52_000 + at]
        for at, port in enumerate(("metrics-export", "runtime-env-agent")):
            what += [f"--{port}-port", 53_000 + at]
        if machine == "head":
            what += ["--head", "--port", 6379, "--include-dashboard", "false"]
            left = tempfile.mkdtemp(
                dir=self._short
            )  # a machine that was off has forgotten the rest
            what += ["--temp-dir", left, "--ray-client-server-port", 10001]
            what += ["--num-cpus", 1, "--num-gpus", 0]
        else:
            what += ["--address", f"{self.network.addresses['head']}:6379"]
            what += ["--num-cpus", 4, "--num-gpus", DEVICES]
        before = self._started()
        self.runs(machine, [BIN / "ray", "start", *what])
        wait_until(lambda: self._started() > before, 90, f"Ray runs on {machine}")

    def _started(self) -> int:
        """Return how many nodes have started: one after the other, a node asks the head's."""
        return (self.home / "log").read_text().count("Ray runtime started")


ON = [
    pytest.param(Lab, id="by hand"),
    pytest.param(DaskLab, id="dask", marks=[pytest.mark.engine, pytest.mark.timeout(300)]),
    pytest.param(RayLab, id="ray", marks=[pytest.mark.engine, pytest.mark.timeout(400)]),
]


@pytest.fixture(scope="module", params=ON)
def running(
    request: pytest.FixtureRequest, own_directories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    for kind, library in ((DaskLab, "distributed"), (RayLab, "ray")):
        if request.param is kind:
            pytest.importorskip(library)
    with ExitStack() as stack:
        made = request.param(tmp_path_factory.mktemp("lab"), stack)
        yield made
        made.ends()


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    """Give machines that are well; behind the test they are so again, and so are the books."""
    yield running
    running.awaits_health()
    for label in (running.calls("again", 0.0) for _ in range(2 * DEVICES)):
        assert not running.notebook.outcome(label).error
    running.notebook.audit()


def says(what: str, seconds: float) -> None:
    print(f"{what}: {seconds:.1f} s to the result of 3 s, lease {LEASE_SECONDS} s")  # noqa: T201  what was measured


def results(lab: Lab, begun: dict[str, str], but: str = "") -> float:
    """See all have results, but for those that ran once on a machine; return when the calls did.

    Those that ran once may take longer.
    """
    last = 0.0
    for label, machine in begun.items():
        if machine == but and "once" in label:
            continue
        outcome = lab.notebook.outcome(label)
        assert not outcome.error, label
        assert outcome.machine != but
        if "again" in label:
            last = max(last, outcome.at)
    return last


@pytest.mark.clock
def test_a_cable_is_pulled_and_put_back(lab: Lab) -> None:
    cut, begun = lab.in_flight()
    began = time.monotonic()
    lab.network.cut(cut)
    took = results(lab, begun, cut) - began
    lab.network.heal(cut)
    says("cut", took)
    assert took < LIMIT_SECONDS * PATIENCE
    for label in begun:
        outcome = lab.notebook.outcome(label)
        if begun[label] == cut and "once" in label:  # it has ended there, and is heard of now
            assert outcome.machine == cut, outcome


@pytest.mark.clock
def test_a_machine_loses_its_power(lab: Lab) -> None:
    cut, begun = lab.in_flight()
    began = time.monotonic()
    lab.network.power_off(cut)
    took = results(lab, begun, cut) - began
    lab.network.heal(cut)
    lab.boots(cut)
    says("power", took)
    assert took < LIMIT_SECONDS * PATIENCE
    for label in begun:
        if begun[label] == cut and "once" in label:
            assert "its host is gone" in lab.notebook.outcome(label).error


@pytest.mark.clock
def test_the_notebooks_machine_is_cut_off(lab: Lab) -> None:
    _, begun = lab.in_flight()
    lab.network.cut("desk")
    wait_until(lambda: set(lab.hosts().values()) == {"silent"}, 20, "nothing is heard of them")
    healed = time.monotonic()
    lab.network.heal("desk")
    took = results(lab, begun) - healed
    says("desk, from when it is there again", took)
    assert took < LIMIT_SECONDS * PATIENCE


@pytest.mark.large
def test_the_notebooks_machine_is_cut_off_for_longer_than_a_fence(lab: Lab) -> None:
    lab.awaits_health()
    labels = [lab.calls("once", 60), lab.calls("again", 2 * LEASE_SECONDS)]
    lab.notebook.begun(*labels)
    lab.network.cut("desk")
    failed = lab.notebook.outcome(labels[0])
    lab.network.heal("desk")
    assert "its host is gone" in failed.error
    assert not lab.notebook.outcome(labels[1]).error


@pytest.mark.clock
@pytest.mark.parametrize("running", ON[1:], indirect=True)  # what was started by hand has none
def test_the_engines_head_loses_its_power(lab: Lab) -> None:
    """What runs goes on; the head that comes back knows nothing, and its hosts come anew."""
    _, begun = lab.in_flight()
    began = time.monotonic()
    lab.network.power_off("head")
    took = results(lab, begun) - began
    says("head", took)
    assert took < LIMIT_SECONDS * PATIENCE
    lab.network.heal("head")
    lab.boots("head")
    labels = [lab.calls("again", 0.1), lab.calls("once", 0.1)]
    for machine in WORKPLACES:  # what the engine runs there ends by itself, and hosts with it
        left = lab.there[machine]
        wait_until(lambda: left.poll() is not None, 150, f"{machine} has found that")  # noqa: B023
        lab.boots(machine)
    for label in labels:
        assert not lab.notebook.outcome(label, 150).error
