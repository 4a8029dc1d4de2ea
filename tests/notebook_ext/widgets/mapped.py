"""A map that tests drive by hand: the facts that a display watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence


class Mapped:
    """Facts of a map of `total` inputs (None: nobody knows how many)."""

    def __init__(self, total: int | None = 10, title: str = "score") -> None:
        self.title = title
        self.total = total
        self.done = self.failed = self.cancelled = self.retried = 0
        self.running = self.workers = 0
        self.waiting_for = ""
        self.again = 0
        self.paused = self.was_cancelled = False
        self.first_error: object = None
        self.started_at = time.monotonic()
        self.finished_at: float | None = None
        self.state = "running"
        self._changes: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()

    def take_changes(self) -> Sequence[tuple[int, int, int]]:
        with self._lock:
            changes, self._changes = self._changes, []
        return changes

    def start(self, begin: int, end: int) -> None:
        """The inputs [begin, end) run, on one worker each."""
        self._note(begin, end, 2)
        self.running += end - begin
        self.workers = self.running

    def succeed(self, begin: int, end: int) -> None:
        """They are done."""
        self._note(begin, end, 3)
        self.running = max(self.running - (end - begin), 0)
        self.done += end - begin

    def fail(self, index: int, error: BaseException) -> None:
        """That input failed for good."""
        self._note(index, index + 1, 4)
        self.failed += 1
        self.first_error = self.first_error or (index, error)

    def end(self, state: str = "done") -> None:
        """Nothing will change any more."""
        self.finished_at = time.monotonic()
        self.state = state

    def _note(self, begin: int, end: int, state: int) -> None:
        with self._lock:
            self._changes.append((begin, end, state))
