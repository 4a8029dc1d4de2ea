"""The layout of a batch in frames: its header, its validation, and cutting a part out of it.

Theory: `PROTOCOL.md`, "Batches". All of it is arithmetic on bytes, so that a process which must
never unpickle (the broker) can check what comes in and hand parts of it on.

Guarantees: `check` answers any bytes with a valid header or `ProtocolError`, in time linear in the
length of the frames; what it has passed, `cut` and a reader can use without checking again.
Not guaranteed: that the pickles in a batch are pickles.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from kernel_worker.errors import ProtocolError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence

Frame = bytes | bytearray | memoryview
F = TypeVar("F", bound=Frame)

FORM_ARGS = 0
"""Each item is a tuple of positional arguments."""
FORM_CALL = 1
"""Each item is a pair `(args, kwargs)`."""
FORM_VALUE = 2
"""Each item is a value."""
FORM_COLUMNS = 3
"""Each item is a tuple of positional arguments, of a whole batch that is kept by argument."""

SALT_BYTES = 16
"""What stands at the end of the first frame of a sealed batch: see `sealing`."""
TAG_BYTES = 16
"""So much longer is each sealed piece: what is in the place of the plain one."""
MARK = b"\xc1nbs"
"""Begins a sealed frame that is no batch. Nothing that is in clear begins like that: no pickle, no
msgpack, no UTF-8."""
_WHOLE = 0
_ITEMISED = 1
_SEALED = 1
_STORED = 2
_INLINE = 0
_REFERENCE = 1
_PLACE = struct.Struct("<BQQ")
"""Of a buffer that lies in a store: `_REFERENCE`, its offset and its length; a name follows."""
_NAME = re.compile(rb"(disk/)?[a-z0-9-]{1,80}")
"""Of a file in a store, so that none names another one."""
_FLAGS_AT = 2
_HEADER = struct.Struct("<BBHI")
_ENTRY_BYTES = 8 + 4
"""An offset and a position."""


class BatchHeader(NamedTuple):
    """What the first frame of a batch says."""

    whole: bool
    """One pickle holds all items: a part of the batch is the whole of it."""
    form: int
    """`FORM_ARGS`, `FORM_CALL`, `FORM_VALUE` or `FORM_COLUMNS`."""
    count: int  # type: ignore[assignment]  # a field, not tuple.count
    """How many items the batch holds."""
    sealed: bool = False
    """Nobody can read the items but who has the key; their places are in clear."""
    stored: bool = False
    """Its buffers lie in a store of the machine: frames say where."""


class Place(NamedTuple):
    """Where a buffer lies in a store."""

    name: str
    offset: int
    nbytes: int


class Stored(bytes):
    """A frame that says where a buffer lies, in the hands of who can read it there."""

    place: Place
    """Where, once it was read."""

    def fetched(self) -> bytearray | mmap.mmap:
        """Return the buffer: one's own, writable."""
        raise NotImplementedError


class Table(NamedTuple):
    """Where the items of an itemised batch lie; both have one entry more than there are items."""

    offsets: tuple[int, ...]
    """Item i is the bytes `[offsets[i], offsets[i + 1])` of frame 1 …"""
    positions: tuple[int, ...]
    """… and its buffers are the frames `2 + positions[i]` to `2 + positions[i + 1]`."""


def header(frames: Sequence[Frame]) -> BatchHeader:
    """Return what the first frame says, or raise `ProtocolError` if it is no header."""
    if not frames or len(frames[0]) < _HEADER.size:
        message = f"no batch header in {len(frames)} frames"
        raise ProtocolError(message)
    one = _ONES.get(bytes(frames[0])) if len(frames[0]) == _HEADER.size else None
    if one is not None:
        return one
    kind, form, flags, count = _HEADER.unpack_from(frames[0])
    last = FORM_VALUE if kind else FORM_COLUMNS
    if kind > _ITEMISED or form > last or flags > (_STORED if kind else _SEALED):
        message = f"no batch header: kind {kind}, form {form}, flags {flags}"
        raise ProtocolError(message)
    return BatchHeader(kind == _WHOLE, form, count, flags == _SEALED, flags == _STORED)


def is_stored(frames: Sequence[Frame]) -> bool:
    """Return whether buffers of a batch lie in a store."""
    return len(frames) > 2 and len(frames[0]) > _HEADER.size and frames[0][_FLAGS_AT] == _STORED  # noqa: PLR2004  behind header and pickles


def reference(place: Place) -> bytes:
    """Return the frame that says that a buffer of a stored batch lies at `place`."""
    return _PLACE.pack(_REFERENCE, place.offset, place.nbytes) + place.name.encode()


def inline(buffer: Frame) -> bytes:
    """Return the frame of a buffer of a stored batch that lies in none."""
    return b"".join((bytes((_INLINE,)), buffer))


def inlined(frame: Frame) -> memoryview | None:
    """Return the buffer in a frame of a stored batch; None where it lies elsewhere."""
    return memoryview(frame)[1:] if frame[0] == _INLINE else None


def place_of(frame: Frame) -> Place:
    """Return where the buffer of a frame of a stored batch lies.

    Raises:
        ProtocolError: it does not say so.
    """
    if isinstance(frame, Stored):
        return frame.place
    if len(frame) > _PLACE.size and frame[0] == _REFERENCE:
        _, offset, nbytes = _PLACE.unpack_from(frame)
        name = bytes(frame[_PLACE.size :])
        if _NAME.fullmatch(name):
            return Place(name.decode(), offset, nbytes)
    message = f"{len(frame)} bytes say of no buffer where it lies"
    raise ProtocolError(message)


def is_sealed(frame: Frame) -> bool:
    """Return whether a frame that is no batch is sealed."""
    return bytes(frame[: len(MARK)]) == MARK


def is_one_plain(frames: Sequence[Frame]) -> bool:
    """Return whether this is a well-formed whole batch of one item, as most calls are."""
    return len(frames) == 2 and len(frames[0]) == _HEADER.size and bytes(frames[0]) in _ONES  # noqa: PLR2004  header and pickle


def check(frames: Sequence[Frame], count: int) -> BatchHeader:
    """Return the header of a batch that must hold `count` items.

    Raises:
        ProtocolError: the frames are no well-formed batch of that many items.
    """
    found = header(frames)
    if found.count != count:
        message = f"the batch says {found.count} items, its message {count}"
        raise ProtocolError(message)
    if count == 1 and is_one_plain(frames):
        return found
    expected = _HEADER.size + (0 if found.whole else _ENTRY_BYTES * (count + 1))
    expected += SALT_BYTES if found.sealed else 0
    if len(frames) < 2 or len(frames[0]) != expected:  # noqa: PLR2004  header and pickles
        message = f"a batch of {count} in {len(frames)} frames, the first of {len(frames[0])} bytes"
        raise ProtocolError(message)
    if found.whole:
        if len(frames) > 2:  # noqa: PLR2004  as above
            message = f"a whole batch with {len(frames) - 2} buffers"
            raise ProtocolError(message)
        return found
    rows = table(frames[0], count)
    _check_run(rows.offsets, len(frames[1]), "offsets")
    _check_run(rows.positions, len(frames) - 2, "buffer positions")
    if found.stored:
        for frame in frames[2:]:
            if len(frame) == 0 or inlined(frame) is None:
                place_of(frame)
    return found


def table(frame: Frame, count: int) -> Table:
    """Return the table in the first frame of an itemised batch of `count` items.

    Raises:
        ProtocolError: the frame is too short for it.
    """
    rows = count + 1
    if len(frame) < _HEADER.size + _ENTRY_BYTES * rows:
        message = f"a table of {count} items in {len(frame)} bytes"
        raise ProtocolError(message)
    offsets = struct.unpack_from(f"<{rows}Q", frame, _HEADER.size)
    return Table(offsets, struct.unpack_from(f"<{rows}I", frame, _HEADER.size + 8 * rows))


def cut(frames: Sequence[F], start: int, stop: int) -> tuple[int, list[F | bytes]]:
    """Return a batch that holds the items at `[start, stop)` of the checked batch `frames`.

    Args:
        frames: a batch that passed `check`.
        start: the position within the batch of the first item that is wanted.
        stop: the position behind the last.

    Returns:
        The position (in `frames`) of the first item that the returned frames hold, and the frames:
        all of them where the batch is whole.

    Raises:
        ValueError: the batch has no such items.
    """
    found = header(frames)
    if not 0 <= start <= stop <= found.count:
        message = f"items [{start}, {stop}) of a batch of {found.count}"
        raise ValueError(message)
    if found.whole or stop - start == found.count:
        return 0, list(frames)
    return start, cut_by(table(frames[0], found.count), found.form, frames, start, stop)


def cut_by(rows: Table, form: int, frames: Sequence[F], start: int, stop: int) -> list[F | bytes]:
    """Return a batch that holds the items at `[start, stop)` of an itemised batch, and only them.

    Args:
        rows: the table of `frames`, which whoever cuts a batch often keeps.
        form: of the batch.
        frames: a batch that passed `check`.
        start: the position within the batch of the first item that is wanted.
        stop: the position behind the last; the batch has these items.
    """
    offsets, positions = rows
    low, first = offsets[start], positions[start]
    front = itemised_header(
        form,
        [offset - low for offset in offsets[start : stop + 1]],
        [position - first for position in positions[start : stop + 1]],
        salt_of(frames[0]),
        stored=frames[0][_FLAGS_AT] == _STORED,
    )
    items = cast("F", frames[1][low : offsets[stop]])  # a part of bytes is bytes
    return [front, items, *frames[2 + first : 2 + positions[stop]]]


def salt_of(frame: Frame) -> bytes:
    """Return the salt in the first frame of a checked batch; empty where it is in clear."""
    _, _, flags, _ = _HEADER.unpack_from(frame)
    return bytes(frame[-SALT_BYTES:]) if flags == _SEALED else b""


def plain_bytes(frames: Sequence[Frame]) -> int:
    """Return how large a checked batch is, or was before it was sealed, or its buffers stored."""
    size = sum(map(len, frames))
    if not frames[0][_FLAGS_AT]:
        return size
    if is_stored(frames):
        places = [place_of(frame) for frame in frames[2:] if inlined(frame) is None]
        return size + sum(place.nbytes for place in places)
    found = header(frames)
    pieces = 1 if found.whole else found.count + len(frames) - 2
    return size - SALT_BYTES - TAG_BYTES * pieces


def whole_header(form: int, count: int, salt: bytes = b"") -> bytes:
    """Return frame 0 of a whole batch, which is sealed where there is a salt."""
    return _HEADER.pack(_WHOLE, form, _SEALED if salt else 0, count) + salt


def itemised_header(
    form: int,
    offsets: Sequence[int],
    positions: Sequence[int],
    salt: bytes = b"",
    *,
    stored: bool = False,
) -> bytes:
    """Return frame 0 of an itemised batch with this table, sealed where there is a salt."""
    rows = len(offsets)
    flags = _SEALED if salt else _STORED if stored else 0
    return b"".join(
        (
            _HEADER.pack(_ITEMISED, form, flags, rows - 1),
            struct.pack(f"<{rows}Q", *offsets),
            struct.pack(f"<{rows}I", *positions),
            salt,
        )
    )


ONE_HEADERS = tuple(whole_header(form, 1) for form in range(3))
"""Frame 0 of a whole batch of one item, which calls and their values mostly are, by form."""
NO_ARGUMENTS = (ONE_HEADERS[FORM_ARGS], b"\x80\x05]\x94)a.")
"""The batch of one input without arguments: `[()]`, as `payload` pickles it."""
_ONES = {
    front: BatchHeader(whole=True, form=form, count=1) for form, front in enumerate(ONE_HEADERS)
}


def _check_run(run: Sequence[int], end: int, what: str) -> None:
    """Raise `ProtocolError` unless `run` ascends from 0 to `end`."""
    if run[0] != 0 or run[-1] != end or sorted(run) != list(run):
        message = f"{what} do not ascend from 0 to {end}"
        raise ProtocolError(message)
