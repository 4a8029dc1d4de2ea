"""What the shell keeps of each open call: whose it is, what it names, and the frames of its inputs.

The core knows positions; here are the bytes. A batch stays until every input of it is terminal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, cast

import msgspec

from kernel_worker.model import CallContext, CallId, ClientId, Digest, LeaseId, WorkerId
from kernel_worker.wire import frames as batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.messages import CallProgress, LogEntry

Frame = bytes | memoryview


class _Batch(msgspec.Struct, eq=False):
    start: int
    stop: int
    open_inputs: int
    frames: Sequence[Frame]
    table: batches.Table | None = None
    """Where its items lie, once a part of it was cut out."""


class Batches:
    """The batches of one call, by position."""

    __slots__ = ("_batches", "_starts", "end")

    def __init__(self) -> None:
        self.end = 0
        """How many inputs have arrived: they come in order, without gaps."""
        self._starts: list[int] = []
        self._batches: list[_Batch] = []

    def add(self, start: int, count: int, frames: Sequence[Frame]) -> None:
        """Keep a batch of `count` inputs from `start` on. It overlaps no other."""
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._batches.insert(at, _Batch(start, start + count, count, frames))
        self.end = max(self.end, start + count)

    def cut(self, start: int, stop: int) -> tuple[int, Sequence[Frame]]:
        """Return frames that hold `[start, stop)`, and the index of the first input in them.

        Raises:
            LookupError: No batch holds all of it.
        """
        at = bisect_right(self._starts, start) - 1
        batch = self._batches[at] if at >= 0 else None
        if batch is None or stop > batch.stop:
            message = f"no batch holds the inputs [{start}, {stop})"
            raise LookupError(message)
        if start == batch.start and stop == batch.stop:
            return start, batch.frames
        frames = cast("Sequence[memoryview]", batch.frames)  # any mixture of them and bytes
        head = batches.header(frames)
        if head.whole:
            return batch.start, frames
        if batch.table is None:
            batch.table = batches.table(frames[0], head.count)
        low, high = start - batch.start, stop - batch.start
        return start, batches.cut_by(batch.table, head.form, frames, low, high)

    def drop(self, start: int, stop: int) -> None:
        """Forget `[start, stop)`: each input once. The frames go with the last of their batch."""
        at = max(0, bisect_right(self._starts, start) - 1)
        while at < len(self._batches) and self._batches[at].start < stop:
            batch = self._batches[at]
            batch.open_inputs -= max(0, min(stop, batch.stop) - max(start, batch.start))
            if batch.open_inputs <= 0:
                del self._batches[at], self._starts[at]
            else:
                at += 1

    def __len__(self) -> int:
        return len(self._batches)


class Producer(msgspec.Struct, eq=False):
    """The attempt that gives the items of a call."""

    worker: WorkerId
    lease: LeaseId
    taken: int = 0
    """How many of its items were credited to it …"""
    taken_bytes: int = 0
    """… and the bytes of their frames."""
    is_paused: bool = False
    """Whether the core was told that it waits for credit."""
    written: int = 0
    """Of a spawned call: how many of its items are on disk …"""
    written_bytes: int = 0
    """… and the bytes of their frames."""


class OpenCall(msgspec.Struct, eq=False):
    """One call whose inputs are not all terminal."""

    call: CallId
    client: ClientId
    attached: bool
    opened_at: float
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    shared: Digest = Digest("")
    context: CallContext = CallContext()
    batches: Batches = msgspec.field(default_factory=Batches)
    listeners: list[ClientId] = []
    """Who is told the outcomes; of an attached call its client."""
    last_progress: CallProgress | None = None
    shown_lines: int = 0
    shown_bytes: int = 0
    """What it wrote that was passed on."""
    logged_bytes: int = 0
    log_has_gap: bool = False
    tail: deque[LogEntry] = msgspec.field(default_factory=deque)
    """The end of what an attached call wrote."""
    streams: bool = False
    line: str = ""
    """Where the client listens that would have its worker lent …"""
    reached: int = 0
    """… and how far the worker has said it has come there."""
    item_listeners: list[ClientId] = []
    """Who is told what the generator of a spawned call gives, besides its outcome."""
    producer: Producer | None = None
    """Who runs the generator, of a call that streams."""

    def audience(self) -> list[ClientId]:
        """Return who sees what the call writes: whoever listens, and whoever submitted it."""
        if self.client in self.listeners or not self.client:
            return self.listeners
        return [*self.listeners, self.client]
