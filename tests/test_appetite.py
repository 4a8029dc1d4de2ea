"""How many messages a turn takes: one where they come one at a time, more where more wait."""

from __future__ import annotations

from kernel_worker.appetite import MOST_MESSAGES, Appetite


def turns(appetite: Appetite, waiting: int) -> tuple[int, int]:
    """Take what waits, as a loop does; return how many turns that took, and vain looks."""
    count = vain = 0
    while waiting:
        count += 1
        size = appetite.next()
        if size > waiting:
            vain += 1
            appetite.spoil()
        waiting -= min(size, waiting)
    return count, vain


def test_messages_that_come_one_at_a_time_cost_few_vain_looks() -> None:
    appetite = Appetite()
    assert sum(turns(appetite, 1)[1] for _ in range(1_000)) == 100


def test_a_flood_is_soon_taken_in_large_pieces() -> None:
    count, vain = turns(Appetite(), 10_000)
    assert count < 60
    assert vain <= 1


def test_what_is_wanted_now_is_taken_at_once_and_a_turn_has_an_end() -> None:
    appetite = Appetite()
    appetite.grow()
    assert [appetite.next() for _ in range(3)] == [MOST_MESSAGES] * 3
    appetite.spoil()
    assert appetite.next() == 1
    appetite.grow(10 * MOST_MESSAGES)
    assert appetite.next() == 10 * MOST_MESSAGES
