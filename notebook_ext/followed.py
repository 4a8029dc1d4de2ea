"""A call that somebody spawned, as a progress display sees it: its facts, and its one button.

Outcomes come as they are told to everybody who listens to the call; their values are dropped at
once. What nobody tells of a spawned call, how many inputs run and how many there are, is asked for
while somebody looks.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.model import Outcome
from kernel_worker.wire import messages
from notebook_ext import facts
from notebook_ext.facts import MapFacts
from notebook_ext.numbering import Spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.model import CallId
    from notebook_ext.session import Session
    from notebook_ext.submission import Ended
    from notebook_ext.twin import Waiting

ASK_SECONDS: Final = 0.5


class CallFacts(MapFacts):
    """The facts of a spawned call; it follows the call until it has ended."""

    def __init__(self, session: Session, info: messages.CallInfo) -> None:
        """Begin with what the broker has said of the call."""
        super().__init__(info.name, info.total if info.closed else None)
        self._session = session
        self._call = info.call
        self._ended = Spans()
        self._all_told = threading.Event()
        self._asked: Waiting[Any] | None = None
        self._ask_at = time.monotonic() + ASK_SECONDS
        self.started_at = time.monotonic() - max(time.time() - info.submitted_at, 0.0)
        self._first = info
        self._take(info)
        session.attach(info.call, self)

    def take_changes(self) -> list[tuple[int, int, int]]:
        """Return what changed since the last time; and ask again, now and then."""
        self._look()
        return super().take_changes()

    def _look(self) -> None:
        asked, now = self._asked, time.monotonic()
        if asked is not None and asked.done:
            self._asked = None
            if not asked.failed:
                self._take(asked.result())
        elif asked is None and now >= self._ask_at and self.finished_at is None:
            self._ask_at = now + ASK_SECONDS
            self._asked = self._session.ask("call", self._call, messages.CallInfo)

    def _take(self, info: messages.CallInfo) -> None:
        self.total = info.total if info.closed else None
        self.running = info.running
        self.workers = 0
        known = self.done + self.failed + self.cancelled
        if info.closed and not info.pending and not info.running and known >= info.total:
            self._session.detach(self._call, self)
            self.finish("cancelled" if self.cancelled else "done")
            if info.ended_at is not None:
                self.finished_at = self.started_at + max(info.ended_at - info.submitted_at, 0.0)

    def settle(self, limit_seconds: float) -> None:
        """Wait until the outcomes of a call that had ended before are counted."""
        info = self._first
        if info.closed and not info.pending and not info.running and self.finished_at is None:
            self._all_told.wait(limit_seconds)
            self._take(info)

    # ---- in the I/O thread ----------------------------------------------------------------------

    def accepted(self) -> None:
        """It was, before."""

    def rejected(self, error: str, message: str) -> None:
        """Nothing more is told."""
        self.first_error = self.first_error or (0, f"{error}: {message}")
        self.finish("failed")

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:  # noqa: ARG002
        """Count what is news: who begins to listen lets everybody hear all of it again."""
        self._count(start, count, facts.DONE)

    def ended(self, end: Ended) -> None:
        """Count it."""
        cancelled = end.outcome is Outcome.CANCELLED
        if self.first_error is None and not cancelled:
            self.first_error = (end.index, facts.words_of(end))
        self._count(end.index, end.count, facts.CANCELLED if cancelled else facts.FAILED)

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """Items are for those who iterate."""

    def progressed(self, progress: messages.CallProgress) -> None:
        """Show what it waits for."""
        self.waiting_for = progress.waiting_for

    def offered(self, act: Callable[[bool], object]) -> bool:  # noqa: ARG002
        """Whoever follows does not wait."""
        return False

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """What it writes is shown by whoever made it."""

    def _count(self, start: int, count: int, state: int) -> None:
        for low, high in self._ended.add(start, start + count):
            self.waiting_for = ""
            self.count(low, high - low, state)
        if self.total is not None and self.done + self.failed + self.cancelled >= self.total:
            self._all_told.set()


class CallControls:
    """Cancels one spawned call. Its failures stay; it cannot be paused."""

    can_pause = False
    retryable = 0

    def __init__(self, session: Session, call: CallId, followed: CallFacts) -> None:
        """Control `call`, which `followed` tells of."""
        self._session = session
        self._call = call
        self._facts = followed

    def cancel(self) -> None:
        """End the call."""
        self._facts.was_cancelled = True
        self._session.cancel(self._call)

    def pause(self, *, paused: bool) -> None:
        """Do nothing: what is spawned belongs to no notebook that could let it go on."""

    def retry_failed(self) -> None:
        """Do nothing: what was recorded of an input stays."""
