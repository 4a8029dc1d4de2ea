"""Seals what must not lie on disk in clear: environment variables, which may be secrets, and code.

Those of functions (an object of its own) and those that a call brings along (a part of the record
that it was submitted: `hidden` takes them out, `shown` puts them back). With code comes the text of
its cell, where somebody may have written one.

Theory. A secret box (XSalsa20 and Poly1305) from libsodium, by PyNaCl: a random nonce each time,
and nothing to choose. The key is 32 random bytes in a file beside the journal that only this user
can read; it is there whole or not at all.

Guarantees: a copy of the journal alone does not tell what was sealed, nor can it be changed unseen.
Not guaranteed: anything against who can read the key's file; and the length shows.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.records import CallSubmitted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nacl.secret import SecretBox

MARK = b"\xc1sealed1"
"""Begins what is sealed. No msgpack begins with its first byte, and what is in clear is msgpack."""
_KEY_BYTES = 32

_variables = msgspec.msgpack.Decoder(tuple[tuple[str, str | None], ...])


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, secret: bytes) -> None:
        """Use `secret`, 32 random bytes."""
        self._secret = secret

    @classmethod
    def beside(cls, path: Path) -> Sealer:
        """Return the sealer of the journal at `path`; its key is made where there is none."""
        place = path.with_suffix(".key")
        if not place.exists():
            _write_whole(place, os.urandom(_KEY_BYTES))
        return cls(place.read_bytes())

    def seal(self, text: bytes | memoryview) -> bytes:
        """Return `text` sealed."""
        return MARK + bytes(self._box.encrypt(bytes(text)))

    def open(self, sealed: bytes) -> bytes | None:
        """Return what was sealed, also what never was; None where the key is another one."""
        if not sealed.startswith(MARK):
            return sealed
        from nacl.exceptions import CryptoError  # noqa: PLC0415  as in `_box`

        try:
            return self._box.decrypt(sealed[len(MARK) :])
        except CryptoError:
            return None

    @functools.cached_property
    def _box(self) -> SecretBox:
        from nacl.secret import SecretBox  # noqa: PLC0415  a broker without spawned calls needs none

        return SecretBox(self._secret)


def hidden(record: CallSubmitted, sealer: Sealer) -> tuple[CallSubmitted, list[bytes]]:
    """Return `record` without its variables, and the frames that lie beside it: these, sealed."""
    context = record.context
    if not context.variables:
        return record, []
    bare = msgspec.structs.replace(context, variables=())
    sealed = sealer.seal(msgspec.msgpack.encode(context.variables))
    return msgspec.structs.replace(record, context=bare), [sealed]


def shown(record: CallSubmitted, frames: Sequence[bytes], sealer: Sealer) -> CallSubmitted | None:
    """Return what `hidden` was given; None where the key is another one."""
    if not frames:
        return record
    opened = sealer.open(frames[0])
    if opened is None:
        return None
    context = msgspec.structs.replace(record.context, variables=_variables.decode(opened))
    return msgspec.structs.replace(record, context=context)


def _write_whole(place: Path, secret: bytes) -> None:
    """Write a file that only this user can read, on disk before it has its name."""
    half = place.with_suffix(".key.new")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    half.replace(place)
