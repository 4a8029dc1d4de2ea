"""An input stops at a breakpoint, or is kept when it failed, and somebody far away looks at it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kernel_worker.model import CallContext, LeaseId, Outcome, RetryPolicy
from kernel_worker.wire import messages
from tests.worker.harness import Broker, Worker, define

STOPS = """
def f(x):
    y = x + 1
    breakpoint()
    return y * 2
"""
FAILS = """
def f(x):
    kept = [x]
    return inner(kept)
def inner(values):
    at = values[0] + 1
    return values[at]
"""


class Typist:
    """Who has taken the console of a worker."""

    def __init__(self, broker: Broker, worker: Worker) -> None:
        self.broker = broker
        self.worker = worker
        self.said = 0

    def tell(self, what: Any, text: str = "") -> None:
        self.worker.tell_host(messages.ConsoleInput(self.worker.id, what, text))

    def count(self, kind: type) -> int:
        return sum(isinstance(each.message, kind) for each in self.broker.received)

    def shown(self) -> str:
        """Return what the console shows next, with its prompt."""
        self.said += 1

        def is_next(_: object) -> bool:
            return self.count(messages.ConsoleSaid) >= self.said

        self.broker.wait(messages.ConsoleSaid, is_next)
        found = [e for e in self.broker.received if isinstance(e.message, messages.ConsoleSaid)]
        return found[self.said - 1].frames[0].decode()

    def type(self, line: str) -> str:
        self.tell("line", line)
        return self.shown()


def offered(broker: Broker, worker: Worker, kind: str) -> Typist:
    said = broker.wait(messages.ConsoleOffered).message
    assert (said.call, said.index, said.kind, said.worker) == ("fc-1", 0, kind, worker.id)
    return Typist(broker, worker)


def keeping(seconds: float) -> CallContext:
    return CallContext(keep_failed_seconds=seconds)


def test_a_breakpoint_is_looked_at_line_by_line_and_goes_on(broker: Broker) -> None:
    worker = broker.start_worker(define(STOPS))
    lease = worker.lease([(1,)])
    typist = offered(broker, worker, "breakpoint")
    typist.tell("open")
    assert typist.shown().endswith("-> return y * 2\n(Pdb) ")
    assert typist.type("p x, y") == "(1, 2)\n(Pdb) "
    assert typist.type("locals") == "x = 1\ny = 2\n(Pdb) "
    assert typist.type("locals()").startswith("{'x': 1")
    where = typist.type("w")
    assert where.count("\n> ") + where.startswith("> ") == 1
    assert "kernel_worker" not in where, "no frames of ours"
    assert typist.type("y = 5") == "(Pdb) "
    typist.tell("line", "c")
    assert broker.outcomes(lease, 1) == {0: 10}
    assert typist.count(messages.ConsoleClosed) == 1
    assert worker.lease([(1,)])
    broker.wait(messages.ConsoleOffered, lambda _: typist.count(messages.ConsoleOffered) == 2)
    typist.tell("refused", "nobody is there")
    broker.wait(messages.Done, lambda _: typist.count(messages.Done) == 2)
    assert "breakpoint() in f goes on: nobody is there" in worker.output()


def test_stepping_out_of_the_input_ends_the_console_and_traces_nothing_of_ours(
    broker: Broker,
) -> None:
    worker = broker.start_worker(define(STOPS))
    lease = worker.lease([(1,), (2,)])
    typist = offered(broker, worker, "breakpoint")
    typist.tell("open")
    typist.shown()
    assert "--Return--" in typist.type("n")
    typist.tell("line", "n")
    broker.wait(messages.ConsoleOffered, lambda _: typist.count(messages.ConsoleOffered) == 2)
    typist.tell("hangup")
    assert broker.outcomes(lease, 2) == {0: 4, 1: 6}


def test_quitting_ends_the_input(broker: Broker) -> None:
    worker = broker.start_worker(define(STOPS))
    lease = worker.lease([(1,)])
    typist = offered(broker, worker, "breakpoint")
    typist.tell("open")
    typist.shown()
    typist.tell("line", "q")
    assert type(broker.outcomes(lease, 1)[0]).__name__ == "BdbQuit"


def test_time_stands_still_at_a_breakpoint(broker: Broker) -> None:
    worker = broker.start_worker(define(STOPS), timeout_seconds=0.5)
    lease = worker.lease([(1,)])
    typist = offered(broker, worker, "breakpoint")
    typist.tell("open")
    typist.shown()
    assert not threading.Event().wait(1.5), "longer than the input may run"
    typist.tell("line", "c")
    assert broker.outcomes(lease, 1) == {0: 4}


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_cancellation_ends_the_wait(broker: Broker, is_taken: bool) -> None:
    worker = broker.start_worker(define(STOPS))
    lease = worker.lease([(1,)])
    typist = offered(broker, worker, "breakpoint")
    if is_taken:
        typist.tell("open")
        typist.shown()
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}
    assert worker.pid
    second = worker.lease([(1,)], call="fc-2")
    broker.wait(messages.ConsoleOffered, lambda m: m.call == "fc-2")
    typist.tell("refused", "it lives")
    assert broker.outcomes(second, 1) == {0: 4}


def test_where_inputs_run_at_once_it_goes_on(broker: Broker) -> None:
    worker = broker.start_worker(define(STOPS), max_inputs=2)
    assert broker.outcomes(worker.lease([(1,)]), 1) == {0: 4}
    assert "goes on: it works where a worker runs one input at a time" in worker.output()


def parked(broker: Broker, lease: LeaseId) -> messages.InputEnded:
    found: messages.InputEnded = broker.wait(
        messages.InputEnded, lambda m: m.lease == lease
    ).message
    return found


def test_what_failed_is_kept_and_looked_at_and_released_by_quitting(broker: Broker) -> None:
    worker = broker.start_worker(define(FAILS))
    lease = worker.lease([(4,)], context=keeping(60))
    typist = offered(broker, worker, "failure")
    assert parked(broker, lease).parks
    typist.tell("open")
    assert typist.shown().endswith("-> return values[at]\n(Pdb) ")
    assert typist.type("p values, at") == "([4], 5)\n(Pdb) "
    assert "-> return inner(kept)" in typist.type("u")
    assert typist.type("locals") == "x = 4\nkept = [4]\n(Pdb) "
    assert "Oldest frame" in typist.type("u")
    assert "Newest frame" in typist.type("d") + typist.type("d")
    typist.tell("hangup")  # who looked has gone, without quitting
    typist.tell("open")
    assert typist.shown().endswith("(Pdb) ")
    typist.tell("line", "q")
    broker.wait(messages.InputLeft, lambda m: m.lease == lease)
    following = worker.lease([(-1,)])
    assert broker.outcomes(following, 1) == {0: -1}


@pytest.mark.parametrize("end", ["time", "release", "stop"])
def test_frames_are_kept_for_a_limited_time(broker: Broker, end: str) -> None:
    worker = broker.start_worker(define(FAILS))
    lease = worker.lease([(4,)], context=keeping(0.3 if end == "time" else 600))
    assert parked(broker, lease).parks
    if end == "release":
        Typist(broker, worker).tell("release")
    if end == "stop":
        worker.tell_host(messages.StopWorker(worker.id, 20.0))
    broker.wait(messages.InputLeft, lambda m: m.lease == lease)
    if end == "stop":
        assert worker.exited().cause == "stopped"
    else:
        assert broker.outcomes(worker.lease([(-1,)]), 1) == {0: -1}


def test_nothing_is_kept_where_nobody_asked_or_it_is_tried_again(broker: Broker) -> None:
    worker = broker.start_worker(define(FAILS))
    assert not parked(broker, worker.lease([(4,)])).parks
    again = broker.start_worker(define(FAILS), retries=RetryPolicy(1, 1.0, 0.0))
    assert not parked(broker, again.lease([(4,)], context=keeping(60))).parks
