"""What clients put on a shelf and read there: values as bytes, sealed where the shelf is.

A shelf is sealed from the day that it is made, or never: one made by a client of another machine
is (`wire/sealing.py`), with its keys, values, items and the names of its partitions. What is read
there in clear is refused. A key is then known to the broker as a keyed hash alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kernel_worker import shelf as words
from kernel_worker.errors import DeserializationError, RequestSizeError
from kernel_worker.model import keyed_digest
from kernel_worker.wire import payload
from notebook_ext import stored

if TYPE_CHECKING:
    from kernel_worker.wire.sealing import Key

_ONE_PIECE, _IN_PARTS = b"\0", b"\1"
_IN_CLEAR: Final = b"what stands for the keys of a shelf in clear"


def packed(value: object, what: str, limit_bytes: int = words.VALUE_BYTES) -> bytes:
    """Return a value as bytes.

    Raises:
        SerializationError: it cannot be pickled; the message has the path to the culprit.
        RequestSizeError: it is larger than `limit_bytes`.
    """
    pickled = payload.pickled(value, what)
    size = len(pickled.data) + sum(map(len, pickled.buffers))
    if size > limit_bytes:
        raise _too_large(what, size, limit_bytes)
    if not pickled.buffers:
        return _ONE_PIECE + pickled.data
    parts = stored.packed(pickled)  # which are aligned: a little more than what was pickled
    if len(parts) > limit_bytes:
        raise _too_large(what, len(parts), limit_bytes)
    return _IN_PARTS + parts


def unpacked(frame: bytes) -> Any:
    """Return the value.

    Raises:
        DeserializationError: it cannot be unpickled here.
    """
    import pickle  # noqa: PLC0415  as a value here

    try:
        if frame[:1] == _IN_PARTS:
            return stored.opened(frame[1:])
        return pickle.loads(memoryview(frame)[1:])
    except Exception as error:
        message = f"cannot be unpickled here: {type(error).__name__}: {error}"
        raise DeserializationError(message) from error


def _too_large(what: str, size_bytes: int, limit_bytes: int) -> RequestSizeError:
    return RequestSizeError(
        f"the {what} is {size_bytes / 2**20:,.1f} MiB, pickled; allowed are"
        f" {limit_bytes / 2**20:,g} MiB. Put what is larger into a file of a Volume, and its"
        " name here."
    )


class Cover:
    """How one shelf is written and read; without a key in clear."""

    def __init__(self, kind: words.Kind, name: str, key: Key | None) -> None:
        """Write and read `name`."""
        self._name = f"{kind} {name}"
        self._key = key

    @property
    def is_sealed(self) -> bool:
        """Whether the shelf is sealed."""
        return self._key is not None

    def token(self, encoding: bytes) -> bytes:
        """Return what stands for a key."""
        if self._key is None:
            return keyed_digest(_IN_CLEAR, encoding, words.TOKEN_BYTES)
        return self._key.token(self._name, encoding, words.TOKEN_BYTES)

    def partition(self, name: str) -> bytes:
        """Return what a partition is named by; the default one has no name."""
        return self.token(name.encode()) if name and self._key is not None else name.encode()

    def key(self, frame: bytes) -> bytes:
        """Return a key as it is kept."""
        return self._sealed(frame, "a key")

    def value(self, frame: bytes, token: bytes) -> bytes:
        """Return a key's value as it is kept."""
        return self._sealed(frame, f"the value of {token.hex()}")

    def item(self, frame: bytes, partition: bytes) -> bytes:
        """Return an item of a partition as it is kept."""
        return self._sealed(frame, f"an item of {partition.hex()}")

    def opened_key(self, frame: bytes) -> bytes:
        """Return what `key` was given."""
        return self._opened(frame, "a key")

    def opened_value(self, frame: bytes, token: bytes) -> bytes:
        """Return what `value` was given."""
        return self._opened(frame, f"the value of {token.hex()}")

    def opened_item(self, frame: bytes, partition: bytes) -> bytes:
        """Return what `item` was given."""
        return self._opened(frame, f"an item of {partition.hex()}")

    def _sealed(self, frame: bytes, place: str) -> bytes:
        return frame if self._key is None else self._key.seal(frame, f"{self._name}: {place}")

    def _opened(self, frame: bytes, place: str) -> bytes:
        return frame if self._key is None else self._key.open(frame, f"{self._name}: {place}")
