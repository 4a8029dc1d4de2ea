"""The local host agent: started again when it dies, ended with the broker."""

from __future__ import annotations

import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker.broker.agent import LocalAgent, begin_early, end
from kernel_worker.broker.watches import Timers, Watches

SLEEPER = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"


@pytest.fixture
def watches() -> Iterator[Watches]:
    made = Watches()
    yield made
    made.close()


def agent_that_runs(code: str, watches: Watches, timers: Timers) -> LocalAgent:
    agent = LocalAgent("/nowhere", watches, timers, lambda: 100.0)
    agent._command = [sys.executable, "-c", code]
    return agent


def test_an_agent_may_open_as_many_files_as_who_started_the_broker(watches: Watches) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = before[0] // 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, before[1]))
    try:
        agent = agent_that_runs(SLEEPER, watches, Timers())
        resource.setrlimit(resource.RLIMIT_NOFILE, before)  # as the broker does for itself
        agent.start()
        assert resource.prlimit(agent.pid, resource.RLIMIT_NOFILE) == (lower, before[1])
        agent.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_agent_that_dies_young_is_started_again_later_each_time(watches: Watches) -> None:
    timers = Timers()
    agent = agent_that_runs("raise SystemExit(3)", watches, timers)
    pauses: list[float] = []
    agent.start()
    for _ in range(3):
        assert select.select([watches], [], [], 20)[0]
        watches.dispatch()
        assert agent.pid == 0
        due = timers.next_deadline()
        assert due is not None
        pauses.append(due - 100.0)
        timers.run(due)
        assert agent.pid
    assert pauses == pytest.approx([0.1, 0.2, 0.4])
    agent.stop()


def test_it_ends_with_the_broker(watches: Watches) -> None:
    timers = Timers()
    agent = agent_that_runs(SLEEPER, watches, timers)
    agent.start()
    agent.stop()
    assert agent.pid == 0
    assert timers.next_deadline() is None
    agent.stop()


LOCKED = """
import signal, sys
from kernel_worker import rendezvous
assert rendezvous.claim_agent(sys.argv[1])
print(1, flush=True)
signal.pause()
"""


def test_one_that_has_outlived_another_broker_is_watched_and_ended_like_its_own(
    watches: Watches, tmp_path: Path
) -> None:
    connection, timers = str(tmp_path / "connection.json"), Timers()
    command = [sys.executable, "-c", LOCKED, connection]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as there:
        assert there.stdout is not None
        there.stdout.readline()
        agent = LocalAgent(connection, watches, timers, lambda: 100.0)
        agent._command = [sys.executable, "-c", SLEEPER]
        agent.start()
        assert agent.pid == there.pid
        there.kill()
        there.wait()
        assert select.select([watches], [], [], 20)[0]
        watches.dispatch()
        assert agent.pid == 0
        assert timers.next_deadline() == pytest.approx(100.1)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as there:
        assert there.stdout is not None
        there.stdout.readline()
        timers.run(101.0)
        assert agent.pid == there.pid
        agent.stop()
        assert there.wait(20) == -signal.SIGTERM


WAITS = "import sys; sys.exit(7 if sys.stdin.buffer.read() else 0)"


def early(code: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def test_one_that_was_started_early_is_told_and_is_the_first(watches: Watches) -> None:
    timers, begun = Timers(), early(WAITS)
    agent = LocalAgent("/nowhere", watches, timers, lambda: 100.0, early=begun)
    agent._command = [sys.executable, "-c", SLEEPER]
    agent.start()
    assert agent.pid == begun.pid
    assert select.select([watches], [], [], 20)[0]
    watches.dispatch()
    assert begun.returncode == 7, "it was told"
    due = timers.next_deadline()
    assert due is not None
    timers.run(due)
    assert agent.pid not in {0, begun.pid}
    agent.stop()


def test_one_that_was_started_early_and_has_died_is_started_again(watches: Watches) -> None:
    timers, begun = Timers(), early("")
    begun.wait()
    agent = LocalAgent("/nowhere", watches, timers, lambda: 100.0, early=begun)
    agent.start()
    assert agent.pid == 0
    assert timers.next_deadline() == pytest.approx(100.1)
    agent.stop()


def test_one_that_was_started_early_ends_where_another_lives(
    watches: Watches, tmp_path: Path
) -> None:
    connection = str(tmp_path / "connection.json")
    begun = early(WAITS)
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, connection], stdout=subprocess.PIPE
    ) as there:
        assert there.stdout is not None
        there.stdout.readline()
        assert begin_early(connection) is None
        agent = LocalAgent(connection, watches, Timers(), lambda: 100.0, early=begun)
        agent.start()
        assert (agent.pid, begun.returncode) == (there.pid, -signal.SIGKILL)
        agent.stop()


def test_one_that_was_started_early_ends_with_a_broker_that_never_was(tmp_path: Path) -> None:
    begun = begin_early(str(tmp_path / "connection.json"))
    assert begun is not None
    assert begun.stdin is not None
    begun.stdin.close()
    assert begun.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_end_when_it_is_asked_is_killed() -> None:
    command = [sys.executable, "-c", f"{DEAF}; signal.pause()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not end(process.pid, 0.2)
        assert process.wait(20) == -signal.SIGKILL
    assert end(process.pid, 0.2)
