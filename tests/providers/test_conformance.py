"""What every provider does, on the engine itself: one suite, for each of them.

Hosts are real ones; the broker that they dial is not there, since what an engine does with a host
does not depend on that. `make test` runs it here, on Ray and on Dask, `make providers` on Slurm.
"""

from __future__ import annotations

import importlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from kernel_worker.errors import ConnectionError, VersionError  # noqa: A004  ours
from kernel_worker.keys import Invitation, Keys
from kernel_worker.model import PROTOCOL_MAJOR
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Provider, Sight
from tests.providers.engines import ENGINES, Engine, free_port, skip_without
from tests.waiting import wait_until

CLASSES = {
    "local": "LocalProvider",
    "ray": "RayProvider",
    "dask": "DaskProvider",
    "slurm": "SlurmProvider",
}
ON = [
    pytest.param(
        name, marks=[] if name == "local" else [pytest.mark.engine, pytest.mark.timeout(300)]
    )
    for name in ENGINES
]
COUPLED = {"ray", "ray-client", "dask"}
"""Those whose library has to be the cluster's."""
LIMIT_SECONDS = 60


@pytest.fixture(scope="module", params=ON)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Give an engine that has 4 CPUs and 2 GPUs to give."""
    skip_without(request.param)
    with ExitStack() as stack:
        made = stack.enter_context(ENGINES[request.param](tmp_path_factory.mktemp("engine")))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in made.variables.items():
            patch.setenv(name, value)
        yield made


class Agent:
    """What an agent has: a directory, a prefix, an invitation; and a provider on the engine."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.directory = directory
        self.prefix = f"t-{secrets.token_hex(3)}"
        found = Keys(directory).invite(self.prefix, f"tcp://127.0.0.1:{free_port()}", "host")
        self.invitation = found
        self.provider = self.opens()

    def opens(self) -> Provider:
        at_sigterm = signal.getsignal(signal.SIGTERM)
        made = opened(self.engine.address, self.directory, self.prefix, self.invitation)
        assert signal.getsignal(signal.SIGTERM) is at_sigterm, "by which all hosts are given back"
        return made

    def spec(self, number: int, gpus: int = 1, cpus: int = 1) -> HostSpec:
        return HostSpec(f"{self.prefix}-{number}", cpus, 0, gpus, "H200", True)

    def sees(self, spec: HostSpec) -> Sight | None:
        return self.provider.look().get(spec.name)

    def awaits(self, spec: HostSpec, phase: Phase) -> Sight:
        def is_so() -> Sight | None:
            sight = self.sees(spec)
            return sight if sight is not None and sight.phase is phase else None

        found = wait_until(is_so, LIMIT_SECONDS, f"{spec.name} is {phase.value}: {self.sees(spec)}")
        assert found is not None
        return found

    def awaits_end(self, spec: HostSpec, grace_seconds: float = 0.0) -> None:
        """Release a host, as the fleet does: once, and again when it is gone."""
        self.provider.release(spec.name, grace_seconds)

        def is_forgotten() -> bool:
            sight = self.sees(spec)
            if sight is not None and sight.phase is Phase.GONE:
                self.provider.release(spec.name, 0.0)
            return sight is None

        wait_until(is_forgotten, LIMIT_SECONDS, f"{spec.name} is forgotten")
        wait_until(lambda: not self.pids(spec), LIMIT_SECONDS, f"{spec.name} has no process")

    def sweeps(self, spec: HostSpec) -> None:
        """Remove what a host leaves that is killed by -9."""
        left = Path(os.environ["NOTEBOOK_EXT_RUNTIME_DIR"], f"host-{spec.name}-{PROTOCOL_MAJOR}")
        shutil.rmtree(left, ignore_errors=True)

    def pids(self, spec: HostSpec) -> list[int]:
        """Return the host's processes, by their command line; the secret is in none of them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                assert self.invitation.client.secret.encode() not in b" ".join(words)
                if b"--name" in words and spec.name.encode() in words:
                    found.append(int(entry.name))
        return found

    def ends(self) -> None:
        for name in list(self.provider.look()):
            self.awaits_end(HostSpec(name, 1))
        assert not self.provider.look()
        self.provider.close()


def opened(address: str, directory: Path, prefix: str, invitation: Invitation) -> Provider:
    from kernel_worker.providers.target import parse

    target = parse(address, {"gpus": "H200:2"} if address.startswith("local") else {})
    room = importlib.import_module(f"kernel_worker.providers.{target.engine}")
    made: Provider = getattr(room, CLASSES[target.engine])(
        target, directory, prefix, msgspec.json.encode(invitation)
    )
    return made


@pytest.fixture
def agent(engine: Engine, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(engine, tmp_path)
    yield made
    made.ends()


def test_hosts_are_placed_when_there_is_a_device_and_each_has_its_own(agent: Agent) -> None:
    one, two, three = (agent.spec(number) for number in range(3))
    for spec in (one, one, two):
        agent.provider.request(spec)
    sights = [agent.awaits(spec, Phase.RUNNING) for spec in (one, two)]
    places = {(sight.node, sight.devices) for sight in sights}
    assert len(places) == 2
    assert all(len(sight.devices) == 1 and sight.node for sight in sights)
    assert [sight.spec for sight in sights] == [one, two]
    agent.provider.request(three)
    agent.provider.request(one)
    sight = agent.awaits(three, Phase.PENDING)
    assert sight.detail, "it says what it waits for"
    assert len(wait_until(lambda: agent.pids(one), LIMIT_SECONDS, "it has a process")) == 1
    assert not agent.pids(three)
    agent.awaits_end(one, 5.0)
    freed = agent.awaits(three, Phase.RUNNING)
    assert (freed.node, freed.devices) in places - {(sights[1].node, sights[1].devices)}
    agent.provider.release("nobody", 1.0)
    assert set(agent.provider.look()) == {two.name, three.name}


def test_a_host_that_crashes_is_gone_with_the_cause_and_leaves_its_device(agent: Agent) -> None:
    spec, again = agent.spec(1, gpus=0), agent.spec(2, gpus=0)
    agent.provider.request(spec)
    agent.awaits(spec, Phase.RUNNING)
    (pid,) = wait_until(lambda: agent.pids(spec), LIMIT_SECONDS, "it has a process")
    os.kill(pid, signal.SIGKILL)
    sight = agent.awaits(spec, Phase.GONE)
    assert sight.cause is Cause.ENDED
    assert "SIGKILL" in sight.detail
    assert agent.awaits(spec, Phase.GONE) == sight, "until it is released"
    agent.awaits_end(spec)
    agent.sweeps(spec)
    agent.provider.request(again)
    agent.awaits(again, Phase.RUNNING)


def test_what_no_machine_has_is_said_to_be_so(agent: Agent) -> None:
    spec = agent.spec(1, gpus=50)
    agent.provider.request(spec)
    sight = agent.awaits(spec, Phase.GONE)
    assert sight.cause is Cause.UNSCHEDULABLE
    assert "50 GPUs" in sight.detail
    shapes = agent.provider.shapes()
    assert max(len(shape.devices) for shape in shapes) in {1, 2}
    assert all(shape.cpu >= 1 and shape.memory_mib for shape in shapes)


def test_the_agent_that_follows_a_killed_one_has_its_hosts(agent: Agent) -> None:
    spec, waiting = agent.spec(1), agent.spec(2, gpus=0)
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
import msgspec
from pathlib import Path
from kernel_worker.keys import Invitation
from kernel_worker.providers.provider import HostSpec, Phase
from tests.providers.test_conformance import opened

invitation = msgspec.json.decode({msgspec.json.encode(agent.invitation)!r}, type=Invitation)
directory = Path({str(agent.directory)!r})
provider = opened({agent.engine.address!r}, directory, {agent.prefix!r}, invitation)
provider.request({spec!r})
while provider.look()[{spec.name!r}].phase is not Phase.RUNNING:
    time.sleep(0.05)
print("placed", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as former:
        assert former.stdout is not None
        assert former.stdout.readline() == "placed\n"
        former.kill()
    (before,) = wait_until(lambda: agent.pids(spec), LIMIT_SECONDS, "it has a process")
    agent.provider.close()
    agent.provider = agent.opens()
    sight = agent.awaits(spec, Phase.RUNNING)
    assert sight.spec == spec
    assert len(sight.devices) == 1
    agent.provider.request(spec)
    agent.provider.request(waiting)
    agent.awaits(waiting, Phase.RUNNING)
    assert agent.pids(spec) == [before]
    agent.awaits_end(spec, 5.0)


@pytest.mark.parametrize("engine", [on for on in ON if {*on.values} & COUPLED], indirect=True)
def test_other_versions_are_refused_with_a_remedy(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "distributed" if engine.address.startswith("dask") else "ray"
    monkeypatch.setattr(importlib.import_module(library), "__version__", "1.2.3")
    with pytest.raises(VersionError) as raised:
        Agent(engine, tmp_path)
    assert "1.2.3" in str(raised.value)
    assert "provider start" in str(raised.value)


@pytest.mark.parametrize("engine", [on for on in ON if "ray-client" in on.values], indirect=True)
def test_a_process_for_a_driver_that_dies_is_followed_by_another_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client server takes 30 s to say so."""
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "1")
    dying = Path(engine.variables["HOME"], "dying")
    dying.write_text("3")
    with pytest.raises(ConnectionError, match=r"none of 2 processes .* come up: RuntimeError: "):
        Agent(engine, tmp_path)
    agent = Agent(engine, tmp_path)
    assert dying.read_text() == "0"
    assert not agent.provider.look()
    agent.provider.close()
    dying.unlink()


@pytest.mark.parametrize("engine", ON[1:], indirect=True)
def test_that_nobody_answers_is_said_with_the_address(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    conf = engine.variables.get("SLURM_CONF")
    if conf is not None:
        other = re.sub(r"(?<=SlurmctldPort=)\d+", str(free_port()), Path(conf).read_text())
        (tmp_path / "slurm.conf").write_text(other)
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    elif engine.address != "ray://auto":
        monkeypatch.setattr(engine, "address", f"{engine.target().engine}://{nowhere}")
    with pytest.raises(ConnectionError, match="answers at"):
        Agent(engine, tmp_path)
