"""What lies in a store, for who cannot look into it: workers on another machine than their client.

The broker, which never unpickles, carries it: buffers go in the place of the frames that name them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.errors import DeserializationError
from kernel_worker.store import segments
from kernel_worker.wire import frames as batches

if TYPE_CHECKING:
    from collections.abc import Sequence

Frame = bytes | memoryview
MARK: Final = b"\xc1nbo"
"""Begins an object whose buffers lie in a store (`blobs.Content`); nothing else does so."""


def batch(directory: str, parts: Sequence[Frame]) -> Sequence[Frame]:
    """Return a batch with its buffers in it.

    Raises:
        DeserializationError: they are not there any more.
    """
    if not batches.is_stored(parts):
        return parts
    head = batches.header(parts)
    offsets, positions = batches.table(parts[0], head.count)
    front = batches.itemised_header(head.form, offsets, positions)
    return [front, parts[1], *(_buffer(directory, frame) for frame in parts[2:])]


def content(directory: str, found: Frame) -> list[Frame]:
    """Return an object, and behind it its buffers: `joined` makes one of them.

    Raises:
        DeserializationError: they are not there any more.
    """
    if bytes(found[: len(MARK)]) != MARK:
        return [found]
    parts = msgspec.msgpack.decode(found[len(MARK) :], type=list[bytes])
    front = MARK + msgspec.msgpack.encode(parts[:2])
    return [front, *(_buffer(directory, frame) for frame in parts[2:])]


def joined(parts: Sequence[Frame]) -> Frame:
    """Return the object with its buffers in it that `content` has taken apart."""
    if len(parts) == 1:
        return parts[0]
    front = msgspec.msgpack.decode(parts[0][len(MARK) :], type=list[bytes])
    whole = map(batches.inline, parts[1:])
    return MARK + msgspec.msgpack.encode([*front, *whole])


def _buffer(directory: str, frame: Frame) -> memoryview:
    buffer = batches.inlined(frame)
    if buffer is not None:
        return buffer
    place = batches.place_of(frame)
    try:
        return memoryview(segments.fetch(directory, place))
    except OSError as error:
        message = f"a buffer of {place.nbytes:,} bytes is not there any more: {error}"
        raise DeserializationError(message) from error
