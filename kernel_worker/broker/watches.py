"""What the broker waits for besides messages: descriptors, deaths of processes, moments.

One selector holds every descriptor but the socket, so that the loop polls two things however many
clients there are.
"""

from __future__ import annotations

import os
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Watches:
    """Descriptors, each with what to call when it is readable."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """Return a descriptor that is readable when one of the watched ones is."""
        return self._selector.fileno()

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` in each turn in which `descriptor` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def remove(self, descriptor: int) -> None:
        """Stop watching `descriptor` (before it is closed)."""
        self._selector.unregister(descriptor)

    def dispatch(self) -> None:
        """Make the calls that are due."""
        for key, _ in self._selector.select(0):
            if key.fd in self._selector.get_map():  # an earlier call may have removed it
                key.data()

    def close(self) -> None:
        """Let go of everything."""
        self._selector.close()


class ProcessWatch:
    """Calls once when a process of this machine ends."""

    def __init__(self, watches: Watches, pid: int, on_death: Callable[[], None]) -> None:
        """Watch `pid`.

        Raises:
            ProcessLookupError: There is no such process.
            OSError: Processes cannot be watched here.
        """
        if not hasattr(os, "pidfd_open"):
            message = "no pidfd on this system"
            raise OSError(message)
        self._watches = watches
        self._on_death = on_death
        self._descriptor = os.pidfd_open(pid)
        watches.add(self._descriptor, self._died)

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            self._watches.remove(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _died(self) -> None:
        self.close()
        self._on_death()


class Timers:
    """Named moments, each with what to call then. There are few: one search for all of them."""

    def __init__(self) -> None:
        self._timers: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._next: float | None = None

    def set(self, name: Hashable, at: float, callback: Callable[[], None]) -> None:
        """Call `callback` at the time `at`, instead of what `name` stood for."""
        self._timers[name] = (at, callback)
        self._find_next()

    def set_if_earlier(self, name: Hashable, at: float, callback: Callable[[], None]) -> None:
        """Call `callback` at the time `at`, unless what `name` stands for comes before that."""
        known = self._timers.get(name)
        if known is None or at < known[0]:
            self.set(name, at, callback)

    def cancel(self, name: Hashable) -> None:
        """Forget `name`."""
        if self._timers.pop(name, None) is not None:
            self._find_next()

    def __contains__(self, name: Hashable) -> bool:
        return name in self._timers

    def next_deadline(self) -> float | None:
        """Return when `run` has something to do, or None."""
        return self._next

    def run(self, now: float) -> None:
        """Make the calls that are due at `now`."""
        if self._next is None or now < self._next:
            return
        due = [(name, callback) for name, (at, callback) in self._timers.items() if at <= now]
        for name, _ in due:
            del self._timers[name]
        self._find_next()
        for _, callback in due:
            callback()

    def _find_next(self) -> None:
        self._next = min((at for at, _ in self._timers.values()), default=None)
