"""Sets of input indices as ranges, and how a new broker numbers what is left of a call.

Both cost by the number of ranges, not of inputs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Spans:
    """A set of integers kept as disjoint ranges in order."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def add(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Add `[start, stop)` and return the parts of it that are new."""
        starts, stops = self._starts, self._stops
        first = bisect_left(stops, start)
        last = bisect_right(starts, stop)
        if first == last:
            starts.insert(first, start)
            stops.insert(first, stop)
            return [(start, stop)]
        new = list(self._gaps(start, stop, first, last))
        low, high = min(start, starts[first]), max(stop, stops[last - 1])
        starts[first:last] = [low]
        stops[first:last] = [high]
        return new

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of `[start, stop)` that are not in the set."""
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        return list(self._gaps(start, stop, first, last))

    def _gaps(self, start: int, stop: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        at = start
        for low, high in zip(self._starts[first:last], self._stops[first:last], strict=True):
            if at < low:
                yield at, min(low, stop)
            at = max(at, high)
        if at < stop:
            yield at, stop


class Renumbering:
    """How a call's inputs are numbered for a broker that does not know all of them."""

    __slots__ = ("_at", "_ours", "count")

    def __init__(self) -> None:
        self._at: list[int] = []
        self._ours: list[int] = []
        self.count = 0

    def append(self, ours: int, count: int) -> int:
        """Number `[ours, ours + count)` next; return the first number."""
        at = self.count
        if not self._at or self._ours[-1] + at - self._at[-1] != ours:
            self._at.append(at)
            self._ours.append(ours)
        self.count += count
        return at

    def pieces(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Translate the numbers `[start, start + count)`: `(offset, ours, count)` per run."""
        offset = 0
        while offset < count:
            run = bisect_right(self._at, start + offset) - 1
            into = start + offset - self._at[run]
            end = self._at[run + 1] if run + 1 < len(self._at) else self.count
            size = min(count - offset, end - start - offset)
            if size <= 0:
                return  # the broker speaks of inputs that it was never given
            yield offset, self._ours[run] + into, size
            offset += size
