from __future__ import annotations

import random

import pytest

from kernel_worker.model import Outcome
from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_VALUE
from notebook_ext import delivery as rooms
from notebook_ext.delivery import Delivery, Skipped
from notebook_ext.spill import Values
from notebook_ext.submission import Ended
from notebook_ext.twin import Waiting


def piece(*values: object) -> Values:
    return Values(len(values), [bytes(f) for f in payload.encode_batch(values, FORM_VALUE)], 0)


def taken(delivery: Delivery) -> list[object]:
    """Take what is there now."""
    found: list[object] = []
    while isinstance(item := delivery.take(), tuple):
        start, got = item
        if isinstance(got, Ended):
            found.append((start, got.outcome))
        elif isinstance(got, Values):
            reader = payload.BatchReader(got.frames)
            found += [reader[got.position + at] for at in range(got.count)]
    return found


def test_in_order() -> None:
    delivery = Delivery(ordered=True)
    first = delivery.take()
    assert isinstance(first, Waiting)
    assert delivery.take() is first
    delivery.put(2, piece("c"))
    assert not first.done
    delivery.put(0, piece("a", "b"))
    assert first.done
    assert first.join() is None
    assert taken(delivery) == ["a", "b", "c"]
    delivery.put(3, Ended(3, 2, Outcome.CANCELLED, 0, "", None))
    assert taken(delivery) == [(3, Outcome.CANCELLED)]
    delivery.put(5, Skipped(2))
    assert delivery.take() == (5, Skipped(2))
    delivery.finish(7)
    assert delivery.take() is None


@pytest.mark.parametrize("ordered", [True, False])
def test_an_interrupt_finds_results_kept_or_here(ordered: bool) -> None:
    kept: list[int] = []

    def keep(start: int, values: Values) -> None:
        kept.append(start)
        if start == 1 and kept.count(1) == 1:
            raise KeyboardInterrupt

    delivery = Delivery(ordered=ordered, keep=keep)
    for start in range(3):
        delivery.put(start, piece(start))
    assert isinstance(delivery.take(), tuple)
    with pytest.raises(KeyboardInterrupt):
        delivery.take()
    assert [start for start, _ in delivery.left()] == [1, 2]
    assert kept == [0, 1]


def test_as_they_are_done() -> None:
    delivery = Delivery(ordered=False)
    delivery.put(2, piece("c"))
    delivery.put(0, piece("a", "b"))
    assert taken(delivery) == ["c", "a", "b"]
    delivery.finish(3)
    delivery.finish(9)
    assert delivery.take() is None


def _raise() -> None:
    raise ZeroDivisionError


def test_an_iterable_that_raises_comes_behind_the_results() -> None:
    delivery = Delivery(ordered=True)
    delivery.finish(2, _raise)
    delivery.put(1, piece("b"))
    assert isinstance(delivery.take(), Waiting)
    delivery.put(0, piece("a"))
    assert delivery.take() is not None
    assert delivery.take() is not None
    with pytest.raises(ZeroDivisionError):
        delivery.take()


def test_an_abort_comes_behind_what_can_be_taken() -> None:
    delivery = Delivery(ordered=True)
    delivery.put(0, piece("a"))
    delivery.put(2, piece("c"))
    delivery.abort(_raise)
    delivery.put(1, piece("b"))
    assert delivery.take() is not None
    with pytest.raises(ZeroDivisionError):
        delivery.take()


def test_what_is_too_much_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "HELD_BYTES", 1000)
    delivery = Delivery(ordered=True)
    for start in random.sample(range(1, 100), 99):
        delivery.put(start, piece(bytes([start]) * 200))
    assert delivery._held_bytes <= 1000
    delivery.put(0, piece(b"\0" * 200))
    assert taken(delivery) == [bytes([at]) * 200 for at in range(100)]
    assert delivery._spill._end == 0
    delivery.put(101, piece(bytes(2000)))
    delivery.put(102, piece(b"a"))
    assert [(start, piece.count) for start, piece in delivery.left()] == [(101, 1), (102, 1)]
    assert delivery.take() is None
    assert not delivery.put(103, piece(b"b"))


def test_full_while_the_loop_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "FULL_COUNT", 2)
    delivery = Delivery(ordered=True)
    delivery.put(0, piece(1, 2, 3))
    assert delivery.is_full
    delivery.take()
    assert not delivery.is_full
    assert isinstance(delivery.take(), Waiting)
    delivery.put(4, piece(1, 2, 3))
    assert not delivery.is_full  # whoever waits needs the one before


def test_what_is_offered_is_done_by_who_takes_although_results_come_first() -> None:
    delivery = Delivery(ordered=True)
    done: list[str] = []
    assert delivery.offer(lambda _: done.append("before"))
    waiting = delivery.take()
    assert isinstance(waiting, Waiting)
    assert delivery.offer(lambda _: done.append("while"))
    delivery.put(0, piece("a"))  # the waiting is over before anybody has acted
    assert waiting.join() is None
    assert taken(delivery) == ["a"]
    following = delivery.take()
    assert isinstance(following, Waiting)
    assert not following.wait(0.01)
    assert done == ["before", "while"]
    delivery.abort(lambda: None)
    assert not delivery.offer(lambda _: done.append("never"))
