"""How a map stands: what its progress display looks at, and `nb.events` will.

The map's threads write, a display reads when it likes; nobody waits and nobody is called back.
Facts know nothing of the map itself, so that looking at them keeps nothing alive.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from notebook_ext.submission import Ended

PENDING, QUEUED, RUNNING, DONE, FAILED, CANCELLED = range(6)
"""What `take_changes` says of an input."""

_CHANGES = 65_536
"""So many are kept one by one for a display that does not come."""
_PAINTED = 4_000_000
"""So many inputs can be told apart then."""

State = Literal["running", "done", "failed", "cancelled"]


class MapFacts:
    """The facts of one map. Counts are of inputs."""

    def __init__(self, title: str, total: int | None) -> None:
        """Start with nothing done."""
        self.title = title
        self.total = total
        """How many inputs there are; None as long as nobody knows."""
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.retried = 0
        """How many attempts were made beyond the first ones, as the function's `retries` say …"""
        self.again = 0
        """… and how many failed inputs the user had run again."""
        self.running = 0
        self.workers = 0
        self.waiting_for = ""
        """Why nothing runs; empty where it does not wait."""
        self.paused = False
        """Whether the user has asked that nothing more of it start."""
        self.was_cancelled = False
        """Whether the user has asked for its end: however it ends, that is why."""
        self.first_error: tuple[int, str] | None = None
        """The index of the first input that failed, and its error in words."""
        self.started_at = time.monotonic()
        self.finished_at: float | None = None
        self.state: State = "running"
        self._lock = threading.Lock()
        self._changes: list[tuple[int, int, int]] = []
        self._records = True

    def take_changes(self) -> list[tuple[int, int, int]]:
        """Return `(start, stop, state)` of what changed since the last time, in order."""
        with self._lock:
            changes, self._changes = self._changes, []
        return changes

    def note(self, start: int, stop: int, state: int) -> None:
        """Note the state of the inputs `[start, stop)`."""
        if not self._records:
            return
        with self._lock:
            changes = self._changes
            if changes and changes[-1][1] == start and changes[-1][2] == state:
                changes[-1] = (changes[-1][0], stop, state)
                return
            changes.append((start, stop, state))
            if len(changes) > _CHANGES:
                self._condense()

    def count(self, start: int, count: int, state: int) -> None:
        """Note how the inputs `[start, start + count)` ended."""
        if state == DONE:
            self.done += count
        elif state == CANCELLED:
            self.cancelled += count
        else:
            self.failed += count
        self.note(start, start + count, state)

    def retry(self, start: int, count: int) -> None:
        """Note that the inputs `[start, start + count)`, which had failed, run again."""
        self.failed -= count
        self.again += count
        if self.first_error is not None and not self.failed:
            self.first_error = None
        self.note(start, start + count, QUEUED)

    def finish(self, state: State) -> None:
        """Nothing changes any more; the first state given stays."""
        if self.finished_at is None:
            self.finished_at = time.monotonic()
            self.running = 0
            self.waiting_for = ""
            self.paused = False
            self.state = "cancelled" if self.was_cancelled else state

    def _condense(self) -> None:
        """Keep only the last state of each input, as ranges."""
        last = max(stop for _, stop, _ in self._changes)
        if last > _PAINTED:
            self._records = False
            self._changes = []
            return
        painted = bytearray(last)
        for start, stop, state in self._changes:
            painted[start:stop] = bytes([state]) * (stop - start)
        self._changes = []
        at = 0
        for state, group in itertools.groupby(painted):
            size = sum(1 for _ in group)
            self._changes.append((at, at + size, state))
            at += size
        self._records = len(self._changes) < _CHANGES // 2


def words_of(end: Ended) -> str:
    """Return what went wrong; no code of users runs."""
    if end.exception is not None:
        from kernel_worker.wire import failures  # noqa: PLC0415  only where something failed

        return failures.summary(end.exception)
    return end.message or end.outcome.name.lower()
