"""Sealed payloads: what a client of another machine says can be read by it and by workers alone.

Theory. AES-256-GCM. Each batch, and each frame that is none, has 16 random bytes beside it, the
*salt*; the key that seals it is a keyed hash (BLAKE2b) of the salt, and the nonce is the place of
the piece in it: the item's index in its call, the buffer within the item, and the part of what is
long. So no two pieces are sealed with the same key and nonce, but if two salts of 128 bits are the
same: that does not come to pass. (Random nonces under one key would run out: 2^32 of them, which
are a night of small items.) A batch can still be cut between its items, by who cannot open it:
where they lie stays in clear, and each is sealed by itself.

What is sealed is bound to its place (kind, call, index; the digest of an object) as associated
data: it opens nowhere else.

Guarantees: what was changed, moved, or sealed with another key is refused, and nothing of it comes
out. Not guaranteed: that lengths and counts stay hidden; that the same piece is not shown twice at
the same place.
"""

from __future__ import annotations

import contextlib
import os
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import DeserializationError
from kernel_worker.model import keyed_digest
from kernel_worker.wire import frames as batches
from kernel_worker.wire.frames import MARK, SALT_BYTES, TAG_BYTES, Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from kernel_worker.model import CallId, Digest

KEY_BYTES: Final = 32
PART_BYTES: Final = 2**30
"""One pass of AES-GCM takes less than 2 GiB."""
_MOST_INDEX: Final = 2**48 - 1
START: Final = "why a worker could not start"
"""The place of an exception that belongs to no call."""
BUILD: Final = "what the build of an image says"
"""The place of output that belongs to all calls that wait for it."""


def inputs_of(call: CallId) -> str:
    """Return the place of a call's batches of arguments."""
    return f"the arguments of {call}"


def values_of(call: CallId) -> str:
    """Return the place of a call's batches of results."""
    return f"the results of {call}"


def items_of(call: CallId) -> str:
    """Return the place of what a call's generator gives."""
    return f"the items of {call}"


def exception_of(call: CallId, index: int) -> str:
    """Return the place of what an input raised."""
    return f"the exception of {call}, input {index}"


def output_of(call: CallId, index: int) -> str:
    """Return the place of what an input wrote."""
    return f"the output of {call}, input {index}"


def object_named(digest: Digest) -> str:
    """Return the place of an object."""
    return f"the object {digest}"


class Key:
    """Seals and opens with one key."""

    def __init__(self, secret: bytes) -> None:
        """Use `secret`, `KEY_BYTES` random bytes."""
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(…)"

    def token(self, place: str, content: bytes, size_bytes: int) -> bytes:
        """Return what stands for `content` at `place`, of which it tells nothing without the key.

        The same content has the same token there.
        """
        return keyed_digest(self._secret, f"a token of {place}\0".encode() + content, size_bytes)

    def seal(self, frame: Frame, place: str) -> bytes:
        """Return a frame sealed for `place`."""
        salt = os.urandom(SALT_BYTES)
        sealed = _seal(self._cipher(salt), _number(0, 0), frame, place.encode())
        return b"".join((MARK, salt, sealed))

    def open(self, frame: Frame, place: str) -> bytes:
        """Return what was sealed for `place`.

        Raises:
            DeserializationError: it was not, or not with this key, or it was changed.
        """
        if not batches.is_sealed(frame):
            raise DeserializationError(_refusal(place, "in clear, and should be sealed"))
        view = memoryview(frame)[len(MARK) :]
        cipher = self._cipher(bytes(view[:SALT_BYTES]))
        with _refusing(place):
            return _open(cipher, _number(0, 0), view[SALT_BYTES:], place.encode())

    def seal_batch(self, parts: Sequence[Frame], place: str, first: int) -> list[Frame]:
        """Return a batch, whose first item is the one at `first` of `place`, sealed.

        Args:
            parts: its frames; they are well formed.
            place: where it belongs.
            first: the index of its first item there.
        """
        salt = os.urandom(SALT_BYTES)
        return _through(_seal, self._cipher(salt), parts, place, first, salt)

    def open_batch(self, parts: Sequence[Frame], place: str, first: int) -> list[Frame]:
        """Return the batch that was sealed, or what was cut out of it.

        Args:
            parts: its frames.
            place: where it belongs.
            first: the index of its first item there.

        Raises:
            ProtocolError: it is no batch.
            DeserializationError: it was not sealed for this place, not with this key, or changed.
        """
        head = batches.header(parts)
        if not head.sealed:
            raise DeserializationError(_refusal(place, "in clear, and should be sealed"))
        batches.check(parts, head.count)
        cipher = self._cipher(batches.salt_of(parts[0]))
        with _refusing(place):
            return _through(_open, cipher, parts, place, first)

    def _cipher(self, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  30 ms, and only where something is sealed

        return AESGCM(keyed_digest(self._secret, salt, KEY_BYTES))


def _through(  # noqa: PLR0917  sealed and opened alike
    act: Callable[[AESGCM, bytes, Frame, bytes], bytes],
    cipher: AESGCM,
    parts: Sequence[Frame],
    place: str,
    first: int,
    salt: bytes = b"",
) -> list[Frame]:
    """Return the batch whose pieces are what `act` makes of each piece of a well-formed one."""
    head = batches.header(parts)
    form = f"{place}: form {head.form}".encode()
    if head.whole:
        front = batches.whole_header(head.form, head.count, salt)
        count = b"whole" + head.count.to_bytes(4, "little")
        return [front, act(cipher, _number(first, 0), parts[1], form + count)]
    (offsets, positions), data = batches.table(parts[0], head.count), memoryview(parts[1])
    items: list[bytes] = []
    buffers: list[bytes] = []
    for at, (low, high) in enumerate(pairwise(positions)):
        bound = form + (high - low).to_bytes(4, "little")
        item = data[offsets[at] : offsets[at + 1]]
        items.append(act(cipher, _number(first + at, 0), item, bound))
        for piece, buffer in enumerate(parts[2 + low : 2 + high], 1):
            buffers.append(act(cipher, _number(first + at, piece), buffer, bound))
    starts = [0, *accumulate(map(len, items))]
    front = batches.itemised_header(head.form, starts, positions, salt)
    return [front, b"".join(items), *buffers]


def _number(index: int, piece: int) -> bytes:
    """Return the nonce of a piece, but for the number of the part: any index has one."""
    return (index & _MOST_INDEX).to_bytes(6, "little") + piece.to_bytes(4, "little")


def _seal(cipher: AESGCM, number: bytes, data: Frame, bound: bytes) -> bytes:
    """Return a piece sealed, and bound to `bound` and to its length."""
    size = len(data)
    bound += size.to_bytes(8, "little")
    if size <= PART_BYTES:
        return cipher.encrypt(number + b"\0\0", data, bound)
    view, starts = memoryview(data), range(0, size, PART_BYTES)
    return b"".join(
        cipher.encrypt(number + _part(part), view[start : start + PART_BYTES], bound)
        for part, start in enumerate(starts)
    )


def _open(cipher: AESGCM, number: bytes, sealed: Frame, bound: bytes) -> bytes:
    """Return a piece as it was when it was sealed."""
    whole, size = len(sealed), PART_BYTES + TAG_BYTES
    starts = range(0, whole or 1, size)
    bound += max(0, whole - TAG_BYTES * len(starts)).to_bytes(8, "little")
    if whole <= size:
        return cipher.decrypt(number + b"\0\0", sealed, bound)
    view = memoryview(sealed)
    return b"".join(
        cipher.decrypt(number + _part(part), view[start : start + size], bound)
        for part, start in enumerate(starts)
    )


def _part(part: int) -> bytes:
    return part.to_bytes(2, "little")


@contextlib.contextmanager
def _refusing(place: str) -> Iterator[None]:
    """Say what it was that did not open."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  as in `_cipher`

    try:
        yield
    except InvalidTag:
        text = "changed on their way, or sealed with another key or for another place"
        raise DeserializationError(_refusal(place, text)) from None


def _refusal(place: str, why: str) -> str:
    return (
        f"{place} cannot be opened: {why}; nothing of it was read. A connection file of before the "
        "broker's keys were made anew has another key: `notebook-ext broker invite` makes one"
    )
