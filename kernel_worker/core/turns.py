"""Whose turn it is: those who wait for what a queue gives, or for room in it, in their order.

Theory. Whether there is something is known where the items are, not here: whoever's turn it is
*tries*, and is told later whether that gave him anything. Somebody who tried in vain waits; when
something is supplied as many try as there are items, the first who came first. What is supplied
while somebody tries may have come too late for him: it is noted, and he tries once more, or leaves
it to the next.

Guarantees: nobody waits while something is there that nobody tries for; of two who wait at one
place the one who came first tries first.
Not guaranteed: that somebody who does not wait, and tries outside of this, gets nothing before
those who do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

Who = TypeVar("Who", bound="Hashable")
_GONE = float("-inf")


class _Turn(Generic[Who]):
    __slots__ = ("again", "deadline", "trying", "who")

    def __init__(self, who: Who, deadline: float | None, *, trying: bool) -> None:
        self.who = who
        self.deadline = deadline
        """When it is too late; None: never."""
        self.trying = trying
        self.again = 0
        """How much was supplied for this one while it tried."""


class Turns(Generic[Who]):
    """All who wait, by place."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._lines: dict[Hashable, dict[Who, _Turn[Who]]] = {}
        self._places: dict[Who, Hashable] = {}

    def __contains__(self, who: object) -> bool:
        return who in self._places

    @property
    def places(self) -> list[Hashable]:
        """Where somebody waits or tries."""
        return list(self._lines)

    def join(self, place: Hashable, who: Who, deadline: float | None) -> bool:
        """Put somebody at the end of a line; return whether he is to try at once."""
        line = self._lines.setdefault(place, {})
        tries = all(turn.trying for turn in line.values())
        line[who] = _Turn(who, deadline, trying=tries)
        self._places[who] = place
        return tries

    def supply(self, place: Hashable, count: int) -> list[Who]:
        """Return who is to try now that `count` things have come."""
        chosen: list[Who] = []
        for turn in list(self._lines.get(place, {}).values())[:count]:
            if turn.trying:
                turn.again += 1
            else:
                turn.trying = True
                chosen.append(turn.who)
        return chosen

    def satisfied(self, who: Who) -> list[Who]:
        """Somebody has tried, and has what he wants; return who is to try now."""
        return self._leave(who)

    def in_vain(
        self, who: Who, now: float
    ) -> tuple[Literal["again", "waits", "late", "gone"], list[Who]]:
        """Somebody has tried in vain; return what becomes of him, and who is to try now."""
        turn = self._turn(who)
        if turn is None:
            return "gone", []
        if turn.deadline == _GONE:
            return "gone", self._leave(who)
        if turn.again:
            turn.again -= 1
            return "again", []
        if turn.deadline is not None and turn.deadline <= now:
            return "late", self._leave(who)
        turn.trying = False
        return "waits", []

    def withdraw(self, who: Who) -> bool:
        """Somebody waits no more; return whether nothing is on its way to him."""
        turn = self._turn(who)
        if turn is None:
            return False
        if turn.trying:
            turn.deadline = _GONE
            return False
        self._leave(who)
        return True

    def late(self, now: float) -> list[Who]:
        """Return those for whom it has become too late; they wait no more."""
        found = [turn.who for deadline, turn in self._waiting() if deadline <= now]
        for who in found:
            self._leave(who)
        return found

    def leave(self, is_gone: Callable[[Who], bool]) -> list[Who]:
        """Forget those who are gone for good; return who is to try now."""
        chosen: list[Who] = []
        for who in [each for each in self._places if is_gone(each)]:
            chosen += self._leave(who)
        return [who for who in chosen if who in self._places]

    def next_deadline(self) -> float | None:
        """Return when `late` has somebody to tell of, or None."""
        return min((deadline for deadline, _ in self._waiting()), default=None)

    def _waiting(self) -> Iterator[tuple[float, _Turn[Who]]]:
        """Yield those who wait and have a deadline, with that."""
        for line in self._lines.values():
            for turn in line.values():
                if turn.deadline is not None and not turn.trying:
                    yield turn.deadline, turn

    def _turn(self, who: Who) -> _Turn[Who] | None:
        return self._lines[self._places[who]][who] if who in self._places else None

    def _leave(self, who: Who) -> list[Who]:
        """Take somebody out of his line; what was supplied for him is the next one's."""
        place = self._places.pop(who)
        line = self._lines[place]
        left = line.pop(who).again
        if not line:
            del self._lines[place]
        return self.supply(place, left)
