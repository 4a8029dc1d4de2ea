"""What is known of the inputs of a call, by ranges of them: nothing is kept for each one.

Guarantees: what was said first of an index stays. Adding costs the binary search, and the shift of
a list with an entry for each range that was added.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Piece(NamedTuple, Generic[T]):
    """The indices `[start, stop)`, of which one thing is known."""

    start: int
    stop: int
    origin: int
    """The first index of the range that it was a part of when it was added."""
    known: T


class KnownRanges(Generic[T]):
    """Pieces that do not overlap, in order."""

    def __init__(self) -> None:
        """Know nothing."""
        self._starts: list[int] = []
        self._pieces: list[Piece[T]] = []

    def __len__(self) -> int:
        """Return of how many pieces something is known."""
        return len(self._pieces)

    def add(self, start: int, stop: int, known: T) -> None:
        """Note that `known` holds for `[start, stop)`, where nothing is known yet."""
        at = bisect_right(self._starts, start)
        begin = start if at == 0 else max(start, self._pieces[at - 1].stop)
        while begin < stop:
            is_last = at == len(self._pieces)
            end = stop if is_last else min(stop, self._starts[at])
            if begin < end:
                self._starts.insert(at, begin)
                self._pieces.insert(at, Piece(begin, end, start, known))
                at += 1
            if is_last:
                return
            begin = self._pieces[at].stop
            at += 1

    def at(self, index: int) -> Piece[T] | None:
        """Return the piece that `index` lies in."""
        at = bisect_right(self._starts, index)
        if at and index < self._pieces[at - 1].stop:
            return self._pieces[at - 1]
        return None

    def clear(self) -> None:
        """Know nothing any more."""
        self._starts.clear()
        self._pieces.clear()
