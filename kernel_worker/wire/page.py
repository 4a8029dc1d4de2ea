"""The progress page: a few words of shared memory in which a worker says where it is.

The host agent reads it without asking anybody: for timeouts, and for which input had started when
the worker died, also while C code holds the GIL. Slots are 64-bit words, written one at a time by
the worker's main thread (STARTED by its control thread too); `CLOCK_MONOTONIC` is one clock for
all processes of a machine.
A worker that runs several leases at once says so in a table behind these slots, of which each row
is one input (`enter` and `leave`, under a lock of the worker's).
What lease it runs, or ran last, can be read here too (`held`): for the next broker, where this one
is gone. The host agent counts the brokers that are gone in GONE, before it reads that; a worker
that takes a lease up looks there when it has written: so none that the agent has not seen runs on.

Guaranteed: what `running` names is the input that runs, from before its arguments are unpickled
until after its result is pickled. Not guaranteed: that two slots belong together while the worker
runs: `Page.running` reads twice and compares.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from kernel_worker.model import CallId, Held, LeaseId

SIZE_BYTES = 32 * 1024
LEASE = 0
"""The lease that it runs; 0: none."""
POSITION = 1
"""The index of the input that was last taken up; it only grows within a lease."""
STARTED = 2
"""When that input started, in nanoseconds of `time.monotonic_ns`; 0: it does not run.

In a stride of quick inputs (`worker.strides`): when the first did. The control thread of the worker
writes it anew where a later one turns out to take its time."""
READY = 3
"""1 once the function is loaded."""
GONE = 6
"""How many brokers are gone that knew this worker; written by the host agent."""
_CALL_LENGTH = 4
_ROWS = 5
"""How many rows of the table were ever used."""
_CALL_START = 64
_MAX_CALL_BYTES = 256
_LAST = 40
"""The lease that it runs or ran last, behind the three slots that say what it is."""
_START = 41
STOP = 42
"""The end of what it runs of that lease; 0: no other broker can go on with it."""
_ATTEMPT = 43
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

    def held(self) -> Held | None:
        """Return which lease runs or ran last, in a worker that runs one at a time; None: none."""
        while True:
            last = self.slots[_LAST]
            start, stop, attempt = self.slots[_START], self.slots[STOP], self.slots[_ATTEMPT]
            call, runs = self.call, self.slots[LEASE] != 0
            index = self.slots[POSITION] + 1
            if last == self.slots[_LAST]:
                break
        if not last:
            return None
        return Held(LeaseId(last), CallId(call), start, stop, attempt, index, runs)

    def enter_lease(
        self, lease: int, call: str, start: int, stop: int = 0, attempt: int = 1
    ) -> None:
        """Say that `lease` runs from the input at `start` on, and that none of it does yet.

        Args:
            lease: its number.
            call: whose inputs it holds.
            start: the first of them.
            stop: the end of them; 0: no other broker can go on with it.
            attempt: which attempt of theirs it is.
        """
        slots = self.slots
        slots[_LAST] = 0
        self._name(call)
        slots[STARTED] = 0
        slots[POSITION] = start - 1
        slots[_START] = start
        slots[STOP] = stop
        slots[_ATTEMPT] = attempt
        slots[LEASE] = lease
        slots[_LAST] = lease

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
