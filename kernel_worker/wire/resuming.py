"""A stream of messages that goes on where it was when a connection over TCP was cut.

Theory. Each side numbers what it says, from 1 on, and keeps it until the other side has said that
it arrived. In front of each message goes a *mark*: which stream this is, the message's number, and
up to which one the other side's have arrived. A message with the number 0 is a greeting (the first
one on a connection, and its answer) or, without anything behind the mark, only says what arrived.
Who hears a greeting knows what to say again. What comes twice is dropped; so is what comes early
(it was said before the greeting was answered), because it will be said again.

A frame that is long goes in pieces, whose numbers stand behind the mark: so nobody who has not
proved anything yet can announce more than `PIECE_BYTES`.

Guarantees: messages arrive once and in order, whatever is cut, as long as both sides live.
Not guaranteed: anything across the end of one of them. The answer to a greeting says whether the
stream is known (`GREETING`) or begins (`FRESH`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_worker.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

Frame = bytes | memoryview

PIECE_BYTES: Final = 16 * 2**20
_LAYOUT: Final = struct.Struct("<4sQQQ")
_COUNT: Final = struct.Struct("<I")
_MAGIC: Final = b"\xc1nb1"
"""No header begins like that: msgpack has no use for the first byte."""
GREETING: Final = 0
FRESH: Final = 2**64 - 1
_TELL_MESSAGES: Final = 64
_TELL_BYTES: Final = 2**20
"""What arrived is told after so much of it, where nothing else is said."""


class Mark(NamedTuple):
    """What stands in front of a message."""

    stream: int
    """Chosen at random by who dials."""
    number: int
    """Of the message; or `GREETING`, or `FRESH`."""
    arrived: int
    """The number of the other side's last message that is here."""
    pieces: tuple[int, ...] = ()
    """In how many pieces each frame comes; empty where all are whole."""

    def joined(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return the frames of a message, whole.

        Raises:
            ProtocolError: there are fewer pieces, or more, than it says.
        """
        if not self.pieces:
            return list(frames)
        if sum(self.pieces) != len(frames):
            text = f"it has {len(frames)} pieces instead of {sum(self.pieces)}"
            raise ProtocolError(text)
        rest = iter(frames)
        return [
            next(rest) if count == 1 else b"".join(next(rest) for _ in range(count))
            for count in self.pieces
        ]


def decode(frame: Frame) -> Mark:
    """Return the mark that a frame holds.

    Raises:
        ProtocolError: it is no mark.
    """
    behind = len(frame) - _LAYOUT.size
    if behind < 0 or behind % _COUNT.size or bytes(frame[:4]) != _MAGIC:
        text = "it has no mark"
        raise ProtocolError(text)
    _, stream, number, arrived = _LAYOUT.unpack_from(frame)
    pieces = tuple(count for (count,) in _COUNT.iter_unpack(frame[_LAYOUT.size :]))
    return Mark(stream, number, arrived, pieces)


class Stream:
    """One end of it."""

    __slots__ = ("_kept", "_next", "_said", "_told", "_untold_bytes", "arrived", "id", "kept_bytes")

    def __init__(self, stream: int) -> None:
        """Begin; nothing was said."""
        self.id = stream
        self.arrived = 0
        """The number of the last message that is here."""
        self.kept_bytes = 0
        """How much is kept that may have to be said again."""
        self._said = 0
        self._next = 1
        self._kept: dict[int, tuple[Sequence[Frame | bytearray], bytes, int]] = {}
        self._told = 0
        self._untold_bytes = 0

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to send."""
        return self._next <= self._said

    def put(self, message: Sequence[Frame | bytearray]) -> None:
        """Keep a message, which is to be sent."""
        size = sum(map(len, message))
        self._said += 1
        pieces = b""
        if max(map(len, message)) > PIECE_BYTES:
            message, pieces = _cut(message)
        self._kept[self._said] = (message, pieces, size)
        self.kept_bytes += size

    def next(self) -> list[Frame | bytearray] | None:
        """Return the next message to send, mark first; `sent` says that it was."""
        if self._next > self._said:
            return None
        frames, pieces, _ = self._kept[self._next]
        return [self._mark(self._next) + pieces, *frames]

    def sent(self) -> None:
        """What `next` gave is on its way."""
        self._next += 1

    def greeting(self, *, fresh: bool = False) -> bytes:
        """Return the mark of a greeting."""
        return self._mark(FRESH if fresh else GREETING)

    def due_word(self) -> bytes | None:
        """Return a mark that says what arrived, where it is time to say that alone."""
        untold = self.arrived - self._told
        if untold < _TELL_MESSAGES and self._untold_bytes < _TELL_BYTES:
            return None
        return self.word()

    def word(self) -> bytes:
        """Return a mark that says what arrived."""
        return self._mark(GREETING)

    def greeted(self, mark: Mark) -> None:
        """The other side has greeted: what it has not, is to be sent again."""
        self._forget_until(mark.arrived)
        self._next = self._said - len(self._kept) + 1

    def takes(self, mark: Mark, frames: Sequence[Frame]) -> bool:
        """Return whether a message is new here, and the next one."""
        self._forget_until(mark.arrived)
        if mark.number != self.arrived + 1:
            return False
        self.arrived = mark.number
        self._untold_bytes += sum(map(len, frames))
        return True

    def _mark(self, number: int) -> bytes:
        self._told, self._untold_bytes = self.arrived, 0
        return _LAYOUT.pack(_MAGIC, self.id, number, self.arrived)

    def _forget_until(self, number: int) -> None:
        """Let go of what has arrived there."""
        first = self._said - len(self._kept) + 1
        for each in range(first, min(number, self._next - 1) + 1):
            self.kept_bytes -= self._kept.pop(each)[2]


def _cut(message: Sequence[Frame | bytearray]) -> tuple[list[Frame], bytes]:
    """Return the pieces of all frames, and how many each has."""
    frames: list[Frame] = []
    counts = b""
    for frame in message:
        view = memoryview(frame)
        starts = range(0, max(1, len(view)), PIECE_BYTES)
        frames += [view[start : start + PIECE_BYTES] for start in starts]
        counts += _COUNT.pack(len(starts))
    return frames, counts
