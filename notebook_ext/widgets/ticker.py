"""The UI thread: it alone draws what is shown and hears what is clicked, at most at 10 Hz.

Theory. A widget's traits must have one owner, so every widget of ours is made, changed and closed
in this thread. `show` gives it something to draw again and again (`Ticked`), `post` something to do
once, which is how a click arrives (see `comm_filter`). What is shown appears in the cell that asked
for it: `show` takes the context variables of its caller, and every look runs under them.

The thread exists only while there is something to do: it starts with the first `show` or `post` and
ends some seconds after the last. `show` is on the way of every map: it costs microseconds, and a
sleeping thread is woken only for what must be drawn before it would wake by itself.

What the caller's thread does here, no interrupt can break: it makes no use of `Condition`, nor of
`Event`, whose lock is taken by Python code that a stop button may leave with the lock taken; and it
starts no thread (`dropping` does).

Nothing here raises into the caller, and what fails is dropped: a display must never be the reason
why a map fails. What is shown is drawn once more when the interpreter exits. Whoever runs in this
thread must not wait for anything: every other display would wait too.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import os
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from notebook_ext import dropping
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ticked", "Ticker", "post", "settle", "show"]

TICK_SECONDS: Final = 0.1
LINGER_SECONDS: Final = 5.0
"""The thread ends when it has had nothing to do for so long."""
EXIT_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 0.3

T = TypeVar("T")

_log = logging.getLogger("notebook_ext")


class Ticked(Protocol):
    """Something to draw again and again; everything is called in the UI thread."""

    @property
    def starts_at(self) -> float:
        """Return when it wants to be drawn first, in seconds of `time.monotonic`."""

    @property
    def is_shown(self) -> bool:
        """Return whether anybody sees it by now: then its end is worth waiting for."""

    def tick(self, now: float, *, last: bool) -> bool:
        """Draw how it stands `now`; return False where nothing will change any more.

        Args:
            now: Seconds of `time.monotonic`.
            last: Whether this is the last time: the interpreter exits.
        """


class _Drawn:
    """A `Ticked` with the context of who asked for it."""

    def __init__(self, ticked: Ticked) -> None:
        self.ticked = ticked
        self.first: Waiting[None] = Waiting()
        self._context = contextvars.copy_context()

    def tick(self, now: float, *, last: bool = False) -> bool:
        if not last and now < self.ticked.starts_at:
            return True
        try:
            return self._context.run(self._tick, now, last)
        except Exception:  # noqa: BLE001  a display must not break what it shows
            _log.debug("a display failed and is gone", exc_info=True)
            return False
        finally:
            self.first.complete(_nothing)

    def _tick(self, now: float, last: bool) -> bool:  # noqa: FBT001  called through a context
        return self.ticked.tick(now, last=last)


class Ticker:
    """The thread and what it draws. There is one; tests make their own."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._arrived: deque[_Drawn] = deque()
        self._posted: deque[Callable[[], object]] = deque()
        self._settling: deque[Waiting[None]] = deque()
        self._shown = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._wakes_at = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known_at_exit = False
        self._closed = False

    def show(self, ticked: Ticked, *, wait_seconds: float = 0.0) -> None:
        """Draw `ticked` in the caller's cell, from its `starts_at` on, until its `tick` says False.

        Args:
            ticked: What to draw.
            wait_seconds: How long to wait for the first drawing, for what a cell shows on purpose:
                output that comes after a cell has ended is lost where no page is open.
        """
        drawn = _Drawn(ticked)
        self._arrived.append(drawn)
        self._attend(ticked.starts_at)
        if wait_seconds:
            drawn.first.wait(wait_seconds)

    def post(self, action: Callable[[], object]) -> None:
        """Call `action` soon, in the UI thread; what it raises is logged."""
        self._posted.append(action)
        self._attend(0.0)

    def settle(self, limit_seconds: float = SETTLE_SECONDS) -> None:
        """Wait until everything that is shown has been drawn as it stands now."""
        if self._thread is None or not self._shown:
            return
        drawn: Waiting[None] = Waiting()
        self._settling.append(drawn)
        self._wake.put(None)
        drawn.wait(limit_seconds)

    def close(self) -> None:
        """Draw everything once more and end the thread."""
        self._closed = True
        self._wake.put(None)
        if self._arrived or self._posted:
            self._start()  # it may be on its way
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(EXIT_SECONDS)

    @property
    def runs(self) -> bool:
        """Return whether the thread is there."""
        return self._thread is not None

    def _attend(self, at: float) -> None:
        """Have a thread that looks at the queues no later than `at`."""
        with self._lock:
            is_missing = self._thread is None and not self._closed
        if is_missing:
            dropping.aside(self._start)
        if not self._known_at_exit:
            self._known_at_exit = True
            atexit.register(self.close)
        if at < self._wakes_at:
            self._wake.put(None)

    def _start(self) -> None:
        """Start the thread, in one that no interrupt comes to."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="notebook-ext-ui", daemon=True
                )
                self._thread.start()

    # ---- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        drawn: list[_Drawn] = []
        next_tick = 0.0
        while not self._closed:
            self._do_posted()
            drawn += _drain(self._arrived)
            settling = _drain(self._settling)
            now = time.monotonic()
            if settling or now >= next_tick:
                drawn = self._tick(drawn, now)
                next_tick = now + TICK_SECONDS
                for done in settling:
                    done.complete(_nothing)
            if not self._waited(drawn, next_tick):
                return
        self._do_posted()
        for each in drawn + _drain(self._arrived):
            each.tick(time.monotonic(), last=True)

    def _do_posted(self) -> None:
        for action in _drain(self._posted):
            try:
                action()
            except Exception:  # noqa: BLE001  the thread serves on, whoever's code failed
                _log.exception("What a widget was asked for failed.")

    def _tick(self, drawn: list[_Drawn], now: float) -> list[_Drawn]:
        # Before the looks: whoever settles meanwhile waits for the next round.
        self._shown = any(now >= each.ticked.starts_at for each in drawn)
        left = [each for each in drawn if each.tick(now)]
        self._shown = any(each.ticked.is_shown for each in left)
        return left

    def _waited(self, drawn: list[_Drawn], next_tick: float) -> bool:
        """Wait for the next tick or something new; return False where the thread has ended."""
        now = time.monotonic()
        if drawn:
            soonest = min(each.ticked.starts_at for each in drawn)
            self._wakes_at = max(soonest, next_tick)
        else:
            self._wakes_at = now + LINGER_SECONDS
        if not (self._arrived or self._posted or self._settling or self._closed):
            with contextlib.suppress(Empty):
                self._wake.get(timeout=max(self._wakes_at - now, 0.0))
        with contextlib.suppress(Empty):
            while True:
                self._wake.get_nowait()
        if drawn or self._closed or time.monotonic() < self._wakes_at:
            return True
        with self._lock:
            if self._arrived or self._posted or self._settling or self._closed:
                return True
            self._wakes_at = 0.0
            self._thread = None
            return False


def _drain(queue: deque[T]) -> list[T]:
    items: list[T] = []
    with contextlib.suppress(IndexError):
        while True:
            items.append(queue.popleft())
    return items


def _nothing() -> None:
    """What a waiting gives that only says that something was drawn."""


_ticker = Ticker()


def show(ticked: Ticked, *, wait_seconds: float = 0.0) -> None:
    """Draw `ticked` in the caller's cell; see `Ticker.show`."""
    _ticker.show(ticked, wait_seconds=wait_seconds)


def post(action: Callable[[], object]) -> None:
    """Call `action` soon, in the UI thread; see `Ticker.post`."""
    _ticker.post(action)


def settle() -> None:
    """Wait until what is shown has been drawn as it stands now; see `Ticker.settle`."""
    _ticker.settle()


def _after_fork() -> None:
    global _ticker  # noqa: PLW0603  the thread of the parent is not here
    _ticker = Ticker()


os.register_at_fork(after_in_child=_after_fork)
