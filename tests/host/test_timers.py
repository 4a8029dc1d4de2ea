"""Callbacks are called when they are due, the earliest first."""

from __future__ import annotations

from functools import partial

from kernel_worker.host.timers import Timers


def test_in_order_and_not_before_they_are_due() -> None:
    timers, called = Timers(), list[int]()
    for when in (3, 1, 2, 1):
        timers.at(when, partial(called.append, when))
    assert timers.next_at() == 1
    timers.run(0.5)
    assert called == []
    timers.run(2)
    assert called == [1, 1, 2]
    assert timers.next_at() == 3
    timers.run(9)
    assert timers.next_at() is None


def test_a_callback_may_ask_for_another() -> None:
    timers, called = Timers(), list[int]()
    timers.at(1, lambda: timers.at(2, partial(called.append, 2)))
    timers.run(5)
    assert called == [2]
