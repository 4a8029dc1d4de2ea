"""Giving memory back after a flood.

What a flood of calls needed is free again when the last of them has ended, but free inside this
process: the allocator keeps it. When no call is open, and the process is larger than it was at its
last rest by more than a little, the allocator is asked to return what it can (`malloc_trim`, some
ms). One timer while calls come in, none at rest.
"""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.loop import Broker

REST_SECONDS: Final = 2.0
_GROWN_BYTES: Final = 4 << 20
_TIMER: Final = "rest"


def trim() -> None:
    """Return free memory to the system, where the C library can."""
    import ctypes  # noqa: PLC0415  half a megabyte that only a flood is worth

    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return how much memory this process has in use."""
    words = Path("/proc/self/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE")


class Rest:
    """Notices when the broker has come to rest."""

    def __init__(
        self,
        broker: Broker,
        measure: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = trim,
    ) -> None:
        """Serve `broker`; `measure` says how large it is, `give_back` makes it smaller."""
        self._broker = broker
        self._measure = measure
        self._give_back = give_back
        self._is_set = False
        self._size_bytes = measure()

    def expect(self) -> None:
        """A call has come in."""
        if not self._is_set:
            self._is_set = True
            self._broker.timers.set(_TIMER, self._broker.now() + REST_SECONDS, self._look)

    def _look(self) -> None:
        self._is_set = False
        if self._broker.calls:
            self.expect()
        elif self._measure() > self._size_bytes + _GROWN_BYTES:
            self._give_back()
            self._size_bytes = self._measure()
