"""The progress page: a few words of shared memory in which a worker says where it is.

The host agent reads it without asking anybody: for timeouts, and for which input had started when
the worker died, also while C code holds the GIL. Slots are 64-bit words, written one at a time by
the worker's main thread; `CLOCK_MONOTONIC` is one clock for all processes of a machine.
A worker that runs several leases at once says so in a table behind these slots, of which each row
is one input (`enter` and `leave`, under a lock of the worker's).

Guaranteed: what `running` names is the input that runs, from before its arguments are unpickled
until after its result is pickled. Not guaranteed: that two slots belong together while the worker
runs: `Page.running` reads twice and compares.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

SIZE_BYTES = 32 * 1024
LEASE = 0
"""The lease that it runs; 0: none."""
POSITION = 1
"""The index of the input that was last taken up; it only grows within a lease."""
STARTED = 2
"""When that input started, in nanoseconds of `time.monotonic_ns`; 0: it does not run."""
READY = 3
"""1 once the function is loaded."""
_CALL_LENGTH = 4
_ROWS = 5
"""How many rows of the table were ever used."""
_CALL_START = 64
_MAX_CALL_BYTES = 256
_TABLE = 64
_MAX_ROWS = (SIZE_BYTES // 8 - _TABLE) // 3


@dataclass(frozen=True, slots=True)
class Place:
    """The input that runs."""

    lease: int
    index: int
    started_ns: int


class Page:
    """One worker's page, as either side sees it."""

    def __init__(self, file: int) -> None:
        """Map the page that `file` (see `create_file`) holds."""
        self._map = mmap.mmap(file, SIZE_BYTES)
        self._bytes = memoryview(self._map)
        self.slots = self._bytes.cast("q")
        """Indexed by the constants above."""

    @property
    def is_ready(self) -> bool:
        """Whether the function is loaded."""
        return self.slots[READY] == 1

    def running(self) -> Place | None:
        """Return which input runs, or None if none does."""
        while True:
            lease, index, started = self.slots[LEASE], self.slots[POSITION], self.slots[STARTED]
            if (lease, index) == (self.slots[LEASE], self.slots[POSITION]):
                return Place(lease, index, started) if lease and started else None

    def all_running(self) -> list[Place]:
        """Return the inputs that run, the one that began last last."""
        found = [place for row in range(self.slots[_ROWS]) if (place := self._row(row))]
        found.sort(key=lambda place: place.started_ns)
        single = self.running()
        return found if single is None else [*found, single]

    def _row(self, row: int) -> Place | None:
        at = _TABLE + 3 * row
        while True:
            lease, index, started = self.slots[at], self.slots[at + 1], self.slots[at + 2]
            if lease == self.slots[at]:
                return Place(lease, index, started) if lease and started else None

    @property
    def call(self) -> str:
        """The call of the lease."""
        length = self.slots[_CALL_LENGTH]
        return bytes(self._bytes[_CALL_START : _CALL_START + length]).decode(errors="replace")

    def enter_lease(self, lease: int, call: str, start: int) -> None:
        """Say that `lease` runs from the input at `start` on, and that none of it does yet."""
        self._name(call)
        self.slots[STARTED] = 0
        self.slots[POSITION] = start - 1
        self.slots[LEASE] = lease

    def leave_lease(self) -> None:
        """Say that no lease runs."""
        self.slots[STARTED] = 0
        self.slots[LEASE] = 0

    def enter(self, lease: int, call: str, index: int, started_ns: int) -> int:
        """Say that an input runs beside others; return its row, or -1 where there is none left."""
        self._name(call)
        used = self.slots[_ROWS]
        free = (row for row in range(used) if not self.slots[_TABLE + 3 * row])
        row = next(free, used)
        if row >= _MAX_ROWS:
            return -1
        at = _TABLE + 3 * row
        self.slots[at + 1] = index
        self.slots[at + 2] = started_ns
        self.slots[at] = lease
        self.slots[_ROWS] = max(used, row + 1)
        return row

    def leave(self, row: int) -> None:
        """Say that the input in `row` (-1: it has none) runs no more."""
        if row >= 0:
            self.slots[_TABLE + 3 * row] = 0

    def _name(self, call: str) -> None:
        name = call.encode()[:_MAX_CALL_BYTES]
        self._bytes[_CALL_START : _CALL_START + len(name)] = name
        self.slots[_CALL_LENGTH] = len(name)

    def close(self) -> None:
        """Unmap it."""
        self.slots.release()
        self._bytes.release()
        self._map.close()


def create_file() -> int:
    """Return an anonymous file for a new page."""
    file = os.memfd_create("notebook-ext-page", os.MFD_CLOEXEC)
    os.ftruncate(file, SIZE_BYTES)
    return file
