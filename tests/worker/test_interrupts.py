"""Cancellations and timeouts hit exactly the input that is meant, in milliseconds."""

from __future__ import annotations

import time

import pytest

from kernel_worker.model import Outcome
from kernel_worker.wire import messages
from tests.worker.harness import Broker, Worker, define

WAYS = {
    "sleep": "time.sleep(60)",
    "loop": "while True: pass",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "event": "threading.Event().wait()",
    "queue": "queue.Queue().get()",
    "child": "subprocess.run(['sleep', '60'])",
}


def interrupt(worker: Worker, lease: int, index: int) -> float:
    """Ask for it; return when."""
    worker.tell_host(messages.Interrupt(worker.id, lease, index))  # type: ignore[arg-type]
    return time.monotonic()


@pytest.mark.clock
@pytest.mark.parametrize("way", WAYS)
def test_what_blocks_is_interrupted_and_the_worker_goes_on(broker: Broker, way: str) -> None:
    worker = broker.start_worker(
        define(f"""
        import queue, subprocess, threading, time
        def f(x):
            if x:
                print("in", flush=True)
                {WAYS[way]}
            return x
        """)
    )
    lease = worker.lease([(0,), (1,), (0,)])
    broker.wait(messages.Output)
    asked = interrupt(worker, lease, 1)
    assert broker.outcomes(lease, 3) == {0: 0, 1: Outcome.CANCELLED, 2: 0}
    ended = broker.wait(messages.InputEnded)
    assert ended.at - asked < 2
    assert worker.call(0) == 0


def test_finally_blocks_run_and_see_the_cancellation(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            try:
                print("in", flush=True)
                time.sleep(60)
            except BaseException as error:
                print("cleaning up after", type(error).__name__)
                raise
        """)
    )
    lease = worker.lease([()])
    broker.wait(messages.Output)
    interrupt(worker, lease, 0)
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}
    assert "cleaning up after InputCancellation" in worker.output()


def test_an_input_that_has_not_started_never_starts(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(x):
            print("ran", x)
            time.sleep(x)
            return x
        """)
    )
    lease = worker.lease([(0.5,), (0,), (0,)])
    waiting = worker.lease([(0,), (0,)], call="fc-2")
    broker.wait(messages.Output)
    interrupt(worker, lease, 1)
    interrupt(worker, waiting, 1)
    assert broker.outcomes(lease, 3) == {0: 0.5, 1: Outcome.CANCELLED, 2: 0}
    assert broker.outcomes(waiting, 2) == {0: 0, 1: Outcome.CANCELLED}
    assert worker.output().count("ran") == 3


def test_an_interrupt_that_comes_late_hits_nobody(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(x):\n    return x\n"))
    lease = worker.lease([(1,)])
    broker.outcomes(lease, 1)
    interrupt(worker, lease, 0)
    assert all(worker.call(i) == i for i in range(50))


def test_interrupts_of_quick_inputs_hit_the_named_one_or_nobody(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(x):\n    return x\n"))
    for index in (0, 500, 1999, 2500, 2999):
        lease = worker.lease([(i,) for i in range(3000)])
        interrupt(worker, lease, index)
        outcomes = broker.outcomes(lease, 3000)
        hit = {k for k, v in outcomes.items() if v is Outcome.CANCELLED and k}
        assert hit <= {index}
        assert all(v == k for k, v in outcomes.items() if k not in hit | {0})


def test_an_async_function_sees_cancelled_error(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import asyncio
        async def f(x):
            if x:
                print("in", flush=True)
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    print("cancelled")
                    raise
            return x
        """)
    )
    lease = worker.lease([(0,), (1,), (0,)])
    broker.wait(messages.Output)
    interrupt(worker, lease, 1)
    assert broker.outcomes(lease, 3) == {0: 0, 1: Outcome.CANCELLED, 2: 0}
    assert "cancelled" in worker.output()


def test_a_builtin_is_interrupted(broker: Broker) -> None:
    worker = broker.start_worker(time.sleep)
    lease = worker.lease([(60,)])
    time_out = time.monotonic() + 10
    while time.monotonic() < time_out and not broker.outcomes_so_far(lease):
        interrupt(worker, lease, 0)
        broker.pump(0.2)
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}


def test_what_ignores_its_cancellation_is_killed_after_the_grace(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            print("in", flush=True)
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
        """)
    )
    lease = worker.lease([()])
    broker.wait(messages.Output)
    worker.tell_host(messages.Interrupt(worker.id, lease, 0, grace_seconds=0.3))
    exited = worker.exited()
    assert (exited.lease, exited.position, exited.timed_out) == (lease, 0, False)
    assert "cancelled" in exited.cause


@pytest.mark.clock
def test_an_input_over_its_timeout_is_interrupted(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(x):
            try:
                time.sleep(x)
            except Exception as error:
                print(type(error).__name__, error)
                raise
            return x
        """),
        timeout_seconds=0.5,
    )
    lease = worker.lease([(0,), (60,), (0.1,)])
    assert broker.outcomes(lease, 3) == {0: 0, 1: Outcome.TIMED_OUT, 2: 0.1}
    ended = broker.wait(messages.InputEnded).message
    assert 0.4 < ended.elapsed_seconds < 5
    assert "FunctionTimeoutError f ran longer than its timeout of 0.5 s" in worker.output()


def test_a_function_that_swallows_its_timeout_has_timed_out(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            try:
                time.sleep(60)
            except Exception:
                pass
            return "late"
        """),
        timeout_seconds=0.3,
    )
    assert broker.outcomes(worker.lease([()]), 1) == {0: Outcome.TIMED_OUT}


def test_behind_quick_inputs_each_slow_one_has_all_of_its_time(broker: Broker) -> None:
    worker = broker.start_worker(
        define("import time\ndef f(x):\n    return time.sleep(x) if x else None\n"),
        timeout_seconds=0.5,
    )
    durations = [0.0] * 500 + [0.48] + [0.3] * 4
    lease = worker.lease([(each,) for each in durations])
    assert set(broker.outcomes(lease, len(durations)).values()) == {None}


def test_an_idle_worker_has_no_timeout(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(x):\n    return x\n"), timeout_seconds=0.2)
    assert worker.call(1) == 1
    broker.pump(0.7)
    assert worker.call(2) == 2
    assert not any(isinstance(r.message, messages.WorkerExited) for r in broker.received)
