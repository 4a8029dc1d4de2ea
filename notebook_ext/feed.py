"""The inputs of a map on their way out: pulled from the user's iterables by a thread of their own.

Users' iterators may block, be slow, infinite or async, and run any code; so they are pulled here,
in the context of the cell that made the map, and never by the I/O thread, which takes what is
ready. Iterables that cannot block (lists, ranges and their like) are pulled in growing chunks.

Guarantees: an item is pickled as soon as it is pulled, so that a buffer which the iterator uses
again is not sent twice; what is pulled goes out at once while little is in flight, and in batches
while much is. No more is pulled while `Gate` is closed.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel_worker.errors import InvalidError, SerializationError
from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_ARGS, plain_bytes
from notebook_ext import blobs
from notebook_ext.companions import Companions, gathering
from notebook_ext.twin import Waiting, done

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from kernel_worker.wire.frames import Frame

BATCH_COUNT = 5_000
BATCH_BYTES = 1024 * 1024
"""A batch is no larger than this, unless one input is."""
IN_FLIGHT_COUNT = 100_000
IN_FLIGHT_BYTES = 64 * 1024 * 1024
IN_FLIGHT_FLOOR = 64
"""Inputs that may be in flight however large they are."""
FEW = 256
"""While no more inputs than this are in flight, what is pulled goes out at once."""

_READY = (list, tuple, range, set, frozenset, dict, str, bytes, bytearray)
"""Iterables that cannot block and run no code of users."""


class Part(NamedTuple):
    """A batch of inputs for the map that resumes this one."""

    runs: list[tuple[int, int]]
    """`(start, count)` of neighbours, as the user numbers them."""
    frames: Sequence[Frame]

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return sum(count for _, count in self.runs)


class Gate:
    """Says whether more inputs may be pulled; whoever pulls waits at it."""

    def __init__(self, is_full: Callable[[], bool]) -> None:
        """Start open; `is_full` says whether enough results wait to be taken."""
        self._is_full = is_full
        self._lock = threading.Lock()
        self._waiting: Waiting[None] | None = None
        self.pulled = 0
        self.ended = 0
        self.item_bytes = 0.0
        """About how large an input or a result is, whichever is larger."""
        self.closed = False

    @property
    def in_flight(self) -> int:
        """How many inputs were pulled and have no outcome."""
        return self.pulled - self.ended

    @property
    def is_open(self) -> bool:
        """Whether one more input may be pulled."""
        if self.closed:
            return True
        flying = self.pulled - self.ended
        if flying >= IN_FLIGHT_FLOOR and (
            flying >= IN_FLIGHT_COUNT or flying * self.item_bytes >= IN_FLIGHT_BYTES
        ):
            return False
        return not self._is_full()

    def note_size(self, count: int, size_bytes: int) -> None:
        """Note how large some inputs, or some results, are."""
        if count:
            self.item_bytes = max(self.item_bytes * 0.9, size_bytes / count)

    def wait_for(self) -> Waiting[None] | None:
        """Return what to wait for before the next input is pulled; None if it is open."""
        if self.is_open:
            return None
        with self._lock:
            waiting = self._waiting
            if waiting is None:
                waiting = self._waiting = Waiting()
        self.look()
        return waiting

    def look(self) -> None:
        """Something has changed: let whoever waits go on if it is open now."""
        if self._waiting is None or not self.is_open:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.complete(_nothing)

    def close(self) -> None:
        """Nobody wants inputs any more."""
        self.closed = True
        self.look()


class Feed:
    """Pulls one map's inputs."""

    def __init__(
        self,
        sources: Sequence[Any],
        *,
        spread: bool,
        gate: Gate,
        ready: Callable[[], None],
        limit_bytes: float = math.inf,
    ) -> None:
        """Prepare to pull.

        Args:
            sources: iterables, one for each positional argument.
            spread: whether there is one, whose items are tuples of arguments.
            gate: closed while enough is in flight.
            ready: called, in the thread that pulls, when there is something to take.
            limit_bytes: how large the arguments of one input may be, pickled.
        """
        self.sources = sources
        self._iterator: Iterator[tuple[Any, ...]] | None = None
        self._at = 0
        """Where the sources are cut next, if they are."""
        self._async_iterators: list[AsyncIterator[Any]] | None = None
        self._spread = spread
        self._gate = gate
        self._ready = ready
        self._writer = payload.BatchWriter(FORM_ARGS, limit_bytes, blobs.here.keep)
        self._limit = limit_bytes
        self._batches: deque[tuple[int, list[Frame]]] = deque()
        self._announced = False
        self.companions: Companions = {}
        """The functions that were among the inputs."""
        self.is_async = any(hasattr(source, "__aiter__") for source in sources)
        self.finished = False
        """Whether all has been pulled …"""
        self.error: BaseException | None = None
        """… or the iterables raised this."""
        self.exhausted = False
        """Whether the iterables have no more."""
        self.begun: Waiting[None] = done(None)
        """Done once what a map takes over from another is known."""
        self.over: Waiting[None] = Waiting()
        """Done once nothing is pulled any more."""

    def pull(self) -> None:
        """Pull everything, in this thread."""
        __tracebackhide__ = True
        try:
            self._pull()
        except BaseException as error:  # noqa: BLE001  raised again where the results are taken
            self.error = error
        self._end()

    async def pull_in_loop(self) -> None:
        """Pull everything, in the running task."""
        __tracebackhide__ = True
        try:
            await self._pull_async()
        except BaseException as error:  # noqa: BLE001  as in `pull`
            self.error = error
        self._end()

    def skip(self) -> None:
        """Pull nothing: nobody wants it any more."""
        self._end()

    def take(self) -> tuple[int, list[Frame]] | None:
        """Return the next batch, or None where nothing should be sent now; in the I/O thread."""
        if self._batches:
            return self._batches.popleft()
        waiting = len(self._writer)
        if not waiting:
            self._announced = False
            waiting = len(self._writer)  # what came just now has not been announced
            if not waiting:
                return None
        flying = self._gate.in_flight - waiting
        if flying > FEW and waiting < min(flying, BATCH_COUNT) and not self.finished:
            return None
        count = BATCH_COUNT
        if self._writer.pending_bytes > BATCH_BYTES:
            mean = self._writer.pending_bytes / waiting
            count = max(1, min(BATCH_COUNT, int(BATCH_BYTES / mean)))
        return self._writer.take(count)

    @property
    def is_empty(self) -> bool:
        """Whether everything that was pulled has been taken."""
        return not (self._batches or len(self._writer))

    # ---- for the map that resumes this one ------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Whether the sources cannot block, run no code of users, and stay as they are."""
        return all(type(source) in _READY for source in self.sources)

    @property
    def next_index(self) -> int:
        """The number of the input that would be pulled next."""
        return self._gate.pulled

    def leftover(
        self, sent: int, ours: Callable[[int, int], Iterable[tuple[int, int, int]]]
    ) -> list[Part]:
        """Return what was pulled and not sent, and forget it; only once this is over.

        Args:
            sent: how many inputs were sent.
            ours: how the user numbers inputs of the call.
        """
        batches = [*self._batches]
        self._batches.clear()
        while waiting := len(self._writer):
            batches.append(self._writer.take(min(waiting, BATCH_COUNT)))
        parts = []
        for count, frames in batches:
            parts.append(Part([(at, size) for _, at, size in ours(sent, count)], frames))
            sent += count
        return parts

    def take_up(self, other: Feed) -> None:
        """Go on pulling where another has stopped."""
        self._iterator = other._iterator
        self._at = other._at
        self._async_iterators = other._async_iterators

    # ---- pulling --------------------------------------------------------------------------------

    def _pull(self) -> None:
        __tracebackhide__ = True
        if self.is_async:
            import asyncio  # noqa: PLC0415  rarely

            asyncio.run(self._pull_async())
            if not self.exhausted:  # what the loop had open ended with it
                raise InvalidError(
                    "an async iterable that was read by a blocking loop cannot be read on; give a "
                    "new one, or take the results with `async for`."
                )
        elif self.is_plain:
            self._pull_chunks()
        else:
            self._pull_items()

    def _end(self) -> None:
        self.finished = True
        self.over.complete(_nothing)
        self._ready()

    def _pull_chunks(self) -> None:
        __tracebackhide__ = True
        add = self._add_cut if not self._spread and can_be_cut(self.sources) else self._add_chunk
        size = 1  # how large the inputs are shows when the first is pickled
        while not self._gate.closed:
            self._wait()
            if not add(size):
                self.exhausted = True
                return
            mean = max(self._gate.item_bytes, 1.0)
            size = max(1, min(size * 4, BATCH_COUNT, int(BATCH_BYTES / mean)))

    def _add_cut(self, size: int) -> bool:
        """Add the next inputs of sources that can be cut; say whether there were any."""
        count, columns = cut(self.sources, self._at, size)
        if not count:
            return False
        self._at += count
        frames = payload.encode_columns(columns)
        if frames is None or sum(map(len, frames)) > self._limit:
            self._add(list(zip(*columns, strict=True)))
        else:
            self._add_batch(count, frames)
        return True

    def _add_chunk(self, size: int) -> bool:
        """Add the next inputs of other sources; say whether there were any."""
        __tracebackhide__ = True
        chunk: list[tuple[Any, ...]] = []
        try:
            chunk.extend(itertools.islice(self._inputs(), size))
        except BaseException:
            if chunk:  # what comes before the item that is no input
                self._add(chunk)
            raise
        if chunk:
            self._add(chunk)
        return bool(chunk)

    def _pull_items(self) -> None:
        __tracebackhide__ = True
        gate, writer = self._gate, self._writer
        if gate.closed:
            return
        for item in self._inputs():
            self._add_one(item)
            if gate.closed:
                return
            if not gate.is_open:
                self._wait()
            elif len(writer) % BATCH_COUNT == 0:
                self._ready()
        self.exhausted = True

    async def _pull_async(self) -> None:
        __tracebackhide__ = True
        if self._async_iterators is None:
            self._async_iterators = [_as_async(source) for source in self.sources]
        iterators = self._async_iterators
        while not self._gate.closed:
            waiting = self._gate.wait_for()
            if waiting is not None:
                self._announce()
                await waiting.settled()
            try:
                item = [await anext(iterator) for iterator in iterators]
            except StopAsyncIteration:
                self.exhausted = True
                return
            self._add_one(tuple(item[0]) if self._spread else tuple(item))

    def _inputs(self) -> Iterator[tuple[Any, ...]]:
        if self._iterator is None:
            iterators = [iter(source) for source in self.sources]
            spread = self._spread
            plain = map(_as_arguments, iterators[0]) if spread else zip(*iterators, strict=False)
            self._iterator = plain
        return self._iterator

    def _add(self, chunk: list[tuple[Any, ...]]) -> None:
        """Add a batch; of one that cannot be pickled, the inputs before the culprit."""
        frames = None
        with contextlib.suppress(SerializationError):  # the culprit raises it below, alone
            encode = payload.encode_batch
            frames = gathering(self.companions, encode, chunk, FORM_ARGS, blobs.here.keep)
        if frames is None or sum(map(len, frames)) > self._limit:
            for item in chunk:
                self._add_one(item)
            return
        owned = [frame if isinstance(frame, bytes) else bytes(frame) for frame in frames]
        self._add_batch(len(chunk), owned)

    def _add_batch(self, count: int, frames: Sequence[Frame]) -> None:
        self._gate.note_size(count, plain_bytes(frames))
        self._gate.pulled += count
        self._batches.append((count, list(frames)))
        self._ready()

    def _add_one(self, item: tuple[Any, ...]) -> None:
        gathering(self.companions, self._writer.add, item)
        self._gate.pulled += 1
        if not self._announced:
            self._announce()

    def _announce(self) -> None:
        self._announced = True
        self._gate.note_size(len(self._writer), self._writer.pending_bytes)
        self._ready()

    def _wait(self) -> None:
        """Wait while the gate is closed."""
        while (waiting := self._gate.wait_for()) is not None:
            self._announce()
            waiting.wait()


def can_be_cut(sources: Sequence[Any]) -> bool:
    """Say whether each of the sources gives a part of it at once, and keeps what it gives."""
    return all(type(source) in payload.COLUMN_TYPES for source in sources)


def cut(sources: Sequence[Any], at: int, size: int) -> tuple[int, list[Any]]:
    """Return the next inputs of sources that can be cut, by argument, and how many they are.

    Args:
        sources: one for each positional argument.
        at: how many were taken before.
        size: how many are wanted; where a source has less, all are cut to that.
    """
    columns = [source[at : at + size] for source in sources]
    count = min(map(len, columns))
    if count < size and len(columns) > 1:
        columns = [column[:count] for column in columns]
    return count, columns


def check_sources(name: str, sources: Sequence[Any]) -> None:
    """Raise `InvalidError` unless there are sources and all of them iterate."""
    if not sources:
        raise InvalidError(f"{name} needs at least one iterable.")
    for at, source in enumerate(sources):
        if not hasattr(source, "__iter__") and not hasattr(source, "__aiter__"):
            if hasattr(type(source), "__getitem__"):
                continue
            raise InvalidError(
                f"{name}: argument {at + 1}, {source!r:.80}, does not iterate; "
                "map takes iterables, one for each positional argument."
            )


def length_of(sources: Sequence[Any]) -> int | None:
    """Return how many inputs there will be, where that can be known."""
    try:
        return min(len(source) for source in sources)
    except (TypeError, OverflowError):  # a range may be longer than a length can say
        return None


def _as_arguments(item: Any) -> tuple[Any, ...]:
    if type(item) is tuple:
        return item
    try:
        return tuple(item)
    except TypeError:
        raise InvalidError(
            f"starmap: the input {item!r:.80} is no tuple of arguments; allowed is one: (1, 2)."
        ) from None


async def _as_async(source: Any) -> AsyncIterator[Any]:
    if hasattr(source, "__aiter__"):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


def _nothing() -> None:
    """What a waiting gives that only says that something changed."""
