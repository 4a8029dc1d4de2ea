"""Items go out as they are made, no further ahead than the reader allows, and leaving closes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kernel_worker.errors import RequestSizeError, SerializationError
from kernel_worker.model import CallId, LeaseId, NoValue, Outcome, StreamLimits
from kernel_worker.wire import messages, payload
from tests.worker.harness import Broker, Worker, define

FREE = StreamLimits(1_000_000, 1 << 30)
FOUR = StreamLimits(4, 1 << 20)

COUNTS = {
    "sync": """
        def f(n, last=None):
            print("in", flush=True)
            try:
                for i in range(n):
                    yield i
                if last:
                    raise ValueError(last)
            except BaseException as error:
                print("left by", type(error).__name__, flush=True)
                raise
    """,
    "async": """
        import asyncio
        async def f(n, last=None):
            print("in", flush=True)
            try:
                for i in range(n):
                    await asyncio.sleep(0)
                    yield i
                if last:
                    raise ValueError(last)
            except BaseException as error:
                print("left by", type(error).__name__, flush=True)
                raise
    """,
}
SLEEPS = {
    "sync": "import time\ndef f():\n    try:\n        print('in', flush=True)\n"
    "        yield 1\n        time.sleep(60)\n        yield 2\n"
    "    finally:\n        print('closed', flush=True)\n",
    "async": "import asyncio\nasync def f():\n    try:\n        print('in', flush=True)\n"
    "        yield 1\n        await asyncio.sleep(60)\n        yield 2\n"
    "    finally:\n        await asyncio.sleep(0.01)\n        print('closed', flush=True)\n",
}


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def given(broker: Broker, lease: LeaseId) -> list[object]:
    """Return the items that have come, in their order."""
    items: list[object] = []
    for each in broker.received:
        if isinstance(each.message, messages.Yielded) and each.message.lease == lease:
            assert each.message.start == len(items)
            reader = payload.BatchReader(each.frames)
            items += [reader[at] for at in range(each.message.count)]
    return items


def bytes_of(broker: Broker, lease: LeaseId) -> int:
    return sum(
        len(frame)
        for each in broker.received
        if isinstance(each.message, messages.Yielded) and each.message.lease == lease
        for frame in each.frames
    )


def until_given(broker: Broker, lease: LeaseId, count: int) -> list[object]:
    broker.wait(messages.Yielded, lambda _: len(given(broker, lease)) >= count)
    return given(broker, lease)


def until_paused(broker: Broker, lease: LeaseId, taken: int) -> messages.Paused:
    found = broker.wait(messages.Paused, lambda m: (m.lease, m.taken) == (lease, taken))
    return found.message  # type: ignore[no-any-return]


def credit(worker: Worker, lease: LeaseId, items: int, item_bytes: int = 0) -> None:
    message = messages.Credit(CallId("fc-1"), 0, items, item_bytes, lease)
    worker.broker.send(worker.id, message)


def stream(worker: Worker, *arguments: Any, limits: StreamLimits = FREE) -> LeaseId:
    return worker.lease([arguments], streams=limits)


def test_items_come_in_order_before_the_outcome(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(COUNTS[kind]))
    lease = stream(worker, 5_000)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert given(broker, lease) == list(range(5_000))
    batches = [m for m in broker.received if isinstance(m.message, messages.Yielded)]
    assert batches[0].message.count == 1
    assert len(batches) < 500
    assert broker.outcomes(stream(worker, 0), 1) == {0: NoValue.ITEMS_GIVEN}


def test_an_exception_comes_behind_the_items(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(COUNTS[kind]))
    lease = stream(worker, 3, "the end")
    (error,) = broker.outcomes(lease, 1).values()
    assert (type(error), str(error)) == (ValueError, "the end")
    assert given(broker, lease) == [0, 1, 2]


def test_a_generator_waits_for_its_reader(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(COUNTS[kind]))
    lease = stream(worker, 20, limits=FOUR)
    until_paused(broker, lease, 0)
    assert given(broker, lease) == [0, 1, 2, 3]
    credit(worker, LeaseId(lease + 100), 20)  # another one's
    credit(worker, lease, 3)
    until_paused(broker, lease, 3)
    assert given(broker, lease) == list(range(7))
    credit(worker, lease, 20)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert given(broker, lease) == list(range(20))
    credit(worker, lease, 20)
    assert broker.outcomes(stream(worker, 2), 1) == {0: NoValue.ITEMS_GIVEN}


def test_large_items_are_limited_by_their_bytes(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(n):\n    for i in range(n): yield bytes(400_000)"))
    lease = stream(worker, 5, limits=StreamLimits(100, 1_000_000))
    until_paused(broker, lease, 0)
    assert len(given(broker, lease)) == 3
    credit(worker, lease, 3, bytes_of(broker, lease))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert len(given(broker, lease)) == 5


def test_what_is_asked_of_it_while_it_waits_is_served_afterwards(broker: Broker) -> None:
    worker = broker.start_worker(define(COUNTS["sync"]))
    lease = stream(worker, 5, limits=FOUR)
    until_paused(broker, lease, 0)
    behind = stream(worker, 2)
    worker.tell_host(messages.StopWorker(worker.id))
    credit(worker, lease, 5)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert broker.outcomes(behind, 1) == {0: NoValue.ITEMS_GIVEN}
    assert worker.exited().cause == "stopped"


@pytest.mark.clock
def test_the_time_that_it_waits_does_not_count_as_running(broker: Broker) -> None:
    worker = broker.start_worker(define(COUNTS["sync"]), timeout_seconds=0.5)
    lease = stream(worker, 6, limits=FOUR)
    paused = until_paused(broker, lease, 0)
    end = time.monotonic() + 1.5  # a limit is looked at no less often than it is long
    while time.monotonic() < end:
        broker.pump(end - time.monotonic())
    assert broker.outcomes_so_far(paused.lease) == {}
    credit(worker, lease, 6)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    done = broker.wait(messages.Done, lambda m: m.lease == lease).message
    assert done.elapsed_seconds < 1


def test_its_running_time_does_count(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(SLEEPS[kind]), timeout_seconds=0.5)
    lease = stream(worker)
    assert broker.outcomes(lease, 1) == {0: Outcome.TIMED_OUT}
    assert given(broker, lease) == [1]
    assert "closed" in worker.output()


def test_a_cancel_between_two_items_closes_it_at_its_yield(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(COUNTS[kind]))
    lease = stream(worker, 100, limits=FOUR)
    until_paused(broker, lease, 0)
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}
    assert "left by GeneratorExit" in worker.output()
    assert broker.outcomes(stream(worker, 2), 1) == {0: NoValue.ITEMS_GIVEN}


def test_a_cancel_of_a_busy_one_closes_it(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(COUNTS[kind]))
    lease = stream(worker, 10**9)
    until_given(broker, lease, 1_000)
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}
    assert "left by" in worker.output()
    assert broker.outcomes(stream(worker, 2), 1) == {0: NoValue.ITEMS_GIVEN}


def test_a_cancel_in_its_code_is_raised_there(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(SLEEPS[kind]))
    lease = stream(worker)
    until_given(broker, lease, 1)
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}
    assert "closed" in worker.output()
    assert given(broker, lease) == [1]


@pytest.mark.parametrize("item", ["i", "[i]"], ids=["plain", "pickled"])
def test_what_was_made_does_not_wait_for_what_takes_long(broker: Broker, item: str) -> None:
    worker = broker.start_worker(
        define(f"""
        import time
        def f():
            for i in range(10):
                yield {item}
            time.sleep(60)
        """)
    )
    lease = stream(worker)
    assert len(until_given(broker, lease, 10)) == 10
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}


def test_an_item_that_cannot_be_pickled_ends_it_behind_the_others(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import threading
        def f():
            try:
                yield [1]
                yield {"a": threading.Lock()}
                yield 3
            finally:
                print("closed", flush=True)
        """)
    )
    lease = stream(worker)
    (error,) = broker.outcomes(lease, 1).values()
    assert isinstance(error, SerializationError)
    assert given(broker, lease) == [[1]]
    assert "closed" in worker.output()


def test_no_more_is_given_than_is_kept_of_one(broker: Broker) -> None:
    worker = broker.start_worker(define("def f():\n    while True: yield bytes(100_000)"))
    lease = stream(worker, limits=StreamLimits(1_000_000, 1 << 30, 1 << 20))
    (error,) = broker.outcomes(lease, 1).values()
    assert isinstance(error, RequestSizeError)
    assert "more than the 1 MiB" in str(error)
    assert 10 <= len(given(broker, lease)) < 20


def test_a_function_may_return_an_iterator(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(n):\n    return iter(range(n))"))
    lease = stream(worker, 3)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert given(broker, lease) == [0, 1, 2]


def test_output_comes_before_the_items_that_were_made_after_it(broker: Broker) -> None:
    worker = broker.start_worker(
        define("def f():\n    print('first')\n    yield 1\n    print('second')")
    )
    lease = stream(worker)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    kinds = [
        type(each.message).__name__
        for each in broker.received
        if isinstance(each.message, messages.Output | messages.Yielded | messages.Done)
    ]
    assert kinds == ["Output", "Yielded", "Output", "Done"]
