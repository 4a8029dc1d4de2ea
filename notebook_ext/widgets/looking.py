"""Looking at something again and again that takes a while to find out, never in the UI thread.

A look is a function that may wait (for an answer of the broker) and compute. It runs in a thread of
its own; the UI thread asks ten times a second whether there is something new. The pause between two
looks follows what they cost this process: looking takes at most a twentieth of a core, however much
there is to see. (What a look costs the broker is of the same order: it packs what is read here.)
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from kernel_worker.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_SECONDS: Final = 0.25
_SHARE: Final = 20

T = TypeVar("T")


class Looking(Generic[T]):
    """Looks, whenever it is time to and somebody polls."""

    def __init__(self, look: Callable[[], T], shortest_seconds: float = SHORTEST_SECONDS) -> None:
        """Look by calling `look`, in a thread.

        Args:
            look: returns what it finds; what it raises is kept in `problem`.
            shortest_seconds: how long the pause between two looks is at least.
        """
        self._look = look
        self._shortest = shortest_seconds
        self._thread: threading.Thread | None = None
        self._due = 0.0
        self._found: list[T] = []
        self.problem = ""
        """What went wrong at the last look, in one line."""

    @property
    def is_busy(self) -> bool:
        """Return whether a look is under way: what it changes must not be read now."""
        return self._thread is not None and self._thread.is_alive()

    def poll(self, now: float) -> T | None:
        """Return what the last look has found, once; begin the next one where it is due.

        Args:
            now: Seconds of `time.monotonic`.
        """
        if self.is_busy:
            return None
        if self._found:
            return self._found.pop()
        if now >= self._due:
            self._thread = threading.Thread(target=self._run, name="notebook-ext-look", daemon=True)
            self._thread.start()
        return None

    def hurry(self) -> None:
        """Make the next look due now."""
        self._due = 0.0

    def _run(self) -> None:
        begun = time.thread_time()
        try:
            self._found = [self._look()]
            self.problem = ""
        except Error as error:
            self.problem = " ".join(str(error).split())
        finally:
            spent = time.thread_time() - begun
            self._due = time.monotonic() + max(self._shortest, _SHARE * spent)
