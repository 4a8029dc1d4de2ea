"""What hosts on Slurm have of their own, on a real one; the rest is `test_conformance`."""

from __future__ import annotations

import os
import re
import secrets
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kernel_worker.errors import ConnectionError, NotFoundError  # noqa: A004  ours
from kernel_worker.keys import Invitation, Keys
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight
from kernel_worker.providers.target import parse
from tests.providers.engines import Engine, free_port, skip_without, slurm
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
LIMIT_SECONDS = 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    skip_without("slurm")
    patch = pytest.MonkeyPatch()
    with slurm(tmp_path_factory.mktemp("engine")) as made, patch.context() as variables:
        for name, value in made.variables.items():
            variables.setenv(name, value)
        yield made


class Agent:
    """A provider with options, and the end of all that it was asked for."""

    def __init__(self, engine: Engine, directory: Path, **options: object) -> None:
        from kernel_worker.providers.slurm import SlurmProvider

        self.home = Path(engine.variables["SLURM_CONF"]).parent
        self.prefix = f"t-{secrets.token_hex(3)}"
        self.invitation: Invitation = Keys(directory).invite(
            self.prefix, f"tcp://127.0.0.1:{free_port()}", "host"
        )
        self.provider = SlurmProvider(
            parse(engine.address, options),
            directory,
            self.prefix,
            msgspec.json.encode(self.invitation),
        )

    def requests(self, gpus: int = 0, memory_mib: int = 0) -> HostSpec:
        spec = HostSpec(f"{self.prefix}-1", 1, memory_mib, gpus, "H200", True)
        self.provider.request(spec)
        return spec

    def awaits(self, spec: HostSpec, phase: Phase) -> Sight:
        def is_so() -> Sight | None:
            sight = self.provider.look()[spec.name]
            return sight if sight.phase is phase else None

        found = wait_until(is_so, LIMIT_SECONDS, f"{spec.name} is {phase.value}")
        assert found is not None
        return found

    def begins(self) -> tuple[HostSpec, Sight]:
        """Request a host, and wait until it runs."""
        spec = self.requests()
        return spec, self.awaits(spec, Phase.RUNNING)

    def job(self) -> str:
        from kernel_worker.providers.slurm_commands import jobs

        return jobs(self.prefix)[0].number

    def ends(self) -> None:
        def is_empty() -> bool:
            sights = self.provider.look()
            for name, sight in sights.items():
                if sight.phase is Phase.GONE:
                    self.provider.release(name, 0.0)
            return not sights

        for name in self.provider.look():
            self.provider.release(name, 0.0)
        wait_until(is_empty, LIMIT_SECONDS, "nothing is left")
        self.provider.close()


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    made: list[Agent] = []
    yield made
    for agent in made:
        agent.ends()


def run(*words: str) -> str:
    from kernel_worker.providers.slurm_commands import run as runs

    return runs(*words)


def test_what_users_of_slurm_say_reaches_it(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = Agent(
        engine,
        tmp_path,
        account="physics",
        walltime="1-02:30:00",
        scheduler_options="--nice=7 --exclude=n2\n#SBATCH --dependency=singleton",
    )
    agents.append(agent)
    spec = agent.requests(gpus=2, memory_mib=100)
    sight = agent.awaits(spec, Phase.RUNNING)
    assert (sight.node, sight.devices) == ("n1", ("0", "1"))
    said = run("scontrol", "show", "job", "--oneliner", agent.job()).split()
    assert {
        "Account=physics",
        "TimeLimit=1-02:30:00",
        "Nice=7",
        "ExcNodeList=n2",
        "MinMemoryNode=100M",
        "TresPerNode=gres:gpu:h200:2",
        "CPUs/Task=1",
        "Partition=gpu",
        "Requeue=0",
    } <= {*said}


def test_nobody_else_can_read_the_key_and_here_it_is_gone(
    engine: Engine, tmp_path: Path, agents: list[Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(before))
    agents.append(Agent(engine, tmp_path))
    agent = agents[0]
    agent.awaits(agent.requests(), Phase.RUNNING)
    assert not list(before.iterdir())
    secret = agent.invitation.client.secret.encode()
    found = [
        path
        for path in agent.home.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode) and secret in path.read_bytes()
    ]
    assert found, "Slurm has it"
    assert not [path for path in found if path.stat().st_mode & 0o077]


def test_a_machine_without_notebook_ext_says_so(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    for python, said in (
        (f"{sys.executable} -I -S", "No module named 'kernel_worker'"),
        ("no-python-there", "no-python-there: command not found"),
    ):
        agents.append(Agent(engine, tmp_path, python=python))
        sight = agents[-1].awaits(agents[-1].requests(), Phase.GONE)
        assert sight.cause is Cause.ENDED
        assert re.sub(r"\W+", " ", said) in re.sub(r"\W+", " ", sight.detail)


def test_each_job_has_locks_of_its_own_for_what_it_calls_its_device_0(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    found = set()
    init = f"{parse(engine.address).worker_init}\nexport CUDA_VISIBLE_DEVICES=0"
    for _ in range(2):
        agents.append(Agent(engine, tmp_path, worker_init=init))
        spec = agents[-1].requests(gpus=1)
        assert agents[-1].awaits(spec, Phase.RUNNING).node == "n1"
        process = wait_until(lambda: process_of(spec), LIMIT_SECONDS, "it runs")  # noqa: B023
        assert process is not None
        assert b"0:H200" in process[0]
        found.add(process[1][b"NOTEBOOK_EXT_DEVICE_LOCKS"])
    assert len(found) == 2
    for agent in agents:
        agent.ends()
    assert not [path for path in found if Path(path.decode()).exists()]


def test_a_controller_that_does_not_answer_is_said_and_what_it_took_by_then_is_found(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    agents.append(Agent(engine, tmp_path))
    agent = agents[0]
    spec, sight = agent.begins()
    controller = int((agent.home / "slurmctld.pid").read_text())
    unheard = HostSpec(f"{agent.prefix}-2", 1, 0, 1, "H200", True)
    os.kill(controller, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectionError, match="not said that it took a job"):
            agent.provider.request(unheard)
        with pytest.raises(ConnectionError, match="no Slurm controller answers"):
            agent.provider.look()
        assert process_of(spec), "the host goes on"
    finally:
        os.kill(controller, signal.SIGCONT)
    wait_until(lambda: unheard.name in agent.provider.look(), LIMIT_SECONDS, "it was taken")
    assert agent.awaits(unheard, Phase.RUNNING).spec == unheard
    assert agent.provider.look()[spec.name] == sight


def process_of(spec: HostSpec) -> tuple[list[bytes], dict[bytes, bytes]] | None:
    """Return the command line and the variables of a host's process."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"--name" in words and spec.name.encode() in words:
                lines = (entry / "environ").read_bytes().split(b"\0")
                return words, dict(line.split(b"=", 1) for line in lines if b"=" in line)
        except OSError:
            continue
    return None


def test_what_slurm_refuses_is_said_in_its_words(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    agents.append(Agent(engine, tmp_path, scheduler_options="--constraint=nobody-has-it"))
    sight = agents[0].awaits(agents[0].requests(), Phase.GONE)
    assert sight.cause is Cause.FAILED
    assert "Invalid feature specification" in sight.detail
    nowhere = Engine(engine.address.replace("//gpu", "//nowhere"), engine.variables)
    with pytest.raises(NotFoundError, match="no partition 'nowhere'"):
        Agent(nowhere, tmp_path)


def test_a_job_that_others_end_is_gone_and_a_machine_that_is_down_is_lost(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    agents.append(Agent(engine, tmp_path))
    spec, _ = agents[0].begins()
    run("scancel", agents[0].job())
    assert agents[0].awaits(spec, Phase.GONE).cause is Cause.ENDED
    agents.append(Agent(engine, tmp_path))
    spec, sight = agents[1].begins()
    run("scontrol", "update", f"NodeName={sight.node}", "State=DOWN", "Reason=test")
    assert agents[1].awaits(spec, Phase.GONE).cause is Cause.LOST
    wait_until(lambda: "down" not in run("sinfo", "-h", "-o%T"), LIMIT_SECONDS, "it is back")


def test_a_host_leaves_by_itself_before_its_time_is_over(
    engine: Engine, tmp_path: Path, agents: list[Agent]
) -> None:
    agents.append(Agent(engine, tmp_path))
    spec, _ = agents[0].begins()
    run("scontrol", "update", f"JobId={agents[0].job()}", "TimeLimit=1")
    sight = agents[0].awaits(spec, Phase.GONE)
    assert sight.detail.startswith("exit code 0"), "it was asked, and has not been killed"
