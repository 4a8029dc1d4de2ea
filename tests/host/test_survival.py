"""A broker dies: which workers live on, what the next one is told of them, and what they do."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel_worker.model import CallContext, LeaseId, StreamLimits
from kernel_worker.wire import messages
from tests.waiting import wait_until
from tests.worker.harness import Broker, Worker, define

GATED = """
import os, time
def f(x, gate, mark=os.devnull):
    with open(mark, 'a') as file:
        file.write(f'{x} ')
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 10 * x
"""
EVERYTHING = 1 << 62


def gated(broker: Broker, **options: object) -> Worker:
    return broker.start_worker(define(GATED), **options)


def returned(broker: Broker, lease: LeaseId) -> messages.Returned:
    found = broker.wait(messages.Returned, lambda m: m.lease == lease)
    return found.message  # type: ignore[no-any-return]


def test_an_idle_worker_dials_the_next_broker_and_goes_on(broker: Broker) -> None:
    fresh, used = gated(broker), gated(broker)
    assert used.call(1, "/") == 10
    for _ in range(2):
        broker.die()
        hello = broker.follow()
        told = {one.worker: one for one in hello.survivors}
        assert told.keys() == {fresh.id, used.id}
        assert (told[fresh.id].pid, told[fresh.id].held) == (fresh.pid, None)
        held = told[used.id].held
        assert held is not None
        assert (held.call, held.start, held.stop, held.index) == ("fc-1", 0, 1, 1)
        assert told[used.id].spec.name == "f"
        broker.back(used)
        assert returned(broker, held.lease).stop == EVERYTHING
        assert used.call(2, "/") == 20


def test_what_runs_is_named_and_its_answers_come_once(broker: Broker, tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    worker = gated(broker)
    items = [(0, "/", str(mark)), (1, str(gate), str(mark)), (2, "/", str(mark))]
    lease = worker.lease(items)
    waiting = worker.lease([(7, "/", str(mark))], call="fc-2")
    wait_until(lambda: mark.exists() and mark.read_text() == "0 1 ", what="the second one runs")
    broker.wait(messages.Done)
    broker.die()
    (survivor,) = broker.follow().survivors
    gate.touch()
    assert survivor.held is not None
    assert (survivor.held.lease, survivor.held.stop, survivor.held.attempt) == (lease, 3, 1)
    assert broker.outcomes(lease, 3) == {0: 0, 1: 10, 2: 20}, "also what had been said before"
    assert returned(broker, lease).start == 0
    assert worker.call(3, "/") == 30
    assert not broker.outcomes_so_far(waiting)
    assert mark.read_text() == "0 1 2 ", "what it had not begun is given to others"


def test_a_lease_that_a_broker_gave_before_it_died_is_not_begun_after_that(
    broker: Broker, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    worker = gated(broker)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.lease([(1, "/", str(mark))])
    broker.die()
    (survivor,) = broker.follow().survivors
    assert survivor.held is None
    os.kill(worker.pid, signal.SIGCONT)
    broker.back(worker)
    assert worker.call(2, "/", str(mark)) == 20
    assert mark.read_text() == "2 "


def test_what_failed_is_said_again_and_what_was_large_is_given_back(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(n):\n    return bytes(n) if n else 1 / 0"))
    lease = worker.lease([(0,), (5,)])
    broker.outcomes(lease, 2)
    broker.die()
    broker.follow()
    broker.back(worker)
    assert isinstance(broker.outcomes(lease, 2)[0], ZeroDivisionError)
    large = worker.lease([(1 << 21,)])
    broker.outcomes(large, 1)
    broker.die()
    broker.follow()
    returned(broker, large)
    assert not broker.outcomes_so_far(large)


def test_a_worker_that_cannot_say_again_what_must_not_run_twice_dies(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(n):\n    return bytes(n)"), rerun_on_crash=False)
    assert len(worker.call(10)) == 10
    broker.die()
    broker.follow()
    broker.back(worker)
    assert len(worker.call(1 << 21)) == 1 << 21
    broker.die()
    broker.follow()
    assert worker.exited().worker == worker.id


def test_what_ended_before_is_no_reason_to_end_what_must_not_run_twice(
    broker: Broker, tmp_path: Path
) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    waits = GATED.replace("10 * x", "bytes(x)")
    worker = broker.start_worker(define(waits), rerun_on_crash=False)
    assert len(worker.call(1 << 21, "/")) == 1 << 21
    lease = worker.lease([(3, str(gate), str(mark))])
    wait_until(mark.exists, what="a small one runs behind a large one")
    broker.die()
    broker.follow()
    broker.back(worker)
    gate.touch()
    assert broker.outcomes(lease, 1) == {0: bytes(3)}
    assert mark.read_text() == "3 "


def _generates(broker: Broker) -> Worker:
    worker = broker.start_worker(define("def f():\n    while True:\n        yield 1"))
    worker.lease([()], streams=StreamLimits(1, 100))
    broker.wait(messages.Yielded)
    return worker


def _runs_several(broker: Broker) -> Worker:
    sleeps = "import time\ndef f():\n    print('in', flush=True)\n    time.sleep(60)"
    worker = broker.start_worker(define(sleeps), max_inputs=2)
    worker.lease([()])
    broker.wait(messages.Output)
    return worker


def _keeps_what_fails(broker: Broker) -> Worker:
    sleeps = "import time\ndef f():\n    print('in', flush=True)\n    time.sleep(60)"
    worker = broker.start_worker(define(sleeps))
    worker.lease([()], context=CallContext(keep_failed_seconds=9.0))
    broker.wait(messages.Output)
    return worker


@pytest.mark.parametrize("begin", [_generates, _runs_several, _keeps_what_fails])
def test_what_no_other_broker_can_go_on_with_ends(
    broker: Broker, begin: Callable[[Broker], Worker]
) -> None:
    other = gated(broker)
    worker = begin(broker)
    broker.die()
    assert [one.worker for one in broker.follow().survivors] == [other.id]
    assert "its broker died" in worker.exited().cause


def test_workers_of_several_inputs_live_on_where_they_are_idle(broker: Broker) -> None:
    source = "def f(x):\n    return x if isinstance(x, int) else [2 * each for each in x]"
    together = broker.start_worker(define(source), max_inputs=2)
    grouped = broker.start_worker(define(source), max_batch_size=2)
    assert together.call(1) == 1
    broker.die()
    told = {one.worker: one.held for one in broker.follow().survivors}
    assert told == {together.id: None, grouped.id: None}
    for worker in (together, grouped):
        broker.back(worker)
    assert together.call(3) == 3
    lease = grouped.lease([(4,)], group=1, group_size=1)
    assert broker.outcomes(lease, 1) == {0: 8}


def test_a_group_of_which_a_part_has_come_ends_its_worker(broker: Broker) -> None:
    gated(broker)  # somebody for whom the host agent lives on
    worker = broker.start_worker(define("def f(x):\n    return x"), max_batch_size=2)
    worker.lease([(1,)], group=1, group_size=2)
    wait_until(lambda: _reads_nothing(worker), what="it is in its hands")
    broker.die()
    broker.follow()
    assert worker.exited().worker == worker.id


def _reads_nothing(worker: Worker) -> bool:
    """Return whether the worker has taken in what was sent to it: its answer shows that."""
    lease = worker.lease([(2,)], group=2, group_size=1)
    return bool(worker.broker.outcomes(lease, 1))


def test_who_looks_at_an_input_has_left_with_the_broker(broker: Broker) -> None:
    worker = broker.start_worker(define("def f():\n    breakpoint()\n    return 5"))
    lease = worker.lease([()])
    broker.wait(messages.ConsoleOffered)
    broker.die()
    broker.follow()
    assert broker.outcomes(lease, 1) == {0: 5}


def test_a_worker_that_is_being_made_says_hello_when_it_is_ready(broker: Broker) -> None:
    worker, _ = broker.ask_worker(define("def f():\n    return 6"))
    broker.wait(messages.WorkerStarted)
    broker.die()
    (survivor,) = broker.follow().survivors
    assert survivor.held is None
    broker.back(worker)
    assert worker.call() == 6


@pytest.mark.parametrize("with_worker", [True, False])
def test_an_agent_that_finds_no_broker_ends_with_its_workers(with_worker: bool) -> None:
    grace = {"NOTEBOOK_EXT_BROKER_GRACE_SECONDS": "0.5" if with_worker else "1000"}
    directory = tempfile.TemporaryDirectory(prefix="nbx-b-", dir="/tmp")
    with directory as path, Broker(Path(path), **grace) as broker:
        worker = gated(broker) if with_worker else None
        broker.die()
        assert broker.agent.wait(20) == 0
        assert worker is None or not Path(f"/proc/{worker.pid}").exists()


def test_without_grace_everything_ends_with_the_broker() -> None:
    directory = tempfile.TemporaryDirectory(prefix="nbx-b-", dir="/tmp")
    with directory as path, Broker(Path(path), NOTEBOOK_EXT_BROKER_GRACE_SECONDS="0") as broker:
        gated(broker)
        broker.die()
        assert broker.agent.wait(20) == 0


def test_a_broker_that_dies_before_it_has_answered_is_followed_by_another(broker: Broker) -> None:
    worker = gated(broker)
    broker.die()
    broker._bind()
    broker.wait(messages.Hello, lambda m: m.role == "host")
    broker.die()
    assert [one.worker for one in broker.follow().survivors] == [worker.id]
    broker.back(worker)
    assert worker.call(4, "/") == 40
