from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kernel_worker.errors import InvalidError, RequestSizeError, SerializationError
from kernel_worker.wire import frames, payload
from notebook_ext import feed as rooms
from notebook_ext.feed import Feed, Gate, check_sources, length_of
from tests.waiting import wait_until


def never() -> bool:
    return False


def everything(feed: Feed) -> list[object]:
    """Take all batches that can be taken now."""
    found: list[object] = []
    while (batch := feed.take()) is not None:
        count, frames = batch
        reader = payload.BatchReader(frames)
        assert len(reader) == count
        found += [reader[at] for at in range(count)]
    return found


def made(*sources: Any, spread: bool = False, gate: Gate | None = None) -> Feed:
    return Feed(sources, spread=spread, gate=gate or Gate(never), ready=lambda: None)


@pytest.mark.parametrize("wrap", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_zip_to_the_shortest(wrap: Any) -> None:
    feed = made(wrap(range(3)), "abcd")
    feed.pull()
    assert feed.finished
    assert feed.error is None
    assert everything(feed) == [(0, "a"), (1, "b"), (2, "c")]
    assert feed.is_empty


def test_sequences_travel_by_argument() -> None:
    feed = made(range(10_000), list("ab") * 5_000, (None,) * 20_000)
    feed.pull()
    batches = list(iter(feed.take, None))
    assert {frames.header(batch[1]).form for batch in batches} == {frames.FORM_COLUMNS}
    readers = [payload.BatchReader(batch[1]) for batch in batches]
    found = [item for reader in readers for item in reader.items(0, len(reader))]
    assert found == list(zip(range(10_000), "ab" * 5_000, (None,) * 10_000, strict=True))


def test_of_sequences_what_is_not_plain_travels_by_input() -> None:
    feed = made([1, 2, [3], 4, 5], range(5))
    feed.pull()
    assert everything(feed) == [(1, 0), (2, 1), ([3], 2), (4, 3), (5, 4)]


def test_a_list_that_grows_while_it_is_pulled_gives_all() -> None:
    growing: list[object] = [0, 1]
    gate = Gate(never)
    feed = Feed([growing], spread=False, gate=gate, ready=lambda: None)
    feed._ready = lambda: growing.append(len(growing)) if len(growing) < 100 else None
    feed.pull()
    assert everything(feed) == [(at,) for at in range(len(growing))]
    assert len(growing) > 2


def test_who_resumes_goes_on_where_sequences_were_cut() -> None:
    gate = Gate(never)
    feed = made(list(range(100)), gate=gate)
    feed._ready = gate.close
    feed.pull()
    begun = everything(feed)
    assert 0 < len(begun) < 100
    other = made(*feed.sources)
    other.take_up(feed)
    other.pull()
    assert begun + everything(other) == [(at,) for at in range(100)]


def test_a_range_without_a_length() -> None:
    assert length_of([range(10**30)]) is None
    assert length_of([range(10**30), [1]]) is None


def test_spread() -> None:
    feed = made([(1, 2), [3, 4]], spread=True)
    feed.pull()
    assert everything(feed) == [(1, 2), (3, 4)]
    feed = made([(1, 2), 5], spread=True)
    feed.pull()
    assert isinstance(feed.error, InvalidError)


@pytest.mark.parametrize("wrap", [list, iter], ids=["list", "iterator"])
def test_an_input_that_is_too_large_ends_it_behind_those_before(wrap: Any) -> None:
    sources = [wrap([b"", b"a", b"b", b"c" * 3_000, b"d"])]
    feed = Feed(sources, spread=False, gate=Gate(never), ready=lambda: None, limit_bytes=2_000)
    feed.pull()
    assert everything(feed) == [(b"",), (b"a",), (b"b",)]
    assert isinstance(feed.error, RequestSizeError)


def test_inputs_that_are_too_large_together_go_one_by_one() -> None:
    sources = [[b"", *(b"a" * 900 for _ in range(4))]]
    feed = Feed(sources, spread=False, gate=Gate(never), ready=lambda: None, limit_bytes=2_000)
    feed.pull()
    assert feed.error is None
    assert len(everything(feed)) == 5


def test_long_lists_go_in_growing_batches() -> None:
    feed = made(range(20_000))
    sizes = []
    gate = feed._gate

    def take() -> None:
        while (batch := feed.take()) is not None:
            sizes.append(batch[0])
            gate.ended += batch[0]

    feed._ready = take
    feed.pull()
    assert sum(sizes) == 20_000
    assert sizes[0] == 1
    assert max(sizes) == rooms.BATCH_COUNT


def test_large_items_go_in_small_batches() -> None:
    feed = made([bytes(300_000)] * 10)
    feed.pull()
    sizes = []
    while (batch := feed.take()) is not None:
        sizes.append(batch[0])
        feed._gate.ended += batch[0]
    assert sum(sizes) == 10
    assert max(sizes) <= 4


def test_a_buffer_that_is_used_again_is_not_sent_twice() -> None:
    box = bytearray(100_000)

    def items() -> Iterator[Any]:
        for number in range(3):
            box[0] = number
            yield pickle.PickleBuffer(box)

    for source in (items(), [next(items())] * 2):
        feed = made(source)
        box[0] = 0
        feed.pull()
        box[0] = 9
        found = everything(feed)
        assert [bytes(item[0])[0] for item in found] in ([0, 1, 2], [0, 0])  # type: ignore[index]


def test_an_iterator_that_raises() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    feed = made(items())
    feed.pull()
    assert everything(feed) == [(1,)]
    assert isinstance(feed.error, ZeroDivisionError)


def test_what_comes_before_an_item_that_is_no_input() -> None:
    feed = made([(1, 2), (3, 4), (5, 6), 7, (8, 9)], spread=True)
    feed.pull()
    assert everything(feed) == [(1, 2), (3, 4), (5, 6)]
    assert isinstance(feed.error, InvalidError)


def test_an_item_that_cannot_be_pickled() -> None:
    feed = made(iter([1, threading.Lock()]))
    feed.pull()
    assert everything(feed) == [(1,)]
    assert isinstance(feed.error, SerializationError)


def test_a_blocking_iterator_is_sent_as_it_comes() -> None:
    told = threading.Semaphore(0)
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        release.wait(10)
        yield 2

    feed = Feed([items()], spread=False, gate=Gate(never), ready=told.release)
    thread = threading.Thread(target=feed.pull)
    thread.start()
    assert told.acquire(timeout=10)
    assert everything(feed) == [(1,)]
    release.set()
    assert told.acquire(timeout=10)
    thread.join(10)
    assert everything(feed) == [(2,)]


def test_an_infinite_iterator_waits_at_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "IN_FLIGHT_COUNT", 100)
    gate = Gate(never)
    feed = made(itertools.count(), gate=gate)
    thread = threading.Thread(target=feed.pull)
    thread.start()
    wait_until(lambda: gate.pulled == 100)
    gate.ended += 10
    gate.look()
    wait_until(lambda: gate.pulled == 110)
    gate.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_gate_knows_sizes_and_a_loop_that_is_elsewhere() -> None:
    full = [False]
    gate = Gate(lambda: full[0])
    gate.pulled = 100
    assert gate.is_open
    gate.note_size(10, 10 * rooms.IN_FLIGHT_BYTES)
    gate.note_size(0, 5)
    assert not gate.is_open
    gate.ended = 50
    assert gate.is_open
    full[0] = True
    waiting = gate.wait_for()
    assert waiting is not None
    assert gate.wait_for() is waiting
    full[0] = False
    gate.look()
    assert waiting.join() is None
    assert gate.wait_for() is None
    assert gate.in_flight == 50


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def test_async_iterables_in_a_thread_and_in_a_loop() -> None:
    feed = made(numbers(3), "abcdef")
    assert feed.is_async
    feed.pull()
    assert everything(feed) == [(0, "a"), (1, "b"), (2, "c")]
    feed = made(numbers(2))
    asyncio.run(feed.pull_in_loop())
    assert everything(feed) == [(0,), (1,)]


def test_async_iterables_wait_at_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "IN_FLIGHT_COUNT", 64)
    gate = Gate(never)
    feed = made(numbers(100), gate=gate)
    thread = threading.Thread(target=feed.pull)
    thread.start()
    wait_until(lambda: gate.pulled == 64)
    gate.ended = 64
    gate.look()
    thread.join(10)
    assert gate.pulled == 100


def test_an_async_iterable_that_raises() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError

    feed = made(items())
    asyncio.run(feed.pull_in_loop())
    assert isinstance(feed.error, ZeroDivisionError)


def test_small_batches_wait_while_much_is_in_flight() -> None:
    gate = Gate(never)
    feed = made([1, 2, 3], gate=gate)
    feed._add_one((1,))
    gate.pulled += 1000
    assert feed.take() is None
    gate.ended += 1000
    assert feed.take() is not None


def test_what_cannot_be_iterated() -> None:
    class Old:
        def __getitem__(self, at: int) -> int:
            return at

    with pytest.raises(InvalidError, match="at least one"):
        check_sources("f.map", [])
    with pytest.raises(InvalidError, match="argument 2, 5"):
        check_sources("f.map", [[1], 5])
    check_sources("f.map", [Old(), numbers(1)])


def test_lengths() -> None:
    assert length_of([[1, 2], "abc"]) == 2
    assert length_of([[1, 2], iter("abc")]) is None
