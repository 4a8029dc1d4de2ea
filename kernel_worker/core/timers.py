"""Deadlines by name, so that `next_deadline` is the top of a heap and re-arming is cheap.

Moving a deadline later costs no heap operation: the entry that is in the heap fires early and is
put back at the new time. A worker that goes idle ten thousand times a minute has one entry.
"""

from __future__ import annotations

import heapq

Key = tuple[str, str]
"""(what, of which): `("idle", "ta-…")`."""


class Timers:
    """The deadlines that are set, by key."""

    __slots__ = ("_due", "_entries", "_heap", "_is_settled", "_next")

    def __init__(self) -> None:
        """Make a set of timers with none set."""
        self._due: dict[Key, float] = {}
        self._entries: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._is_settled = True
        """Whether `_next` is what `next_due` returns: most turns change no deadline."""
        self._next: float | None = None

    def set(self, key: Key, due: float) -> None:
        """Set `key` to fire at `due`, instead of when it was to fire before."""
        self._due[key] = due
        entry = self._entries.get(key)
        if entry is None or entry > due:
            self._push(key, due)

    def set_if_earlier(self, key: Key, due: float) -> None:
        """Set `key` to fire at `due` unless it fires before that anyway."""
        if due < self._due.get(key, float("inf")):
            self.set(key, due)

    def clear(self, key: Key) -> None:
        """Make `key` not fire; nothing if it is not set."""
        if self._due.pop(key, None) is not None:
            self._is_settled = False

    def next_due(self) -> float | None:
        """Return a time at which `pop_due` should be called next (at the latest), or None."""
        if not self._is_settled:
            self._next = self._find_next()
            self._is_settled = True
        return self._next

    def pop_due(self, now: float) -> list[Key]:
        """Return the keys that are due, earliest first; they are no longer set."""
        fired: list[Key] = []
        earliest = self.next_due()
        if earliest is None or now < earliest:
            return fired
        self._is_settled = False
        # Deadlines that were moved later since are seen to be so here.
        while (due := self._find_next()) is not None and due <= now:
            _, key = heapq.heappop(self._heap)
            del self._entries[key]
            del self._due[key]
            fired.append(key)
        return fired

    def _find_next(self) -> float | None:
        while self._heap:
            entry, key = self._heap[0]
            due = self._due.get(key)
            if due is not None and entry == self._entries.get(key):
                if entry >= due:
                    return entry
                heapq.heappop(self._heap)
                self._push(key, due)
            else:
                self._drop_top()
        return None

    def _push(self, key: Key, due: float) -> None:
        self._entries[key] = due
        self._is_settled = False
        heapq.heappush(self._heap, (due, key))

    def _drop_top(self) -> None:
        entry, key = heapq.heappop(self._heap)
        if self._entries.get(key) == entry:
            del self._entries[key]
