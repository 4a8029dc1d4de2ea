"""Who waits first is served first, and nothing that is supplied is left lying."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_worker.core.turns import Turns


def waiting(*names: str) -> Turns[str]:
    """Return turns in which these have tried in vain, in that order."""
    turns: Turns[str] = Turns()
    for name in names:
        if turns.join("q", name, None):
            assert turns.in_vain(name, 0.0) == ("waits", [])
    return turns


def test_who_comes_first_tries_at_once_and_the_next_one_waits_behind() -> None:
    turns: Turns[str] = Turns()
    assert turns.join("q", "a", None)
    assert turns.in_vain("a", 0.0) == ("waits", [])
    assert not turns.join("q", "b", None)
    assert turns.join("elsewhere", "c", None)
    assert turns.places == ["q", "elsewhere"]


def test_as_many_try_as_things_have_come_the_first_who_came_first() -> None:
    turns = waiting("a", "b", "c")
    assert turns.supply("q", 2) == ["a", "b"]
    assert turns.supply("nobody waits here", 2) == []
    assert turns.satisfied("a") == []
    assert "a" not in turns
    assert turns.in_vain("b", 0.0) == ("waits", [])
    assert turns.supply("q", 9) == ["b", "c"]


def test_what_comes_while_somebody_tries_has_him_try_again() -> None:
    turns: Turns[str] = Turns()
    assert turns.join("q", "a", None)
    assert turns.supply("q", 1) == []
    assert turns.in_vain("a", 0.0) == ("again", [])
    assert turns.in_vain("a", 0.0) == ("waits", [])


def test_what_somebody_did_not_need_is_the_next_ones() -> None:
    turns = waiting("a", "b")
    assert turns.supply("q", 1) == ["a"]
    assert turns.supply("q", 1) == []  # it would be a's, who tries
    assert turns.satisfied("a") == ["b"]


def test_it_becomes_too_late_for_who_waits_and_not_for_who_tries() -> None:
    turns: Turns[str] = Turns()
    turns.join("q", "a", 5.0)
    assert turns.next_deadline() is None
    assert turns.in_vain("a", 1.0) == ("waits", [])
    turns.join("q", "b", 3.0)
    assert turns.next_deadline() == 3.0
    assert turns.late(2.0) == []
    assert turns.late(3.0) == ["b"]
    assert turns.supply("q", 1) == ["a"]
    assert turns.late(9.0) == []
    assert turns.in_vain("a", 9.0) == ("late", [])
    assert turns.in_vain("a", 9.0) == ("gone", [])


def test_who_withdraws_is_gone_or_gets_what_is_on_its_way() -> None:
    turns = waiting("a", "b")
    assert turns.supply("q", 1) == ["a"]
    assert not turns.withdraw("a")
    assert turns.supply("q", 1) == []
    assert turns.in_vain("a", 0.0) == ("gone", ["b"])
    assert not turns.withdraw("a")
    assert turns.in_vain("b", 0.0) == ("waits", [])
    assert turns.withdraw("b")
    assert turns.places == []


def test_who_is_gone_leaves_his_turn_to_the_next() -> None:
    turns = waiting("a", "b", "c")
    assert turns.supply("q", 1) == ["a"]
    assert turns.supply("q", 2) == ["b"]  # of two one is a's, who tries
    assert turns.leave(lambda who: who in "ab") == ["c"]


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_nobody_waits_while_something_is_there(seed: int) -> None:
    """Items and takers come in any order, and answers late: all items are taken while one waits."""
    dice = random.Random(seed)
    turns: Turns[int] = Turns()
    items = taken = asked = 0
    tries: list[int] = []  # on their way, in order
    for _ in range(60):
        match dice.randrange(4):
            case 0:
                items += 1
                tries += turns.supply("q", 1)
            case 1:
                asked += 1
                if turns.join("q", asked, None):
                    tries.append(asked)
            case 2 if asked:
                turns.withdraw(dice.randint(1, asked))
            case _ if tries:
                items, taken = _answer(turns, tries, items, taken)
            case _:
                pass
    while tries:
        items, taken = _answer(turns, tries, items, taken)
    assert not (items and turns.places), f"{items} items lie, and somebody waits"


def _answer(turns: Turns[int], tries: list[int], items: int, taken: int) -> tuple[int, int]:
    """Let the first who tries have what is there when he is told."""
    who = tries.pop(0)
    if who not in turns:
        return items, taken
    if items:
        tries += turns.satisfied(who)
        return items - 1, taken + 1
    verdict, others = turns.in_vain(who, 0.0)
    tries += [who] if verdict == "again" else []
    tries += others
    return items, taken
