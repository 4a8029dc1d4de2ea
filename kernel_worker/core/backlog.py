"""The inputs of one call that wait, as ranges: a million of them are as many entries as batches.

A range never crosses the boundary of a batch of inputs, because a lease carries one payload. An
input that has a life of its own (a second attempt) is a range by itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Range(NamedTuple):
    """Inputs `[start, stop)` of one batch, all at the same attempt."""

    start: int
    stop: int
    attempt: int
    batch: int
    """Position of the first input of the batch that these came with."""
    whole: int
    """The length of that batch where any part of it travels whole, else 0."""


class Backlog:
    """Waiting ranges, in the order in which they are to be granted."""

    __slots__ = ("_ranges", "count")

    def __init__(self) -> None:
        """Make an empty backlog."""
        self._ranges: deque[Range] = deque()
        self.count = 0
        """Inputs that wait."""

    def __iter__(self) -> Iterator[Range]:
        """Iterate over the ranges, first to be granted first."""
        return iter(self._ranges)

    def append(self, waiting: Range) -> None:
        """Put inputs behind all others."""
        self._ranges.append(waiting)
        self.count += waiting.stop - waiting.start

    def push_front(self, waiting: Range) -> None:
        """Put inputs before all others, joined with their neighbours where they were one."""
        self.count += waiting.stop - waiting.start
        front = self._ranges[0] if self._ranges else None
        if front is not None and _are_neighbours(waiting, front):
            self._ranges[0] = waiting._replace(stop=front.stop)
        else:
            self._ranges.appendleft(waiting)

    def peek(self) -> Range:
        """Return the first range; there is one."""
        return self._ranges[0]

    def take(self, limit: int) -> Range:
        """Remove and return up to `limit` inputs from the front; there are some."""
        front = self._ranges[0]
        stop = front.start + limit
        if stop >= front.stop:
            self.count -= front.stop - front.start
            return self._ranges.popleft()
        self._ranges[0] = front._replace(start=stop)
        self.count -= limit
        return front._replace(stop=stop)

    def drain(self) -> list[Range]:
        """Remove and return everything, ordered by position, neighbours joined across batches."""
        joined: list[Range] = []
        for waiting in sorted(self._ranges):
            last = joined[-1] if joined else None
            if last is not None and last.stop == waiting.start and last.attempt == waiting.attempt:
                joined[-1] = last._replace(stop=waiting.stop)
            else:
                joined.append(waiting)
        self._ranges.clear()
        self.count = 0
        return joined


def _are_neighbours(left: Range, right: Range) -> bool:
    """Whether two ranges may be granted as one. A second attempt always runs by itself."""
    return (
        left.stop == right.start
        and left.batch == right.batch
        and left.attempt == right.attempt == 1
    )
