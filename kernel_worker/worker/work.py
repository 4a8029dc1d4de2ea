"""A lease while a worker runs it: what is left of it, and what has been made and not been sent.

The main thread runs its inputs; the control thread may lower `stop` (what was not started is given
back), ask for interrupts (`wanted`) and send what lies finished.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kernel_worker.errors import InputCancellation
from kernel_worker.store import blobs
from kernel_worker.wire import messages, payload
from kernel_worker.wire import page as pages
from kernel_worker.wire.frames import FORM_VALUE
from kernel_worker.worker import arriving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.interrupts import Kind
    from kernel_worker.worker.lent import Lent

_NS = 1e-9
_MAX_COUNT = 1 << 20
_KEPT_BYTES = 1 << 20
"""So much of what was answered is kept for another broker; a lease that has more is forgotten."""


class Results:
    """Values that were made, in order: one thread adds, another one may take."""

    def __init__(self, store: str) -> None:
        """Start with none; large ones go into the client's `store`."""
        self.values: list[object] = []
        """Plain ones, newer than those in the writer; only the main thread appends."""
        self._place = blobs.keep_in(store)
        self._writer = payload.BatchWriter(FORM_VALUE, keep=self._place)
        self._is_written = False
        """Whether the writer may hold some."""
        self._results = threading.Lock()

    def add(self, value: object) -> None:
        """Append a value that is not plain; pickles it.

        Raises:
            SerializationError: it cannot be pickled.
        """
        try:
            with self._results:
                self._settle()
            self._writer.add(value)
        finally:
            self._is_written = True  # not before: who takes would find it empty, and say so

    @property
    def pending_bytes(self) -> int:
        """About how large the values are that wait."""
        return self._writer.pending_bytes

    @property
    def pending_message_bytes(self) -> int:
        """The same, but for what lies in a store."""
        return self._writer.pending_message_bytes

    @property
    def lies_in_store(self) -> bool:
        """Whether something of what waits does."""
        return self._writer.pending_message_bytes < self._writer.pending_bytes

    @property
    def has_results(self) -> bool:
        """Whether values wait."""
        return bool(self.values) or len(self._writer) > 0

    def take(self) -> tuple[int, list[Frame]]:
        """Remove all that wait; return how many there are, and their batch."""
        with self._results:
            if self._is_written:
                self._settle()
                self._is_written = False
                return self._writer.take(_MAX_COUNT)
            taken = self.values[:]
            del self.values[: len(taken)]
            if len(taken) == 1:
                frames = payload.dumps(taken[0])
                if len(frames[1]) < payload.APART_BYTES:
                    return 1, frames
            if not taken:
                return 0, []
            encode = payload.encode_batch
            return len(taken), encode(taken, FORM_VALUE, self._place, are_plain=True)

    def _settle(self) -> None:
        count = len(self.values)
        if count:
            self._writer.extend(self.values[:count])
            del self.values[:count]


class Work(Results):
    """One lease."""

    def __init__(self, lease: messages.Lease, wanted: dict[int, Kind]) -> None:
        """Begin `lease`, of which these interrupts were asked for already."""
        super().__init__(arriving.store_of(lease))
        self.id = lease.lease
        self.lease = lease
        self.stop = lease.stop
        """The end of what this worker runs; lowered by `give_back`."""
        self.wanted = wanted
        """Interrupts that were asked for, by index (`want`)."""
        self.asked: list[int] = list(wanted)
        """Not empty: something was asked for (see `heed`), so that no stride begins any more."""
        self.hits: dict[int, Kind] = {}
        """Interrupts that were raised, by index."""
        self.lent: Lent | None = None
        """The line by which further inputs come."""
        self.is_closing = False
        """A generator's `finally` runs: it is not interrupted a second time."""
        self.mark_ns = time.monotonic_ns()
        """Until when time was reported."""
        self.forgot = bool(
            lease.line or lease.streams is not None or lease.context.keep_failed_seconds
        )
        """Whether answers are not kept: no other broker could go on with it, or they are large."""
        self.is_adopted = False
        """The broker that gave it is gone: what another one still misses at its end is given up."""
        self._kept: list[tuple[messages.ToBroker, tuple[bytes, ...]]] = []
        """What was answered: a broker that dies may not have kept it."""
        self._kept_bytes = 0
        self._start = lease.start
        self._gate = threading.Lock()

    def go_on(self, lease: messages.Lease, now_ns: int) -> None:
        """Take up a further input of a line, as a lease of one under the same id."""
        self.lease = lease
        self.stop = lease.stop
        self._start = lease.start
        self.mark_ns = now_ns

    def give_back(self, page: pages.Page) -> tuple[int, int]:
        """Give up what was not started; return its range.

        The main thread writes the position before it reads `stop`, and this writes `stop` before
        it reads the position again: so one of the two notices the other. Where it is the main
        thread, `keeps` makes it wait for what is decided here.
        """
        with self._gate:
            end, lowered = self.stop, page.slots[pages.POSITION] + 1
            if lowered >= end:
                return end, end
            self.stop = lowered
            self.asked.append(lowered)
            self.stop = min(max(page.slots[pages.POSITION] + 1, lowered), end)
            if page.slots[pages.STOP]:
                page.slots[pages.STOP] = self.stop
            return self.stop, end

    def want(self, index: int, kind: Kind) -> None:
        """Ask for an interrupt of one input."""
        self.wanted[index] = kind
        self.asked.append(index)

    def heed(self, position: int) -> bool:
        """Say whether the input at `position`, which the page names, is to run.

        Raises:
            InputCancellation: it is, and ends like that.
        """
        if not self.keeps(position):
            return False
        if position in self.wanted:
            raise InputCancellation
        return True

    def keeps(self, position: int) -> bool:
        """Say whether the input at `position` is still this worker's."""
        with self._gate:
            return position < self.stop

    def send_locked(self, channel: Channel, until_ns: int) -> None:
        """Send what has been made, while the channel's lock is held; its time ended `until_ns`."""
        elapsed = max(until_ns - self.mark_ns, 0) * _NS
        count, frames = self.take()
        if not count:
            return
        self.mark_ns = max(until_ns, self.mark_ns)
        message = messages.Done(self.id, self._start, count, elapsed)
        self._start += count
        self._keep(message, frames)
        channel.send_locked(message, frames, self.lease.call)

    def end_locked(
        self, channel: Channel, message: messages.InputEnded, frames: list[bytes]
    ) -> None:
        """Send how an input ended that did not succeed, after everything before it."""
        self._keep(message, frames)
        channel.send_locked(message, frames, self.lease.call)
        self._start = message.index + 1
        self.mark_ns = time.monotonic_ns()

    def repeat_locked(self, channel: Channel) -> None:
        """Answer again to the broker that follows, which drops what the last one had kept."""
        for message, frames in self._kept:
            channel.send_locked(message, frames, self.lease.call)

    def _keep(self, message: messages.ToBroker, frames: Sequence[Frame]) -> None:
        if self.forgot:
            return
        self._kept_bytes += sum(map(len, frames))
        if self._kept_bytes > _KEPT_BYTES:
            self.forgot = True
            self._kept.clear()
        else:
            self._kept.append((message, tuple(map(bytes, frames))))
