"""The local host agent: started again when it dies, ended with the broker."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator

import pytest

from kernel_worker.broker.agent import LocalAgent
from kernel_worker.broker.watches import Timers, Watches

SLEEPER = "import sys; sys.stdin.read()"


@pytest.fixture
def watches() -> Iterator[Watches]:
    made = Watches()
    yield made
    made.close()


def agent_that_runs(code: str, watches: Watches, timers: Timers) -> LocalAgent:
    agent = LocalAgent("/nowhere", watches, timers, lambda: 100.0)
    agent._command = [sys.executable, "-c", code]
    return agent


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


def test_the_end_of_its_input_ends_it(watches: Watches) -> None:
    timers = Timers()
    agent = agent_that_runs(SLEEPER, watches, timers)
    agent.start()
    agent.stop()
    assert agent.pid == 0
    assert timers.next_deadline() is None
    agent.stop()
