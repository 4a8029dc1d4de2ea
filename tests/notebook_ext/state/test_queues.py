"""A `Queue` hands each item to one who asks, in order; who waits is woken, and costs no place."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker import shelf
from notebook_ext import process
from notebook_ext.exception import (
    DeserializationError,
    FunctionTimeoutError,
    InvalidError,
    RequestSizeError,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared(live: nb.App) -> Iterator[nb.Queue]:
    assert live.name
    with nb.Queue.ephemeral() as made:
        yield made


@pytest.fixture
def empty(shared: nb.Queue) -> nb.Queue:
    shared.clear(all=True)
    return shared


def test_in_order(empty: nb.Queue) -> None:
    empty.put("a")
    empty.put_many(["b", "c", "d"])
    empty.put_many([])
    assert (empty.len(), len(empty)) == (4, 4)
    assert list(empty.iterate()) == ["a", "b", "c", "d"]
    assert (empty.get(), empty.get_many(2), empty.get_many(9)) == ("a", ["b", "c"], ["d"])
    assert empty.get_many(1, block=False) == []
    with pytest.raises(queue.Empty):
        empty.get(block=False)
    began = time.monotonic()
    for take in (empty.get, lambda **how: empty.get_many(2, **how)):
        with pytest.raises(queue.Empty):
            take(timeout=0.1)
    assert time.monotonic() - began >= 0.2
    assert empty, "a handle is true"


def test_partitions_are_queues_of_their_own(empty: nb.Queue) -> None:
    empty.put(0)
    empty.put(1, partition="p", partition_ttl=60)
    empty.put_many([2, 3], partition="ü")
    assert (empty.len(partition="ü"), empty.len(total=True)) == (2, 4)
    assert (empty.get(partition="ü"), empty.get(partition="p")) == (2, 1)
    empty.clear(partition="ü")
    assert (empty.len(partition="ü"), empty.get()) == (0, 0)


class Unreadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_one_that_cannot_be_unpickled_takes_no_others_along(empty: nb.Queue) -> None:
    empty.put_many([1, Unreadable(), 3])
    with pytest.raises(DeserializationError, match="no number") as caught:
        empty.get_many(3)
    found: Any = caught.value
    assert (found.items, empty.len()) == ([1, 3], 0)
    assert found.__notes__ == ["2 more were taken with it: they are `items` of this error"]


@pytest.mark.parametrize("name", ["", "p" * 65, "\ud800", 5, b"p"])
def test_what_is_no_name_of_a_partition(empty: nb.Queue, name: Any) -> None:
    with pytest.raises(InvalidError, match="allowed is a str of 1 to 64 bytes"):
        empty.put(1, partition=name)


def test_a_full_queue_is_waited_for_or_refused(empty: nb.Queue) -> None:
    whole = shelf.ACT_FRAMES
    for _ in range(shelf.PARTITION_ITEMS // whole):
        empty.put_many([None] * whole)
    with pytest.raises(queue.Full, match="may hold 100,000 items in a partition"):
        empty.put(1, block=False)
    with pytest.raises(queue.Full):
        empty.put(1, timeout=0.05)
    late = threading.Thread(target=empty.put, args=("late",))
    late.start()
    empty.get()
    late.join()
    assert empty.len() == shelf.PARTITION_ITEMS
    late = threading.Thread(target=empty.put, args=("later",))
    late.start()
    wait_until(lambda: parked() == 1)
    empty.clear()
    late.join()
    assert empty.get() == "later"
    with pytest.raises(RequestSizeError, match="20,001 items in one put_many"):
        empty.put_many(range(whole + 1))


def test_too_many_bytes_at_once(empty: nb.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "ACT_BYTES", 10)
    with pytest.raises(RequestSizeError, match="Put them in parts"):
        empty.put_many(["aaaa", "bbbb"])


def test_who_waited_first_gets_the_next_item(empty: nb.Queue) -> None:
    got: list[tuple[int, object]] = []

    def take(number: int) -> None:
        got.append((number, empty.get()))

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        wait_until(lambda: parked() == number + 1)  # noqa: B023  called here
    for item in "abc":
        empty.put(item)
    for thread in threads:
        thread.join()
    assert sorted(got) == [(0, "a"), (1, "b"), (2, "c")]


def parked() -> int:
    """Return how many requests of this process wait at the broker."""
    shelving = process.current()._conversation.shelving()
    return sum(each.is_parked for each in list(shelving._open.values()))


def test_what_is_given_up_takes_nothing(empty: nb.Queue, loop: asyncio.Runner) -> None:
    async def give_up() -> object:
        waits = asyncio.create_task(empty.get.aio())
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await empty.put.aio("kept")
        return await empty.get.aio()

    assert loop.run(give_up()) == "kept"


def test_iterating_waits_for_what_comes(empty: nb.Queue, loop: asyncio.Runner) -> None:
    empty.put(1)
    found = iter(empty.iterate(item_poll_timeout=0.3))
    assert next(found) == 1
    empty.put(2)
    assert list(found) == [2]

    async def both() -> list[object]:
        return [item async for item in empty.iterate.aio(item_poll_timeout=0.01)]

    assert loop.run(both()) == [1, 2]


def test_functions_that_wait_leave_their_place_to_others(live: nb.App, empty: nb.Queue) -> None:
    @live.function(max_containers=1)
    def either(item: int) -> int:
        if item:
            empty.put(item)
            return 0
        return int(empty.get())

    waiting = [either.spawn(0) for _ in range(3)]
    wait_until(lambda: states().count("blocked") == 3)
    for item in (1, 2, 3):
        assert either.remote(item) == 0
    assert sorted(call.get() for call in waiting) == [1, 2, 3]


def states() -> list[str]:
    return [worker.state for worker in process.current().status().join().workers]


def test_what_a_function_waits_for_is_not_lost_with_it(live: nb.App, empty: nb.Queue) -> None:
    @live.function(timeout=0.5, startup_timeout=60)
    def late() -> object:
        return empty.get()

    with pytest.raises(FunctionTimeoutError):
        late.remote()
    empty.put("still there")
    assert empty.get(timeout=10) == "still there"
