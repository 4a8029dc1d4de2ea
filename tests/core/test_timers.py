from __future__ import annotations

from kernel_worker.core.timers import Timers


def test_due_ones_come_in_order_and_once() -> None:
    timers = Timers()
    timers.set(("b", "1"), 2.0)
    timers.set(("a", "1"), 1.0)
    timers.set(("c", "1"), 3.0)
    assert timers.next_due() == 1.0
    assert timers.pop_due(2.5) == [("a", "1"), ("b", "1")]
    assert timers.pop_due(2.5) == []
    assert timers.next_due() == 3.0


def test_moved_later_earlier_and_cleared() -> None:
    timers = Timers()
    key = ("idle", "w")
    for due in (1.0, 5.0, 3.0, 0.5, 4.0):
        timers.set(key, due)
    timers.set_if_earlier(key, 9.0)
    assert timers.pop_due(3.9) == []
    assert timers.next_due() == 4.0
    timers.clear(key)
    assert timers.next_due() is None
    timers.set_if_earlier(key, 6.0)
    assert timers.pop_due(6.0) == [key]


def test_rearming_a_thousand_times_keeps_one_entry() -> None:
    timers = Timers()
    for tick in range(1_000):
        timers.set(("idle", "w"), 60.0 + tick)
    assert len(timers._heap) == 1
