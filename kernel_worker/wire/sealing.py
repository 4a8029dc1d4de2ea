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

import os
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import DeserializationError
from kernel_worker.model import keyed_digest
from kernel_worker.wire import frames as batches
from kernel_worker.wire.frames import MARK, SALT_BYTES, TAG_BYTES, Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from kernel_worker.model import CallId, Digest

KEY_BYTES: Final = 32
PART_BYTES: Final = 2**30
"""One pass of AES-GCM takes less than 2 GiB."""
START: Final = "why a worker could not start"
"""The place of an exception that belongs to no call."""


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

    def seal(self, frame: Frame, place: str) -> bytes:
        """Return a frame sealed for `place`."""
        salt = os.urandom(SALT_BYTES)
        return b"".join((MARK, salt, _seal(self._cipher(salt), 0, 0, frame, place, "")))

    def open(self, frame: Frame, place: str) -> bytes:
        """Return what was sealed for `place`.

        Raises:
            DeserializationError: it was not, or not with this key, or it was changed.
        """
        if not batches.is_sealed(frame):
            raise DeserializationError(_refusal(place, "in clear, and should be sealed"))
        view = memoryview(frame)[len(MARK) :]
        return _open(self._cipher(bytes(view[:SALT_BYTES])), 0, 0, view[SALT_BYTES:], place, "")

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
        return _through(_open, self._cipher(batches.salt_of(parts[0])), parts, place, first)

    def _cipher(self, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  30 ms, and only where something is sealed

        return AESGCM(keyed_digest(self._secret, salt, KEY_BYTES))


def _through(  # noqa: PLR0917  sealed and opened alike
    act: Callable[[AESGCM, int, int, Frame, str, str], bytes],
    cipher: AESGCM,
    parts: Sequence[Frame],
    place: str,
    first: int,
    salt: bytes = b"",
) -> list[Frame]:
    """Return the batch whose pieces are what `act` makes of each piece of a well-formed one."""
    head = batches.header(parts)
    if head.whole:
        shape = f"{head.count} of form {head.form}"
        front = batches.whole_header(head.form, head.count, salt)
        return [front, act(cipher, first, 0, parts[1], place, shape)]
    (offsets, positions), data = batches.table(parts[0], head.count), memoryview(parts[1])
    items: list[bytes] = []
    buffers: list[bytes] = []
    for at, (low, high) in enumerate(pairwise(positions)):
        shape = f"one of form {head.form} with {high - low} buffers"
        item = data[offsets[at] : offsets[at + 1]]
        items.append(act(cipher, first + at, 0, item, place, shape))
        for piece, buffer in enumerate(parts[2 + low : 2 + high], 1):
            buffers.append(act(cipher, first + at, piece, buffer, place, shape))
    starts = [0, *accumulate(map(len, items))]
    front = batches.itemised_header(head.form, starts, positions, salt)
    return [front, b"".join(items), *buffers]


def _nonce(index: int, piece: int, part: int) -> bytes:
    return index.to_bytes(6, "little") + piece.to_bytes(4, "little") + part.to_bytes(2, "little")


def _seal(  # noqa: PLR0917  as `_open`
    cipher: AESGCM, index: int, piece: int, data: Frame, place: str, shape: str
) -> bytes:
    """Return a piece sealed: what it is bound to is `place`, its length and its `shape`."""
    view, bound = memoryview(data), f"{place}: {shape}: {len(data)} bytes".encode()
    parts = [
        cipher.encrypt(_nonce(index, piece, part), view[start : start + PART_BYTES], bound)
        for part, start in enumerate(range(0, len(view) or 1, PART_BYTES))
    ]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _open(  # noqa: PLR0917  as `_seal`
    cipher: AESGCM, index: int, piece: int, sealed: Frame, place: str, shape: str
) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  as in `_cipher`

    size, view = PART_BYTES + TAG_BYTES, memoryview(sealed)
    starts = range(0, len(view) or 1, size)
    bound = f"{place}: {shape}: {len(view) - TAG_BYTES * len(starts)} bytes".encode()
    try:
        parts = [
            cipher.decrypt(_nonce(index, piece, part), view[start : start + size], bound)
            for part, start in enumerate(starts)
        ]
    except (InvalidTag, OverflowError):  # the latter of an index that no input has
        text = "changed on their way, or sealed with another key or for another place"
        raise DeserializationError(_refusal(place, text)) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _refusal(place: str, why: str) -> str:
    return (
        f"{place} cannot be opened: {why}; nothing of it was read. A connection file of before the "
        "broker's keys were made anew has another key: `notebook-ext broker invite` makes one"
    )
