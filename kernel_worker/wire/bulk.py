"""What goes by the bulk connection of a link: blobs, in sealed chunks, taken up where it was cut.

Theory. Messages of a link go by CURVE, which moves some tens of MB a second. So their large frames
go by a TCP connection of its own, as *blobs*, and the message names them (`Manifest`) once they
have arrived. The session's id and secret are told over CURVE, to the one machine that they are for.
Whoever dials shows the id and 32 random bytes, and is given as many; the keys of that connection,
one for each direction, are keyed hashes (BLAKE2b) of both. Then each end says, sealed, what it has
of the blobs that are under way: so each proves that it knows the secret, and the other one goes on
where it was.

A *record* is a head in clear and a body that AES-256-GCM seals with a counter as the nonce, the
head as associated data. Nobody has the keys of another connection, and a counter is used once: what
was changed, moved, repeated or left out does not open, and ends the connection.

Guarantees: what is given on is what was sent, all of it. A blob is held once at either end: it is
cut into chunks as the connection takes them, and what has come is opened into where it belongs,
where it counts only once its seal was found whole.
Not guaranteed: that the sizes of blobs stay hidden.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from kernel_worker.errors import ProtocolError
from kernel_worker.model import keyed_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

Frame = bytes | bytearray | memoryview

LARGE_BYTES: Final = 64 * 1024
"""A frame that is as large goes by the bulk connection."""
CHUNK_BYTES: Final = 512 * 1024
ID_BYTES: Final = 16
SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 32
MOST_BLOBS: Final = 16_384
"""So many may be under way: an end says in one record what it has."""
TAG_BYTES: Final = 16
SLACK_BYTES: Final = 15
"""So much more room than it needs is asked for by what opens a body; nothing is written there."""
MAGIC: Final = b"nbx-bulk-1"
"""What whoever dials says first; nothing that ZeroMQ says begins so."""
_HEAD: Final = struct.Struct("<IBQQ")
HEAD_BYTES: Final = _HEAD.size
_ENTRY: Final = struct.Struct("<QQ")
GREETING_BYTES: Final = len(MAGIC) + ID_BYTES + NONCE_BYTES

HAVE: Final = 0
"""The first record of each end: the blobs of which it has something, and how much."""
BEGIN: Final = 1
"""A blob begins: `number` bytes."""
DATA: Final = 2
"""A chunk of a blob, from `number` on."""
ARRIVED: Final = 3
"""A blob is here."""
DROP: Final = 4
"""Nobody wants a blob any more."""


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """What stands in front of a message whose large frames are blobs."""

    blobs: tuple[tuple[int, int], ...] = ()
    """Each the place of a frame in the message, and which blob it is; places ascend."""
    gone: tuple[int, ...] = ()
    """The blobs that no later message names."""

    def encode(self) -> bytes:
        """Return it as a frame."""
        return msgspec.msgpack.encode(self)


_manifests = msgspec.msgpack.Decoder(Manifest)


def manifest(frame: Frame) -> Manifest:
    """Return the manifest that a frame holds.

    Raises:
        ProtocolError: it holds none.
    """
    try:
        return _manifests.decode(frame)
    except msgspec.DecodeError as error:
        message = f"no manifest: {error}"
        raise ProtocolError(message) from None


def greeting(session: bytes, nonce: bytes) -> bytes:
    """Return what whoever dials says first."""
    return MAGIC + session + nonce


def greeted(said: bytes) -> tuple[bytes, bytes]:
    """Return the session's id and the random bytes of who dials.

    Raises:
        ProtocolError: that is no greeting.
    """
    if len(said) != GREETING_BYTES or not said.startswith(MAGIC):
        message = "what it says is no greeting"
        raise ProtocolError(message)
    return said[len(MAGIC) : -NONCE_BYTES], said[-NONCE_BYTES:]


class Head(NamedTuple):
    """What a record says in clear; it is to be believed once the body was opened."""

    kind: int
    blob: int
    number: int
    size_bytes: int
    """Of the body, opened."""


class Seal:
    """One direction of one connection: seals, or opens, each record with the next nonce."""

    def __init__(self, secret: bytes, nonces: bytes, *, up: bool) -> None:
        """Make the key.

        Args:
            secret: of the session.
            nonces: the random bytes of who dials, and of who was dialled.
            up: whether this is what the one who dials says.
        """
        from cryptography.hazmat.primitives import ciphers  # noqa: PLC0415  30 ms, and only where there are links
        from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415

        word = b"bulk up " if up else b"bulk down "
        key = keyed_digest(secret, word + nonces, 32)
        self._cipher = aead.AESGCM(key)
        self._key, self._ciphers = ciphers.algorithms.AES(key), ciphers
        self._count = 0

    def seal(self, kind: int, blob: int = 0, number: int = 0, body: Frame = b"") -> list[bytes]:
        """Return a record: its head and its sealed body."""
        head = _HEAD.pack(len(body) + TAG_BYTES, kind, blob, number)
        return [head, self._cipher.encrypt(self._nonce(), body, head)]

    def open(self, head: bytes, sealed: memoryview, into: memoryview) -> None:
        """Open a record's body.

        Args:
            head: the record's.
            sealed: the body.
            into: where it is written to, with `SLACK_BYTES` more than it has.

        Raises:
            ProtocolError: it is not the next one that the other end has sealed; what was written
                is of nobody, then.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  as above

        ciphers, tag = self._ciphers, bytes(sealed[-TAG_BYTES:])
        mode = ciphers.modes.GCM(self._nonce(), tag)
        opener = ciphers.Cipher(self._key, mode).decryptor()
        opener.authenticate_additional_data(head)
        try:
            opener.update_into(sealed[:-TAG_BYTES], into)
            opener.finalize()
        except InvalidTag:
            message = "a record was changed on its way, is sealed by another key, or not the next"
            raise ProtocolError(message) from None

    def _nonce(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(12, "little")


def head_of(said: bytes) -> Head:
    """Return what a record's head says.

    Raises:
        ProtocolError: that a body is longer than any.
    """
    size, kind, blob, number = _HEAD.unpack(said)
    if not TAG_BYTES <= size <= CHUNK_BYTES + TAG_BYTES:
        message = f"a record of {size:,} bytes"
        raise ProtocolError(message)
    return Head(kind, blob, number, size - TAG_BYTES)


def had(body: bytes) -> dict[int, int]:
    """Return how much the other end has of which blobs.

    Raises:
        ProtocolError: it does not say that.
    """
    if len(body) % _ENTRY.size:
        message = "it says in no known way what it has"
        raise ProtocolError(message)
    return dict(_ENTRY.iter_unpack(body))


class _Blob:
    """A blob that goes out."""

    __slots__ = ("at", "has_begun", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.at = 0
        self.has_begun = False


class Sending:
    """The blobs that one end sends, by as many connections as it takes."""

    def __init__(self) -> None:
        """Begin with none."""
        self._blobs: dict[int, _Blob] = {}
        self._turns: deque[int] = deque()
        self._words: deque[tuple[int, int]] = deque()
        self._dropped: set[int] = set()

    def add(self, blob: int, content: Frame) -> None:
        """Send a blob."""
        self._blobs[blob] = _Blob(memoryview(content).cast("B"))
        self._turns.append(blob)

    def say(self, kind: int, blob: int) -> None:
        """Send a record that has no body, before the next chunk."""
        self._words.append((kind, blob))

    def drop(self, blob: int) -> None:
        """A blob that no message has named is not wanted any more: it is let go here and there."""
        self._blobs.pop(blob, None)
        self._dropped.add(blob)
        self.say(DROP, blob)

    def arrived(self, blob: int) -> bool:
        """Let go of a blob that is there; return whether it was under way."""
        return self._blobs.pop(blob, None) is not None

    def connected(self, have: Mapping[int, int]) -> list[int]:
        """Go on by another connection; return what has arrived by the former one.

        Args:
            have: how much of which blobs is there.
        """
        self._words.clear()
        self._dropped &= have.keys()
        for blob in self._dropped:
            self.say(DROP, blob)
        for blob, sent in self._blobs.items():
            sent.at = have.get(blob, 0)
            sent.has_begun = blob in have
        there = [blob for blob, sent in self._blobs.items() if sent.at == len(sent.view)]
        self._turns = deque(blob for blob in self._blobs if blob not in there)
        return there

    def next(self) -> tuple[int, int, int, Frame] | None:
        """Return what to seal next: kind, blob, number and body; the blobs take turns."""
        if self._words:
            return (*self._words.popleft(), 0, b"")
        while self._turns:
            blob = self._turns[0]
            sent = self._blobs.get(blob)
            if sent is None:
                self._turns.popleft()
                continue
            if not sent.has_begun:
                sent.has_begun = True
                return BEGIN, blob, len(sent.view), b""
            at = sent.at
            sent.at += CHUNK_BYTES
            self._turns.popleft()
            if sent.at < len(sent.view):
                self._turns.append(blob)
            return DATA, blob, at, sent.view[at : at + CHUNK_BYTES]
        return None


class Receiving:
    """The blobs that have come to one end, or are coming."""

    def __init__(self, limit_bytes: float) -> None:
        """Begin with none; more than `limit_bytes` of them are refused."""
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._rooms: dict[int, memoryview] = {}
        self._filled: dict[int, int] = {}

    def have(self) -> bytes:
        """Return the body that says how much is here of which blobs."""
        return b"".join(_ENTRY.pack(*each) for each in self._filled.items())

    def begin(self, blob: int, size_bytes: int) -> None:
        """Make room for a blob.

        Raises:
            ProtocolError: there is none, or the blob has begun.
        """
        is_too_much = self._bytes + size_bytes > self._limit_bytes
        if not size_bytes or is_too_much or len(self._rooms) >= MOST_BLOBS or blob in self._rooms:
            message = f"there is no room for a blob of {size_bytes:,} bytes beside {self._bytes:,}"
            raise ProtocolError(message)
        self._rooms[blob] = _room(size_bytes)
        self._filled[blob] = 0
        self._bytes += size_bytes

    def place(self, head: Head) -> memoryview | None:
        """Return where a chunk is to be opened into, with its slack; None: nobody wants it now.

        Raises:
            ProtocolError: it is not the next one.
        """
        room = self._rooms.get(head.blob)
        if room is None:
            return None  # it was dropped just now
        at, end = head.number, head.number + head.size_bytes
        if at != self._filled[head.blob] or end > len(room):
            message = f"bytes {at:,} to {end:,} of blob {head.blob} are not the next"
            raise ProtocolError(message)
        return memoryview(room.obj)[at : end + SLACK_BYTES]

    def filled(self, head: Head) -> bool:
        """Note that a chunk is in its place; return whether its blob is whole."""
        room = self._rooms.get(head.blob)
        if room is None:
            return False
        self._filled[head.blob] = end = head.number + head.size_bytes
        return end == len(room)

    def get(self, blob: int) -> memoryview:
        """Return a blob that has come.

        Raises:
            ProtocolError: it has not.
        """
        room = self._rooms.get(blob)
        if room is None or self._filled[blob] < len(room):
            message = f"blob {blob} is named, and is not here"
            raise ProtocolError(message)
        return room

    def drop(self, blob: int) -> None:
        """Let go of a blob; whoever was given it keeps it."""
        room = self._rooms.pop(blob, None)
        if room is not None:
            del self._filled[blob]
            self._bytes -= len(room)


def _room(size_bytes: int) -> memoryview:
    """Return memory that costs nothing until it is written to, and then one fault for 2 MiB."""
    made = mmap.mmap(-1, size_bytes + SLACK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the system has no large pages
        made.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(made)[:size_bytes]
