"""Seals what must not lie on disk in clear: the environments of functions, with their secrets.

Theory. A stream of keyed BLAKE2b blocks over a random nonce and a counter hides the text; keyed
BLAKE2b over nonce and hidden text proves that it is what was sealed (encrypt, then authenticate).
Both keys come from 32 random bytes in a file beside the journal that only this user can read.

Guarantees: a copy of the journal alone does not tell what was sealed, nor can it be changed unseen.
Not guaranteed: anything against who can read the key's file; and the length shows.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MARK = b"\xc1sealed1"
"""Begins what is sealed. No msgpack begins with its first byte, and what is in clear is msgpack."""
_NONCE_BYTES = 16
_TAG_BYTES = 32
_BLOCK_BYTES = 64


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, secret: bytes) -> None:
        """Use `secret`, 32 random bytes."""
        self._hiding = hashlib.blake2b(b"hide", key=secret).digest()
        self._proving = hashlib.blake2b(b"prove", key=secret).digest()

    @classmethod
    def beside(cls, path: Path) -> Sealer:
        """Return the sealer of the journal at `path`; its key is made where there is none."""
        place = path.with_suffix(".key")
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(place.read_bytes())
        with os.fdopen(descriptor, "wb") as file:
            secret = os.urandom(32)
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        return cls(secret)

    def seal(self, text: bytes | memoryview) -> bytes:
        """Return `text` sealed."""
        nonce = os.urandom(_NONCE_BYTES)
        hidden = self._hide(nonce, bytes(text))
        return MARK + nonce + self._proof(nonce, hidden) + hidden

    def open(self, sealed: bytes) -> bytes | None:
        """Return what was sealed, also what never was; None where the key is another one."""
        if not sealed.startswith(MARK):
            return sealed
        start = len(MARK)
        nonce = sealed[start : start + _NONCE_BYTES]
        tag = sealed[start + _NONCE_BYTES : start + _NONCE_BYTES + _TAG_BYTES]
        hidden = sealed[start + _NONCE_BYTES + _TAG_BYTES :]
        if not hmac.compare_digest(tag, self._proof(nonce, hidden)):
            return None
        return self._hide(nonce, hidden)

    def _hide(self, nonce: bytes, text: bytes) -> bytes:
        """Return `text` xor the stream; the same again gives it back."""
        blocks = range((len(text) + _BLOCK_BYTES - 1) // _BLOCK_BYTES)
        stream = b"".join(
            hashlib.blake2b(nonce + at.to_bytes(8, "little"), key=self._hiding).digest()
            for at in blocks
        )
        both = int.from_bytes(text, "little") ^ int.from_bytes(stream[: len(text)], "little")
        return both.to_bytes(len(text), "little")

    def _proof(self, nonce: bytes, hidden: bytes) -> bytes:
        return hashlib.blake2b(nonce + hidden, key=self._proving, digest_size=_TAG_BYTES).digest()
