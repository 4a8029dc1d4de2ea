"""The worker's end of a line for items: what a generator gives goes to its reader past the broker.

Theory. The worker dials before it gives the first batch, which goes by the broker. Whoever reads
that batch knows thus that all further ones come by the line, until its end; behind that, by the
broker again. On the line go turns of `wire.line`: from here the number of a batch's first item and
the batch, or no frames where the broker has been told that the generator waits; from the reader how
many items it has taken in all, and how many bytes (as eight, little-endian).

Guarantees: nothing here blocks longer than `PATIENCE_MS`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final, Self

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame

PATIENCE_MS: Final = 2
"""A reader that keeps up gives credit sooner: only after this the broker hears of the wait."""


class ItemLine:
    """One generator's."""

    def __init__(self, end: socket.socket) -> None:
        """Talk on `end`."""
        self._end = end
        line.limit_waits(end, PATIENCE_MS / 1000)

    @classmethod
    def dial(cls, name: str, call: str) -> Self | None:
        """Return the line to who listens as `name` for the items of `call`; None: nobody does."""
        end = line.dial(name, call)
        return None if end is None else cls(end)

    def fileno(self) -> int:
        """Return what is readable where something has come."""
        return self._end.fileno()

    def give(self, start: int, frames: Sequence[Frame]) -> bool:
        """Send a batch, whose first item has the number `start`; say whether that was possible.

        It is not where the batch is large, or lies in a store, or nobody reads.
        """
        if len(frames) > 2 or sum(map(len, frames)) > line.MOST_FRAME_BYTES:  # noqa: PLR2004  header and pickle
            return False
        return self._say(start, frames)

    def say_paused(self, taken: int) -> None:
        """Let the reader say its next credit to the broker too, which was told of a pause."""
        self._say(taken, ())

    def credit(self) -> tuple[int, int] | None:
        """Return how much was taken in all, items and bytes; None: no more than before, for now.

        Raises:
            ConnectionError: nobody reads any more.
            ProtocolError: that is no credit.
        """
        try:
            data = self._end.recv(line.MAX_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError
        turn = line.decode(data)
        if len(turn.frames) != 1:
            message = f"a credit has one frame, not {len(turn.frames)}"
            raise ProtocolError(message)
        return turn.index, int.from_bytes(turn.frames[0], "little")

    def close(self) -> None:
        """End it: what was given can still be read."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # a child that was forked may hold it open
        self._end.close()

    def _say(self, index: int, frames: Sequence[Frame]) -> bool:
        try:
            self._end.send(line.encode((index, frames)), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True
