"""Values to frames and back: pickling of single values and of batches of them.

Theory. A batch is pickled in one piece only if every item is exactly an int, float, str, bytes,
bool, None or a tuple of these: then nobody can tell that items share a pickle, and a million ints
cost a fraction of a second. Arguments that lie in sequences stay in these, one for each argument,
and a `range` is not even unrolled. Anything else is pickled item by item, so that no item sees
another one's change and a bad one does not fail its neighbours. `pickle` (protocol 5, large
buffers out of band) is tried first; `cloudpickle` where that fails, or where the bytes name
`__main__`: the other side's `__main__` is another module, so what lives there has to travel by
value.

Guarantees: a value that cannot travel raises `SerializationError` with the path to the culprit
before anything of it is sent; each access to an item unpickles anew, and its buffers are its own
and writable. Once `BatchWriter.add` has returned, no code of users runs on behalf of that item.
Not guaranteed: identity between items of a batch.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import threading
from itertools import accumulate, chain
from operator import is_not
from typing import TYPE_CHECKING, NamedTuple, cast

from kernel_worker.errors import DeserializationError, RequestSizeError, SerializationError
from kernel_worker.wire import culprit, frames
from kernel_worker.wire.frames import (
    FORM_ARGS,
    FORM_CALL,
    FORM_COLUMNS,
    FORM_VALUE,
    Frame,
    Stored,
)

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Sequence

    from kernel_worker.wire import byvalue

    Column = list[object] | tuple[object, ...] | range
    Keep = Callable[[Sequence[memoryview]], Sequence[Stored] | None]
    """Puts buffers where whoever reads the batch finds them; None: they are to go with it."""

PLAIN_TYPES = frozenset({int, float, str, bytes, bool, type(None)})
COLUMN_TYPES = frozenset({list, tuple, range})
"""What a column of arguments may be."""
_PLAIN_OR_TUPLE = PLAIN_TYPES | {tuple}
_MAX_PLAIN_DEPTH = 16
OUT_OF_BAND_BYTES = 64 * 1024
"""Smaller buffers stay in the pickle: a frame costs more than copying them."""
APART_BYTES = 256 * 1024
"""Bytes are buffers too, from so many on, where buffers may be kept elsewhere."""
WHOLE_BYTES = 256 * 1024
"""A part of a whole batch travels as all of it, so larger ones are itemised where items are big."""
_WHOLE_ITEM_BYTES = 256
_NAMES = {FORM_ARGS: "args", FORM_CALL: "call", FORM_VALUE: "value"}


class Pickled(NamedTuple):
    """One value: its pickle and its out-of-band buffers."""

    data: bytes
    buffers: Sequence[memoryview | Stored]


def dumps(value: object, name: str = "value") -> list[Frame]:
    """Return the frames of one value: a batch of one with `FORM_VALUE`.

    Args:
        value: anything that can be pickled.
        name: what the path in an error starts with.

    Raises:
        SerializationError: it cannot; the message has the path to the culprit.
    """
    if type(value) in PLAIN_TYPES:
        return [frames.ONE_HEADERS[FORM_VALUE], pickle.dumps([value], 5)]
    return _itemised([pickled(value, name)], FORM_VALUE)


def loads(parts: Sequence[Frame]) -> object:
    """Return the first value of a batch (what `dumps` was given).

    Raises:
        ProtocolError: the frames are no batch.
        DeserializationError: the value cannot be unpickled here.
    """
    if frames.is_one_plain(parts):
        found = _unpickled(parts[1], ())
        if type(found) is list and len(found) == 1:
            return found[0]
    return BatchReader(parts)[0]


def encode_batch(
    items: Sequence[object], form: int, keep: Keep | None = None, *, are_plain: bool = False
) -> list[Frame]:
    """Return the frames of a batch that holds `items`.

    Args:
        items: the values; tuples of arguments for `FORM_ARGS`, pairs for `FORM_CALL`.
        form: `FORM_ARGS`, `FORM_CALL` or `FORM_VALUE`.
        keep: where large buffers may go instead.
        are_plain: all of them are known to be; it is not looked for again.

    Raises:
        SerializationError: an item cannot be pickled; the message has the path to the culprit.
    """
    if len(items) == 1 and _is_plain(items[0]):
        if keep is None or _size(items[0]) < APART_BYTES:
            return [frames.ONE_HEADERS[form], pickle.dumps([items[0]], 5)]
    elif are_plain or _all_plain(items):
        data = pickle.dumps(items if type(items) is list else list(items), 5)
        if not _too_big(len(data), len(items)):
            return [frames.whole_header(form, len(items)), data]
    return _itemised([_kept(item, form, keep) for item in items], form)


def encode_columns(columns: Sequence[Column]) -> list[Frame] | None:
    """Return the frames of a batch of tuples of arguments, given by argument.

    Args:
        columns: one for each positional argument, of one length, not 0.

    Returns:
        None where that cannot be: not everything is plain, or it is too large to travel whole.
    """
    for column in columns:
        if type(column) is not range and not _all_plain(column):
            return None
    data = pickle.dumps(columns, 5)
    count = len(columns[0])
    if len(data) > max(WHOLE_BYTES, _WHOLE_ITEM_BYTES * count):
        return None
    return [frames.whole_header(FORM_COLUMNS, count), data]


def pickled(value: object, name: str = "value") -> Pickled:
    """Return the pickle of one value; see `dumps`."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    with contextlib.suppress(Exception):  # what is wrong is found below
        data = pickle.dumps(value, 5, buffer_callback=keep)
        if b"__main__" not in data:
            return Pickled(data, buffers)
    buffers.clear()
    return _by_value(value, name, buffers, keep)


class BatchWriter:
    """Collects items of one form and hands them out as batches; safe from several threads.

    Plain items are kept as they are; others are pickled by the thread that adds them.
    """

    def __init__(self, form: int, limit_bytes: float = math.inf, keep: Keep | None = None) -> None:
        """Start empty.

        Args:
            form: that of every batch.
            limit_bytes: what one item may take, but for what `keep` takes.
            keep: where large buffers may go instead.
        """
        self._form = form
        self._keep = keep
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._items: list[object] = []
        self._taken = 0
        self._bytes = 0
        self._stored = 0
        self._measure: Callable[[object], int] = _size

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items) - self._taken

    @property
    def pending_bytes(self) -> int:
        """About how many bytes the waiting items take."""
        return self._bytes

    @property
    def pending_message_bytes(self) -> int:
        """The same, but for what lies elsewhere."""
        return self._bytes - self._stored

    def add(self, item: object) -> None:
        """Append one item.

        Raises:
            SerializationError: it cannot be pickled; nothing was appended.
            RequestSizeError: it is over the limit; nothing was appended.
        """
        kept = item if _is_plain(item) else _kept(item, self._form, self._keep)
        size = _size(kept)
        if size >= APART_BYTES and kept is item and self._keep is not None:
            kept = _kept(item, self._form, self._keep)
            size = _size(kept)
        if size > self._limit:
            raise too_large("the arguments of an input", size, self._limit)
        stored_bytes = 0
        if type(kept) is Pickled:
            kept = _owned(kept)
            stored_bytes = _stored_bytes(kept)
            self._measure = _full_size if stored_bytes else self._measure
        with self._lock:
            self._items.append(kept)
            self._bytes += size + stored_bytes
            self._stored += stored_bytes

    def extend(self, items: Sequence[object]) -> None:
        """Append many items; much faster than `add` where all are plain.

        Raises:
            SerializationError: one cannot be pickled; those before it were appended.
        """
        if not _all_plain(items):
            for item in items:
                self.add(item)
            return
        size = sum(map(_size, items))
        with self._lock:
            self._items.extend(items)
            self._bytes += size

    def take(self, max_count: int) -> tuple[int, list[Frame]]:
        """Remove up to `max_count` items from the front; return how many, and their batch.

        An empty list of frames comes with 0.
        """
        with self._lock:
            stop = min(self._taken + max_count, len(self._items))
            taken = self._items[self._taken : stop]
            self._taken = stop
            self._bytes -= sum(map(self._measure, taken))
            if self._stored:
                kept = [item for item in taken if type(item) is Pickled]
                self._stored -= sum(map(_stored_bytes, kept))
            if stop * 2 >= len(self._items):
                del self._items[:stop]
                self._taken = 0
        return len(taken), self._batch(taken) if taken else []

    def _batch(self, items: list[object]) -> list[Frame]:
        if Pickled not in set(map(type, items)):
            return encode_batch(items, self._form, self._keep)
        ready = [i if type(i) is Pickled else Pickled(pickle.dumps(i, 5), []) for i in items]
        return _itemised(ready, self._form)


class BatchReader:
    """Reads a batch. Every access to an item of an itemised batch unpickles it anew."""

    def __init__(self, parts: Sequence[Frame]) -> None:
        """Read the header of `parts`.

        Raises:
            ProtocolError: they are no batch.
            DeserializationError: they are sealed.
        """
        self.header = frames.header(parts)
        if self.header.sealed:
            message = f"a batch of {self.header.count} is sealed, and was not opened"
            raise DeserializationError(message)
        self._frames = parts
        self._whole: list[object] | None = None
        self._columns: Sequence[Column] | None = None
        if frames.is_one_plain(parts):
            return
        frames.check(parts, self.header.count)
        if not self.header.whole:
            self._table = frames.table(parts[0], self.header.count)
            self._data = memoryview(parts[1])

    def __len__(self) -> int:
        """Return how many items there are."""
        return self.header.count

    def __getitem__(self, position: int) -> object:
        """Return the item at `position` (from 0).

        Raises:
            IndexError: there is none.
            DeserializationError: it cannot be unpickled here.
        """
        if self.header.form == FORM_COLUMNS:
            return tuple([column[position] for column in self._plain_columns()])
        if self.header.whole:
            return self._plain_items()[position]
        if not 0 <= position < self.header.count:
            message = f"item {position} of {self.header.count}"
            raise IndexError(message)
        offsets, positions = self._table
        data = self._data[offsets[position] : offsets[position + 1]]
        first, last = positions[position], positions[position + 1]
        if first == last:
            return _unpickled(data, ())
        buffers = self._frames[2 + first : 2 + last]
        if self.header.stored:
            return _unpickled(data, [_fetched(frame) for frame in buffers])
        return _unpickled(data, [bytearray(frame) for frame in buffers])

    def plain_items(self, start: int, stop: int) -> list[object]:
        """Return the items `[start, stop)` of a whole batch of values; they may be this one's."""
        items = self._plain_items()
        return items if not start and stop == len(items) else items[start:stop]

    def items(self, start: int, stop: int) -> Iterable[object]:
        """Return the items at `[start, stop)`, each unpickled when it is asked for.

        Raises:
            DeserializationError: as `[]`.
        """
        if self.header.form == FORM_COLUMNS:
            columns = self._plain_columns()
            return zip(*[column[start:stop] for column in columns], strict=True)
        if self.header.whole:
            return self.plain_items(start, stop)
        return (self[position] for position in range(start, stop))

    def column(self, start: int, stop: int) -> Column | None:
        """Return the arguments `[start, stop)` where each item is one, without tuples; else None.

        Raises:
            DeserializationError: as `[]`.
        """
        if self.header.form != FORM_COLUMNS:
            return None
        columns = self._plain_columns()
        return columns[0][start:stop] if len(columns) == 1 else None

    def _plain_items(self) -> list[object]:
        if self._whole is None:
            items = _unpickled(self._frames[1], ())
            if not isinstance(items, list) or len(items) != self.header.count:
                message = f"a whole batch that is no list of {self.header.count}"
                raise DeserializationError(message)
            self._whole = items
        return self._whole

    def _plain_columns(self) -> Sequence[Column]:
        if self._columns is None:
            found = _unpickled(self._frames[1], ())
            columns = cast("list[Column]", found if type(found) is list else [])
            count = self.header.count
            if not columns or any(
                type(column) not in COLUMN_TYPES or len(column) != count for column in columns
            ):
                message = f"a whole batch that has no columns of {count}"
                raise DeserializationError(message)
            self._columns = columns
        return self._columns


def too_large(what: str, size_bytes: int, limit_bytes: float) -> RequestSizeError:
    """Return the error that says that `what` is not sent because of its size."""
    size, limit = size_bytes / 2**20, limit_bytes / 2**20
    return RequestSizeError(
        f"{what} are {size:,.1f} MiB, pickled; allowed are {limit:,.0f} MiB (setting "
        "max_request_mib). Pass what is large as nb.put(value): that is sent once, as an object of "
        "its own, and arrives as the value; or pass less at a time."
    )


def _fetched(frame: Frame) -> bytearray | mmap.mmap:
    """Return a buffer of a batch that is stored."""
    if isinstance(frame, Stored):
        return frame.fetched()
    buffer = frames.inlined(frame)
    if buffer is None:
        message = f"it lies in a store ({frames.place_of(frame)}) that nobody has looked into"
        raise DeserializationError(message)
    return bytearray(buffer)


def _unpickled(data: Frame, buffers: Iterable[bytearray | mmap.mmap]) -> object:
    try:
        return pickle.loads(data, buffers=buffers)
    except (Exception, SystemExit) as error:  # a value must not end the process that reads it
        message = f"cannot be unpickled here: {type(error).__name__}: {error}"
        raise DeserializationError(message) from error


def _all_plain(items: Sequence[object]) -> bool:
    """Say whether every item is exactly a plain value or a tuple of plain values."""
    level: Iterable[object] = items
    for _ in range(_MAX_PLAIN_DEPTH):
        kinds = set(map(type, level))
        if kinds <= PLAIN_TYPES:
            return True
        if not kinds <= _PLAIN_OR_TUPLE:
            return False
        tuples: Iterable[tuple[object, ...]]
        tuples = level if len(kinds) == 1 else [i for i in level if type(i) is tuple]  # type: ignore[assignment]
        level = list(chain.from_iterable(tuples))
    return False


def _is_plain(item: object) -> bool:
    if type(item) is tuple:
        return set(map(type, item)) <= PLAIN_TYPES or _all_plain(item)
    return type(item) in PLAIN_TYPES


def _size(item: object) -> int:
    """Return about how many bytes `item` takes in a pickle."""
    kind = type(item)
    if kind is Pickled:
        return len(item.data) + sum(map(len, cast("Pickled", item).buffers))  # type: ignore[attr-defined]
    if kind is tuple:
        return 2 + sum(map(_size, item))  # type: ignore[call-overload]
    return len(item) + 5 if kind is str or kind is bytes else 5  # type: ignore[arg-type]


def _full_size(item: object) -> int:
    """Return about how many bytes `item` takes in a pickle and in a store."""
    return _size(item) + (_stored_bytes(item) if type(item) is Pickled else 0)


def _stored_bytes(item: Pickled) -> int:
    places = [frames.place_of(each) for each in item.buffers if isinstance(each, Stored)]
    return sum(place.nbytes for place in places)


def _too_big(size: int, count: int) -> bool:
    return count > 1 and size > max(WHOLE_BYTES, _WHOLE_ITEM_BYTES * count)


def _pickled_item(item: object, form: int) -> Pickled:
    try:
        return pickled(item, _NAMES[form])
    except SerializationError as error:
        if form != FORM_CALL:
            raise
        for part, name in zip(cast("tuple[object, ...]", item), ("args", "kwargs"), strict=False):
            pickled(part, name)
        raise error from error.__cause__


def _owned(item: Pickled) -> Pickled:
    """Return `item` with buffers that stay as they are when the caller writes to its own."""
    if item.buffers and isinstance(item.buffers[0], Stored):
        return item
    return Pickled(item.data, [memoryview(bytes(buffer)) for buffer in item.buffers])


def _kept(item: object, form: int, keep: Keep | None) -> Pickled:
    """Return an item, pickled, its buffers kept elsewhere where they may be."""
    if keep is None:
        return _pickled_item(item, form)
    pickled_item = _pickled_item(_apart(item), form)
    if not pickled_item.buffers:
        return pickled_item
    stored = keep(cast("Sequence[memoryview]", pickled_item.buffers))
    return pickled_item if stored is None else Pickled(pickled_item.data, stored)


class _Apart:
    """Bytes that are a buffer to the pickle that they belong to."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self._content),)


def _apart(item: object, depth: int = 2) -> object:
    """Return an item whose large bytes, near the surface, are buffers to its pickle."""
    kind = type(item)
    if kind is bytes:
        return _Apart(item) if len(item) >= APART_BYTES else item  # type: ignore[arg-type]
    if kind is tuple and depth:
        parts = [_apart(part, depth - 1) for part in item]  # type: ignore[attr-defined]
        return tuple(parts) if any(map(is_not, parts, item)) else item  # type: ignore[call-overload]
    if kind is dict and depth:
        return {name: _apart(part, 0) for name, part in item.items()}  # type: ignore[attr-defined]
    return item


def _itemised(items: Sequence[Pickled], form: int) -> list[Frame]:
    offsets = [0, *accumulate(len(item.data) for item in items)]
    positions = [0, *accumulate(len(item.buffers) for item in items)]
    buffers: list[Frame] = [*chain.from_iterable(item.buffers for item in items)]
    stored = any(isinstance(each, Stored) for each in buffers)
    if stored:
        buffers = [each if isinstance(each, Stored) else frames.inline(each) for each in buffers]
    front = frames.itemised_header(form, offsets, positions, stored=stored)
    return [front, b"".join([item.data for item in items]), *buffers]


def _by_value(
    value: object, name: str, buffers: list[memoryview], keep: byvalue.BufferCallback
) -> Pickled:
    from kernel_worker.wire import byvalue  # noqa: PLC0415  cloudpickle costs 20 ms to import

    try:
        data = byvalue.dumps(value, keep)
    except Exception as error:
        path = culprit.find(value, name, byvalue.dumps)
        message = f"{path} cannot be pickled: {type(error).__name__}: {error}"
        raise SerializationError(message) from error
    return Pickled(data, buffers)
