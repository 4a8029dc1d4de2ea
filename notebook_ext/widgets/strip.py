"""The state of every input of a map, one byte each, and what a view must hear of it.

A view has an array of its own and is kept in step by deltas: the ranges that changed since the last
one. A whole state, compressed, is what a view starts from, and what is sent instead of a delta that
would be larger.

Memory is bounded: of a map with more than `LIMIT` inputs only the last ones are kept, from position
`base` on; that happens to maps over endless iterators.
"""

from __future__ import annotations

import array
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT: Final = 2_000_000
LARGEST_DELTA: Final = 4_000
"""Ranges in a delta; more of them cost more than a compressed snapshot does."""


class Strip:
    """The states of the inputs `[base, base + len(strip))`."""

    def __init__(self, count: int = 0) -> None:
        """Start with `count` pending inputs."""
        self.base = 0
        self._states = bytearray(min(count, LIMIT))
        self._changes: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        """Return how many states are kept."""
        return len(self._states)

    def apply(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Set each range [start, stop) to a state, in this order."""
        states, noted, base = self._states, self._changes, self.base
        for start, stop, state in changes:
            if stop - base > len(states):
                self._make_room(stop)
                states, noted, base = self._states, self._changes, self.base
            first, last = start - base, stop - base
            if last - first == 1 and first >= 0:
                states[first] = state
                noted.append((first, last, state))
            elif last > 0:
                first = max(first, 0)
                states[first:last] = bytes((state,)) * (last - first)
                noted.append((first, last, state))

    def extend_to(self, count: int) -> None:
        """Make room for `count` inputs; the new ones are pending."""
        self._make_room(count)

    def _make_room(self, stop: int) -> None:
        missing = stop - self.base - len(self._states)
        if missing <= 0:
            return
        if stop - self.base > LIMIT:
            self._forget(stop - LIMIT // 2 - self.base)
            missing = stop - self.base - len(self._states)
        self._states.extend(bytes(max(missing, 0)))

    def _forget(self, count: int) -> None:
        del self._states[:count]
        self.base += count
        self._changes = [(0, 0, 0)] * (LARGEST_DELTA + 1)

    def take_delta(self) -> bytes | None:
        """Return what changed since the last one, or None: then the view needs a snapshot.

        All starts (u32, from `base`), then all stops (u32), then all states (u8), little-endian.
        """
        changes, self._changes = self._changes, []
        if len(changes) > LARGEST_DELTA:
            return None
        starts, stops, states = zip(*changes, strict=True) if changes else ((), (), ())
        return b"".join((array.array("I", starts), array.array("I", stops), bytes(states)))

    def snapshot(self) -> bytes:
        """Return the whole state, zlib-compressed."""
        return zlib.compress(self._states, 1)

    def states(self) -> bytes:
        """Return the whole state, a byte each."""
        return bytes(self._states)
