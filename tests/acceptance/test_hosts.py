"""More than one machine: hosts dial the broker over TCP; what happens when they are cut off.

Here the other machines are processes with directories of their own, which reach the broker by a
connection file alone; functions that ask for a device run there, since only they declare any.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests import leftovers
from tests.acceptance.cells import typed, value
from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import COMMAND, HEAD, Laptop, Site
from tests.acceptance.test_package_versions import installed
from tests.conftest import KernelStarter
from tests.relay import Relay
from tests.waiting import PATIENCE, wait_until

ON_BOX = (
    HEAD
    + """
from kernel_worker import context, rendezvous
from notebook_ext import inquiry

def where():
    kind, name, *_ = context.worker_identity.connection_file.split("/")[-2].split("-")
    return name if kind == "host" else "broker's"

def pause(until):
    deadline = time.monotonic() + 60
    while not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert until()
"""
)


class Box:
    """A machine that runs workers: its outpost, its host agent and what they start."""

    def __init__(  # noqa: PLR0917  as many as a machine has
        self,
        site: Site,
        home: Path,
        name: str,
        gpus: str = "0:H200",
        address: str = "",
        variables: Mapping[str, str] = MappingProxyType({}),
        on: Sequence[str] = (),
    ) -> None:
        """Start it; `variables` are set there, `on` is what the command begins with."""
        home.mkdir()
        self._on = on
        self._variables = variables
        self.name = name
        self.home = home
        self.runtime_dir = site.place.runtime_dir.with_name(f"b{secrets.token_hex(3)}")
        options = ["--address", address] if address else []
        self.file = site.invite(name, home / "host.json", "--host", *options)
        self._options = ["--connect", str(self.file), "--name", name, "--gpus", gpus, "--cpus", "2"]
        self.log = (home / "log").open("w+b")
        self.process = self.starts()

    def starts(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._on, *COMMAND, "host", "start", *self._options],
            env=os.environ
            | {
                "HOME": str(self.home),
                "NOTEBOOK_EXT_RUNTIME_DIR": str(self.runtime_dir),
                "NOTEBOOK_EXT_DATA_DIR": str(self.home / "data"),
                "NOTEBOOK_EXT_DEVICE_LOCKS": str(self.home / "locks"),
            }
            | dict(self._variables),
            stdout=self.log,
            stderr=self.log,
            cwd=self.home,
        )

    def processes(self) -> dict[int, str]:
        return leftovers.processes(self.runtime_dir)

    def logged(self) -> str:
        return Path(self.log.name).read_text()

    def signals(self, number: int) -> None:
        """Signal the outpost, the agent, templates and workers: SIGSTOP is a partition."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # one that goes on ends others at once
                os.kill(pid, number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.signals(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20 * PATIENCE)
        self.log.close()
        wait_until(lambda: not self.processes(), what=f"the processes of {self.name} are gone")


class BrokerSite(Site):
    """The broker's machine, whose hosts have a short lease."""

    lease_seconds = 3


@pytest.fixture
def site(own_place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BrokerSite]:
    home = tmp_path / "there"
    home.mkdir()
    made = BrokerSite(own_place, home)
    made.lease_seconds = getattr(request, "param", made.lease_seconds)
    made.variables |= {
        "NOTEBOOK_EXT_HOST_LEASE": str(made.lease_seconds),
        "NOTEBOOK_EXT_HOST_FENCE": str(4 * made.lease_seconds),
    }
    made.types("broker", "start", "--listen", made.address)
    yield made
    made.types("broker", "stop")


@pytest.fixture
def relay(site: BrokerSite) -> Iterator[Relay]:
    """Give a stretch of network that leads to the broker's first port."""
    with Relay(site.address) as made:
        yield made


@pytest.fixture
def boxes(site: BrokerSite, tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Give a function that starts a host and waits until the broker knows it."""
    started: list[Box] = []

    def start(name: str, **options: Any) -> Box:
        made = Box(site, tmp_path / name, name, **options)
        started.append(made)
        wait_until(lambda: f"ho-{name}-" in site.types("status"), what=f"{name} has joined")
        return made

    yield start
    for each in started:
        each.end()


@pytest.fixture
def notebook(site: BrokerSite, tmp_path: Path) -> Laptop:
    """Whoever calls, on the broker's machine."""
    home = tmp_path / "here"
    home.mkdir()
    made = Laptop(home, None)
    made.variables = site.variables
    return made


def starts(notebook: Laptop, code: str) -> subprocess.Popen[str]:
    return notebook.starts(ON_BOX.removeprefix(HEAD) + code)


def runs(notebook: Laptop, code: str) -> object:
    """Return what a script says in its last line."""
    with starts(notebook, code) as process:
        said, wrong = process.communicate(timeout=90 * PATIENCE)
    assert not process.returncode, wrong
    return json.loads(said.splitlines()[-1])


@pytest.mark.clock
def test_functions_run_on_another_machine_as_they_do_on_this_one(
    relay: Relay, boxes: Callable[..., Box], notebook: Laptop
) -> None:
    box = boxes("box", gpus="0:H200,1:H200", address=relay.address)
    said = runs(
        notebook,
        """
import threading
@app.function(gpu=1)
def there(x):
    print("printed", x)
    return where(), os.environ["CUDA_VISIBLE_DEVICES"], x * 2

@app.function(gpu=0.01, cpu=0.1)
def square(x):
    return x * x

@app.function()
def here(n):
    return where(), sum(square.map(range(n)))

@app.function(gpu=1)
def nested(n):
    return here.remote(n)

@app.function(gpu=0.01)
def fail():
    return {}["missing"]

@app.function(gpu=0.01)
def gen(n):
    yield from range(n)

@app.function(gpu=0.01)
def hang():
    try:
        time.sleep(100)
    finally:
        print("cleaned up")

@app.function(gpu=0.01)
def die(mark):
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), 9)
    return "ran again"

@app.function(gpu="A100")
def never(): ...

@app.function(gpu=0.01)
def doubled(array, more):
    return array * 2 + more

@app.function()
def total(array):
    return float(array.sum())

@app.function(gpu=0.01)
def sends(n):
    return total.remote(np.ones(n))

import numpy as np
big = np.arange(300_000.0)
found = [there.remote(4)]
found.append(list(square.map(range(3000))) == [x * x for x in range(3000)])
found.append(nested.remote(10))
try:
    fail.remote()
except KeyError as error:
    import traceback
    found.append(["missing" in "".join(traceback.format_exception(error)), str(error)])
found.append(list(gen.remote_gen(200)) == list(range(200)))
call = square.spawn(9)
found.append(call.get())
call = hang.spawn()
pause(lambda: any(w.state == "busy" for w in inquiry.status().workers))
began = time.monotonic()
call.cancel()
try:
    call.get()
except nb.exception.CallCancelledError:
    found.append(time.monotonic() - began < 5)
found.append(die.remote(os.getcwd() + "/mark"))
try:
    never.remote()
except Exception as error:
    found.append(str(error))
found.append(len(inquiry.status().hosts))
found.append(bool((doubled.remote(big, big) == 3 * big).all()))
tripled = list(doubled.map([big, big + 1], kwargs={"more": big}))
found.append([bool((each == 3 * big + 2 * at).all()) for at, each in enumerate(tripled)])
found.append(sends.remote(300_000))
print(json.dumps(found))
""",
    )
    assert isinstance(said, list)
    assert said[:8] == [
        ["box", "0", 8],
        True,
        ["broker's", 285],
        [True, "'missing'"],
        True,
        81,
        True,
        "ran again",
    ]
    assert "2 x H200" in said[8]
    assert "A100" in said[8]
    assert said[9:] == [2, True, [True, True], 300_000.0]
    assert relay.passed_bytes < 4_800_000, "of ten such arrays, most have gone by the second port"
    secret = json.loads(box.file.read_text())["client"]["secret"]
    for pid, line in box.processes().items():
        assert secret not in line
        assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.large
def test_what_many_use_travels_to_a_machine_once(
    relay: Relay, boxes: Callable[..., Box], notebook: Laptop
) -> None:
    boxes("box", gpus="0:H200,1:H200", address=relay.address)
    before = relay.passed_bytes
    said = runs(
        notebook,
        """
big = os.urandom(3_000_000)
more = os.urandom(2_000_000)
table = nb.put(os.urandom(4_000_000))

@app.function(gpu=0.2, cpu=0.2)
def use(x, table, more):
    time.sleep(0.2)
    return os.getpid(), len(big), len(table), len(more)

found = list(use.map([1] * 20, kwargs={"table": table, "more": more}))
print(json.dumps([len({pid for pid, *_ in found}), sorted({tuple(rest) for _, *rest in found})]))
""",
    )
    assert isinstance(said, list)
    workers, sizes = said
    assert workers > 4
    assert sizes == [[3_000_000, 4_000_000, 2_000_000]]
    assert relay.passed_bytes - before < 2_000_000, "what is large goes by the second port"


@pytest.mark.clock
@pytest.mark.large
@pytest.mark.parametrize("site", [1, 3], indirect=True, ids="lease {} s".format)
def test_a_host_that_is_cut_off_and_one_that_leaves(
    site: BrokerSite, boxes: Callable[..., Box], notebook: Laptop
) -> None:
    """What it ran runs elsewhere, or never again; late answers count for nothing."""
    both = {name: boxes(name) for name in ("one", "two")}
    with starts(
        notebook,
        """
@app.function(gpu=1)
def runs_again(seconds):
    time.sleep(seconds)
    return where()

@app.function(gpu=1, rerun_on_crash=False)
def runs_once(mark, seconds):
    with open(mark, "a") as file:
        file.write("ran ")
    time.sleep(seconds)
    return where()

def tell(value):
    print(json.dumps(value), flush=True)

def whose(call):
    pause(lambda: any(w.state == "busy" and w.pid for w in inquiry.status().workers))
    busy = next(w for w in inquiry.status().workers if w.state == "busy")
    return busy.host.split("-")[1], busy.pid

for line in sys.stdin:
    what, *words = line.split()
    if what == "get":
        try:
            tell(call.get())
        except nb.exception.InternalFailure as error:
            tell(str(error))
    elif what == "hosts":
        tell({host.host.split("-")[1]: host.state for host in inquiry.status().hosts})
    else:
        seconds = float(words[-1])
        call = runs_again.spawn(seconds) if what == "again" else runs_once.spawn(words[0], seconds)
        tell(whose(call))
""",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout

        def ask(*words: object) -> Any:
            process.stdin.write(" ".join(map(str, words)) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = said.readline()
            assert line, process.communicate()
            return json.loads(line)

        def runs_on(*words: object) -> tuple[Box, Callable[[], bool]]:
            """Return the host where a call runs, and whether its process is gone."""
            name, pid = ask(*words)
            return both[name], lambda: not Path(f"/proc/{pid}").exists()

        def is_silent() -> bool:
            return "silent" in ask("hosts").values()

        def all_are_well() -> bool:
            states = ask("hosts")
            return len(states) == 3 and not any(states.values())

        # It may run again, and does, on the other one.
        cut, is_gone = runs_on("again", 3)
        cut.signals(signal.SIGSTOP)
        began = time.monotonic()
        ran_on = ask("get")
        took = time.monotonic() - began
        assert ran_on != cut.name
        assert took < (5 + site.lease_seconds) * PATIENCE, took
        print(f"{site.lease_seconds} s lease: {took:.1f} s from cut to result")  # noqa: T201
        cut.signals(signal.SIGCONT)
        wait_until(all_are_well, 30, what="it is heard again")
        wait_until(is_gone, what="it has ended what it ran")
        # It may not: its answer counts, if it comes before the fence …
        mark = notebook.home / "mark"
        cut, _ = runs_on("once", mark, 0.2)
        cut.signals(signal.SIGSTOP)
        wait_until(is_silent, 20, what="it is silent")
        cut.signals(signal.SIGCONT)
        assert ask("get") == cut.name
        # … and behind that it has failed, and was tried once.
        cut, is_gone = runs_on("once", mark, 60)
        cut.signals(signal.SIGSTOP)
        failed = ask("get")
        assert "its host is gone" in failed
        assert mark.read_text() == "ran ran "
        cut.signals(signal.SIGCONT)
        wait_until(is_gone, what="nothing of it runs there")
        wait_until(all_are_well, 30, what="it has joined again")
        # One that is told to leave ends what it runs.
        leaving, _ = runs_on("again", 1)
        leaving.process.send_signal(signal.SIGTERM)
        assert ask("get") == leaving.name
        assert leaving.process.wait(20 * PATIENCE) == 0
        assert leaving.name not in ask("hosts")
        process.communicate(timeout=30 * PATIENCE)


def test_what_runs_elsewhere_goes_on_when_the_broker_is_killed(
    site: BrokerSite, boxes: Callable[..., Box], notebook: Laptop
) -> None:
    boxes("box")
    mark, go = notebook.home / "mark", notebook.home / "go"
    with starts(
        notebook,
        f"""
@app.function(gpu=1, rerun_on_crash=False)
def wait():
    open({str(mark)!r}, "a").write("ran ")
    while not os.path.exists({str(go)!r}):
        time.sleep(0.05)
    return where()

print(json.dumps(wait.spawn().get()))
""",
    ) as process:
        wait_until(mark.exists, 30, what="it runs")
        before = site.place.broker_pid()
        os.kill(before, signal.SIGKILL)
        wait_until(
            lambda: (found := site.place.broker()) is not None and found.pid != before,
            30,
            what="another broker is there",
        )
        wait_until(lambda: "ho-box-" in site.types("status"), 30, what="the host is too")
        go.touch()
        said, wrong = process.communicate(timeout=60 * PATIENCE)
    assert json.loads(said) == "box", wrong
    assert mark.read_text() == "ran "


def test_a_function_runs_on_the_host_that_has_its_packages(
    site: BrokerSite, boxes: Callable[..., Box], tmp_path: Path
) -> None:
    home, there = tmp_path / "laptop", tmp_path / "there"
    home.mkdir()
    laptop = Laptop(home, site.invite("laptop", home / "box.json"))
    laptop.variables["PYTHONPATH"] = installed(home, only="1.5", no="1")
    boxes("lacks", gpus="0:H200,1:H200,2:H200")
    boxes("has", variables={"PYTHONPATH": installed(there, only="1.5")})
    said = runs(
        laptop,
        """
import only, no

@app.function(gpu=1, max_containers=4)
def has():
    return where(), only.thing

@app.function(gpu=1)
def nowhere():
    return no.thing

found = [has.remote() for _ in range(3)] + list(has.starmap([()] * 5))
try:
    nowhere.remote()
except nb.exception.VersionError as error:
    found += [str(error), *error.__notes__]
print(json.dumps(found))
""",
    )
    assert isinstance(said, list)
    assert said[:8] == [["has", 1]] * 8
    assert said[8].startswith("nowhere needs no 1, and ")
    assert "no host has what it needs: has has no no; lacks has no no" in said[9:]


@pytest.mark.clock
def test_a_notebook_stops_looks_into_and_debugs_what_runs_elsewhere(
    site: BrokerSite, boxes: Callable[..., Box], start_kernel: KernelStarter, tmp_path: Path
) -> None:
    boxes("box", gpus="0:H200,1:H200")
    home = tmp_path / "laptop"
    home.mkdir()
    laptop = Laptop(home, site.invite("laptop", home / "box.json"))
    cells = start_kernel(home, laptop.variables)
    typed(
        cells,
        """
        import os, time
        import notebook_ext as nb
        %load_ext notebook_ext
        app = nb.App()

        @app.function(gpu=1)
        def stops(x):
            y = x + 1
            breakpoint()
            return y

        @app.function(gpu=1)
        def fails(x):
            kept = [x]
            return kept[x]

        @app.function(gpu=1)
        def naps(x, mark=""):
            if mark:
                open(mark, "a").close()
                time.sleep(30)
            return x
        """,
    )
    cell = cells.begin("list(stops.map([1, 2]))", with_input=True)
    assert cells.answer("p y", "c", "c") == ["(Pdb) "] * 3
    assert cells.finish(cell, 30).result == "[2, 3]"
    typed(cells, "nb.config.keep_failed_seconds = 300")
    failed = cells.run("fails.remote(7)")
    assert failed.error is not None
    assert failed.error.name == "IndexError"
    assert "return kept[x]" in failed.error.traceback
    cell = cells.begin("%remote_debug", with_input=True)
    assert cells.answer("p kept, x", "q") == ["(Pdb) "] * 2
    cells.finish(cell, 30)
    assert "([7], 7)" in cell.stdout
    for how in ("naps.remote(0, {})", "list(naps.map(range(50), kwargs=dict(mark={})))"):
        mark = tmp_path / f"mark{len(how)}"
        cell = cells.begin(how.format(repr(str(mark))))
        wait_until(mark.exists, what="an input runs")
        pressed = time.monotonic()
        cells.interrupt()
        error = cells.finish(cell, 40).error
        assert error is not None
        assert error.name == "KeyboardInterrupt"
        assert time.monotonic() - pressed < 1.0 * PATIENCE
        assert value(cells, "list(naps.map(range(4)))") == [0, 1, 2, 3]
