"""Buffers of payloads that lie in a store: put there, named in frames, and read.

Theory. Each client has a store, which it names in the calls that it waits for; its workers put the
buffers of their results there too. So one process keeps account of all that lies in it: a buffer
is needed while the client has a frame that names it (the inputs of an open call, results that
nobody has taken) or a mapping of it (an array that was taken). `Blob` is such a frame; it holds the
`Segment`, and when the last that holds one is gone the segment is free.

Guarantees: what a frame names is there for as long as a frame or a mapping of the client's is. A
value that a worker returns, or a client passes on, as it came is not written again.
Not guaranteed: that a worker can read what its client gave up meanwhile.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.errors import DeserializationError, ProtocolError
from kernel_worker.store import segments
from kernel_worker.store.carrying import MARK
from kernel_worker.wire import frames as batches
from kernel_worker.wire.frames import Place, Stored

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.payload import Keep


_LARGE_BYTES: Final = 4 * 1024 * 1024
_WAITING: Final = 16
"""So many smaller segments may wait to be freed until there is something new: to wake the thread
that does it costs as much as a small one is worth."""
_TRIMMED: Final = 8
"""So many segments are freed before a look whether that are too many."""
_LOST_SECONDS: Final = 30.0
"""So often at most is looked for what nobody accounts for."""


class Segment:
    """One life of a segment, as its client accounts for it."""

    def __init__(self, name: str) -> None:
        """Account for the segment `name`."""
        self.name = name


class _Tie(weakref.ref[Segment]):
    """Tells that a segment is not needed any more."""

    __slots__ = ("name",)

    name: str


class Blob(Stored):
    """A frame that names a buffer, where its store is at hand."""

    directory: str
    segment: Segment | None

    @classmethod
    def named(
        cls, frame: bytes, place: Place, directory: str, segment: Segment | None = None
    ) -> Blob:
        """Return the frame that names a buffer of a store.

        Args:
            frame: as `wire.frames.reference` makes it.
            place: what it says.
            directory: the store.
            segment: what the buffer lies in, in the client's own process.
        """
        blob = cls(frame)
        blob.place = place
        blob.directory = directory
        blob.segment = segment
        return blob

    def fetched(self) -> bytearray | mmap.mmap:
        """Return the buffer: one's own, writable.

        Raises:
            DeserializationError: it is not there any more.
        """
        try:
            return segments.fetch(self.directory, self.place, self.segment)
        except OSError as error:
            message = f"a buffer of {self.place.nbytes:,} bytes is not there any more: {error}"
            raise DeserializationError(message) from error


def placed(
    directory: str,
    buffers: Sequence[memoryview],
    account: Callable[[str], Segment | None] = lambda _: None,
) -> list[Stored] | None:
    """Put the buffers of a value into a store; return the frames that name them.

    Args:
        directory: the store.
        buffers: of bytes.
        account: returns the account of a segment.

    Returns:
        None where they are better sent: they are small, or there is no room.
    """
    if sum(buffer.nbytes for buffer in buffers) < segments.STORED_BYTES:
        return None
    found = [segments.unchanged(directory, buffer) for buffer in buffers]
    new = [buffer for buffer, known in zip(buffers, found, strict=True) if known is None]
    places = segments.write(directory, new) if new else []
    if places is None:
        return None
    made = iter(places)
    account_of = account
    blobs: list[Stored] = []
    for known in found:
        place, holds = (next(made), None) if known is None else known
        segment = holds if isinstance(holds, Segment) else account_of(place.name)
        blobs.append(Blob.named(batches.reference(place), place, directory, segment))
    return blobs


def found(directory: str, parts: Sequence[Frame]) -> list[Frame]:
    """Return a batch whose buffers can be read from a store: in a worker."""
    return [
        *parts[:2],
        *(
            Blob.named(bytes(frame), batches.place_of(frame), directory)
            if batches.inlined(frame) is None
            else frame
            for frame in parts[2:]
        ),
    ]


def brought(parts: Sequence[Frame]) -> Sequence[Frame]:
    """Return a batch with its buffers in it, as who cannot look into the store needs it."""
    if not batches.is_stored(parts):
        return parts
    head = batches.header(parts)
    offsets, positions = batches.table(parts[0], head.count)
    front = batches.itemised_header(head.form, offsets, positions)
    return [front, parts[1], *map(_brought, parts[2:])]


class Content(bytes):
    """An object whose buffers lie in a store: as it is sent, with what accounts for them."""

    frames: Sequence[Frame]

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Content:
        """Return the object that a stored batch of one is."""
        content = cls(MARK + msgspec.msgpack.encode([bytes(frame) for frame in frames]))
        content.frames = frames
        return content


class _Lasting(Stored):
    """A frame that names a buffer which is read many times."""

    held: segments.Held

    def fetched(self) -> bytearray | mmap.mmap:
        return self.held.fetch()


def is_content(content: bytes) -> bool:
    """Return whether the buffers of an object lie in a store."""
    return content.startswith(MARK)


def opened(directory: str, content: bytes) -> list[Frame]:
    """Return the batch that an object is, to be read many times: in a worker.

    Raises:
        DeserializationError: it is none, or its buffers are not there any more.
    """
    try:
        parts = msgspec.msgpack.decode(content[len(MARK) :], type=list[bytes])
        batches.check(parts, 1)
        lasting: list[Frame] = []
        for frame in parts[2:]:
            if batches.inlined(frame) is None:
                blob = _Lasting(frame)
                blob.place = batches.place_of(frame)
                blob.held = segments.Held(directory, blob.place)
                lasting.append(blob)
            else:
                lasting.append(frame)
    except (msgspec.DecodeError, ProtocolError, OSError) as error:
        message = f"an object is not there any more: {error}"
        raise DeserializationError(message) from error
    return [*parts[:2], *lasting]


def _brought(frame: Frame) -> memoryview:
    if isinstance(frame, Stored):
        return memoryview(frame.fetched())
    buffer = batches.inlined(frame)
    if buffer is None:
        raise DeserializationError("a buffer lies in a store that nobody has looked into")
    return buffer


@lru_cache(8)
def keep_in(directory: str) -> Keep | None:
    """Return what puts buffers into a client's store: in a worker; None where there is none."""
    return partial(placed, directory) if directory else None


class Accounts:
    """What is needed of the store that this process owns."""

    def __init__(
        self,
        directory: str,
        when_dropped: Callable[[object, Callable[[], object]], object],
        is_idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """Account for all that lies in `directory`.

        Args:
            directory: the store.
            when_dropped: calls its second argument once its first is gone.
            is_idle: says whether no call is open, whose results may be on their way.
        """
        self.directory = directory
        self._is_idle = is_idle
        self._looked_at = time.monotonic()
        self._writers: list[None] = []
        """One for each thread that is writing."""
        self._when_dropped = when_dropped
        self._ties: dict[str, _Tie] = {}
        self._gone: deque[_Tie] = deque()
        self._freeing = threading.Lock()
        self._made = 0
        self._freed = 0
        self._known: weakref.WeakValueDictionary[str, Segment] = weakref.WeakValueDictionary()

    def keep(self, buffers: Sequence[memoryview]) -> list[Stored] | None:
        """Put buffers into the store; see `placed`."""
        self._free()
        if time.monotonic() - self._looked_at > _LOST_SECONDS:
            self.free_lost()
        self._writers.append(None)
        try:
            return placed(self.directory, buffers, self._account)
        finally:
            self._writers.pop()

    def taken(self, parts: Sequence[bytes]) -> list[bytes]:
        """Return a batch that has come, its buffers accounted for."""
        self._free()
        return [*parts[:2], *(self._taken(frame) for frame in parts[2:])]

    def _taken(self, frame: bytes) -> bytes:
        if batches.inlined(frame) is not None:
            return frame
        place = batches.place_of(frame)
        return Blob.named(frame, place, self.directory, self._account(place.name))

    def _account(self, name: str) -> Segment:
        segment = self._known.get(name)
        if segment is None:
            segment = self._known[name] = Segment(name)
            self._made += 1
            if self._made % _WAITING == 0 or segments.size_of(name) > _LARGE_BYTES:
                self._when_dropped(segment, self._free)
            tie = self._ties[name] = _Tie(segment, self._gone.append)  # last: it is called first
            tie.name = name
        return segment

    def _free(self) -> None:
        """Free what is not needed any more.

        A large segment soon, one of many too; before there is something new, all of them.
        """
        while self._gone:
            with self._freeing:  # whoever needs one waits for what another thread is freeing
                try:
                    name = self._gone.popleft().name
                except IndexError:
                    return
                del self._ties[name]
                segments.free(self.directory, name)
                self._freed += 1
                is_due = self._freed % _TRIMMED == 0
            if is_due:
                segments.trim(self.directory)

    def free_lost(self) -> None:
        """Free what nobody accounts for: results that came too late, and which the broker dropped.

        What was there before a moment at which no call was open, and nobody wrote, is of no call
        that anybody waits for.
        """
        self._looked_at = time.monotonic()
        there = [*segments.names(self.directory)]
        if self._writers or not self._is_idle():
            return
        for name in there:
            if name not in self._known and name not in self._ties:
                segments.free(self.directory, name)

    def knows(self, place: Place) -> bool:
        """Return whether a segment is accounted for."""
        return place.name in self._known
