"""The one thread that draws: it looks at the watched maps ten times a second at most.

`watch` is on the way of every map, so it only appends to a list, and wakes the thread only if it
sleeps. A map that ends within half a second is never shown. What is shown appears in the cell that
made the call: `watch` takes the context variables of its caller, and everything about that map runs
under them. A shown map's last state is always drawn, also when the interpreter exits.

Nothing here raises into the caller, and a view that fails is dropped: a display must never be the
reason why a map fails.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from notebook_ext.widgets.facts import FINAL_STATES
from notebook_ext.widgets.pace import Pace
from notebook_ext.widgets.report import report_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.widgets.facts import MapFacts
    from notebook_ext.widgets.report import Report

SHOWN_AFTER_SECONDS: Final = 0.5
TICK_SECONDS: Final = 0.1
EXIT_SECONDS: Final = 1.0

T = TypeVar("T")

_log = logging.getLogger("notebook_ext")


class View(Protocol):
    """Something that shows one map."""

    def update(self, facts: MapFacts, report: Report) -> None:
        """Show how it stands."""

    def finish(self, facts: MapFacts, report: Report) -> None:
        """Show how it ended; nothing follows."""


class Watched:
    """One map and, once it has run long enough, its view."""

    def __init__(self, facts: MapFacts, open_view: Callable[[MapFacts], View | None]) -> None:
        """Remember the caller's context: the view belongs to the caller's cell."""
        self.facts = facts
        self._context = contextvars.copy_context()
        self._open = open_view
        self._pace = Pace(facts.started_at)
        self._view: View | None = None
        self.shown_at = time.monotonic() + SHOWN_AFTER_SECONDS

    @property
    def is_shown(self) -> bool:
        """Return whether it has a view."""
        return self._view is not None

    def tick(self, now: float, *, last: bool = False) -> bool:
        """Show how the map stands; return whether to look at it again, unless this is the last."""
        ended = last or self.facts.state in FINAL_STATES
        if self._view is None and (ended or now < self.shown_at):
            return not ended
        try:
            return self._context.run(self._draw, now, last)
        except Exception:  # noqa: BLE001  a display must not break what it shows
            _log.debug("a progress display failed and is gone", exc_info=True)
            return False

    def _draw(self, now: float, last: bool) -> bool:  # noqa: FBT001  called through a context
        if self._view is None:
            self._view = self._open(self.facts)
            if self._view is None:
                return False
        report = report_on(self.facts, self._pace, now)
        if last or report.state in FINAL_STATES:
            self._view.finish(self.facts, report)
            return False
        self._view.update(self.facts, report)
        return True


class Ticker:
    """The thread and what it watches."""

    def __init__(self, open_view: Callable[[MapFacts], View | None]) -> None:
        """Make views with `open_view`; it runs in the thread and in the map's context."""
        self._open_view = open_view
        self._arrived: deque[Watched] = deque()
        self._settling: deque[threading.Event] = deque()
        self._shown = False
        self._wake = threading.Event()
        self._idle = True
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, facts: MapFacts) -> None:
        """Show `facts` from half a second after now on, if it then still runs."""
        if self._closed:
            return
        self._arrived.append(Watched(facts, self._open_view))
        if self._thread is None:
            self._start()
        if self._idle:
            self._wake.set()

    def settle(self, limit_seconds: float = 0.3) -> None:
        """Wait until the last state of every shown map that has ended is drawn."""
        if self._thread is None or not self._shown:
            return
        drawn = threading.Event()
        self._settling.append(drawn)
        self._wake.set()
        drawn.wait(limit_seconds)

    def close(self) -> None:
        """Draw every shown map once more and end the thread."""
        self._closed = True
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(EXIT_SECONDS)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="notebook-ext-ui", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        watched: list[Watched] = []
        while not self._closed:
            watched = self._turn(watched)
            self._wait(watched)
        for each in self._turn(watched):
            each.tick(time.monotonic(), last=True)

    def _turn(self, watched: list[Watched]) -> list[Watched]:
        settling = _drain(self._settling)
        watched += _drain(self._arrived)
        now = time.monotonic()
        self._shown = any(now >= each.shown_at for each in watched)
        left = [each for each in watched if each.tick(now)]
        self._shown = any(each.is_shown for each in left)
        for drawn in settling:
            drawn.set()
        return left

    def _wait(self, watched: list[Watched]) -> None:
        if watched:
            soonest = min(each.shown_at for each in watched)
            self._wake.wait(max(soonest - time.monotonic(), TICK_SECONDS))
        else:
            self._idle = True
            if not self._arrived and not self._closed:
                self._wake.wait()
            self._idle = False
        self._wake.clear()


def _drain(queue: deque[T]) -> list[T]:
    items: list[T] = []
    with contextlib.suppress(IndexError):
        while True:
            items.append(queue.popleft())
    return items
