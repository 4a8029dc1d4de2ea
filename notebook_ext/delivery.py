"""Results of a map between their arrival and the loop that takes them: in order, in bounded memory.

Results stay as they came, in encoded batches. What does not fit into `HELD_BYTES` goes into a file
without a name and comes back from there. `take` never waits: it returns what is next, or what to
wait for.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from notebook_ext.submission import Ended
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.wire.frames import Frame

HELD_BYTES = 64 * 1024 * 1024
"""More than this is kept in a file."""
FULL_BYTES = 16 * 1024 * 1024
FULL_COUNT = 50_000
"""With so much to take, a map whose loop is elsewhere pulls no more inputs."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values of `count` inputs, from `position` of a batch on."""

    count: int
    frames: Sequence[Frame]
    position: int


Piece = Values | Ended


@dataclass(frozen=True, slots=True)
class _Spilled:
    count: int
    position: int
    offset: int
    size: int


class Delivery:
    """One map's results, safe for one who puts and one who takes."""

    def __init__(self, *, ordered: bool) -> None:
        """Start with none; `ordered` gives them in the order of the inputs."""
        self._ordered = ordered
        self._lock = threading.Lock()
        self._held: dict[int, Values | Ended | _Spilled] = {}
        self._arrivals: deque[int] = deque()
        self._next = 0
        self._given = 0
        self._total: int | None = None
        self._last: Callable[[], object] | None = None
        self._aborted = False
        self._waiting: Waiting[None] | None = None
        self._held_bytes = 0
        self._held_count = 0
        self._spill = _Spill()

    @property
    def is_full(self) -> bool:
        """Whether so much can be taken that no more should be made."""
        if self._waiting is not None:
            return False
        return self._held_bytes > FULL_BYTES or self._held_count > FULL_COUNT

    def put(self, start: int, piece: Piece) -> None:
        """Add the results of `[start, start + piece.count)`; each index comes once."""
        with self._lock:
            if self._aborted:
                return
            self._held[start] = self._kept(piece)
            self._held_count += piece.count
            if not self._ordered:
                self._arrivals.append(start)
            waiting = self._wake() if not self._ordered or start == self._next else None
        _release(waiting)

    def finish(self, total: int, last: Callable[[], object] | None = None) -> None:
        """There are `total` results; `last` is called behind them, and may raise."""
        with self._lock:
            if self._total is None:
                self._total = total
                self._last = last
            waiting = self._wake()
        _release(waiting)

    def abort(self, last: Callable[[], object]) -> None:
        """Nothing comes any more: `last`, which raises, is called behind what can be taken."""
        with self._lock:
            self._aborted = True
            self._last = last
            waiting = self._wake()
        _release(waiting)

    def take(self) -> tuple[int, Piece] | Waiting[None] | None:
        """Return what is next, with its first index; or what to wait for; or None at the end.

        Raises:
            BaseException: what `finish` or `abort` was given, at the end.
        """
        __tracebackhide__ = True
        with self._lock:
            start = self._first()
            if start is not None:
                return start, self._taken(start)
            over = self._aborted or self._given == self._total
            if not over:
                if self._waiting is None:
                    self._waiting = Waiting()
                return self._waiting
        if self._last is not None:
            self._last()
        return None

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._aborted = True
            self._held.clear()
            self._arrivals.clear()
            self._spill.close()
            self._held_bytes = self._held_count = 0

    def _first(self) -> int | None:
        if self._ordered:
            return self._next if self._next in self._held else None
        return self._arrivals.popleft() if self._arrivals else None

    def _taken(self, start: int) -> Piece:
        piece = self._held.pop(start)
        self._next = start + piece.count
        self._given += piece.count
        self._held_count -= piece.count
        if isinstance(piece, _Spilled):
            frames = self._spill.read(piece.offset, piece.size)
            return Values(piece.count, frames, piece.position)
        self._held_bytes -= _size(piece)
        return piece

    def _kept(self, piece: Piece) -> Values | Ended | _Spilled:
        size = _size(piece)
        if isinstance(piece, Ended) or self._held_bytes + size <= HELD_BYTES:
            self._held_bytes += size
            return piece
        offset, length = self._spill.write(piece.frames)
        return _Spilled(piece.count, piece.position, offset, length)

    def _wake(self) -> Waiting[None] | None:
        waiting, self._waiting = self._waiting, None
        return waiting


def _release(waiting: Waiting[None] | None) -> None:
    if waiting is not None:
        waiting.complete(_nothing)


def _nothing() -> None:
    """What a waiting gives that only says that something changed."""


def _size(piece: Piece) -> int:
    if isinstance(piece, Ended):
        return 256 + len(piece.exception or b"")
    return sum(map(len, piece.frames))


class _Spill:
    """A file without a name; emptied whenever all in it was read."""

    def __init__(self) -> None:
        self._file: Any = None
        self._unread = 0
        self._end = 0

    def write(self, frames: Sequence[Frame]) -> tuple[int, int]:
        """Append a batch; return where it lies and its length in bytes."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="notebook-ext-")  # noqa: SIM115  kept open
        data = msgspec.msgpack.encode(list(frames))
        offset = self._end
        self._file.seek(offset)
        self._file.write(data)
        self._end += len(data)
        self._unread += 1
        return offset, len(data)

    def read(self, offset: int, size: int) -> list[bytes]:
        """Return a batch; once."""
        self._file.seek(offset)
        frames = msgspec.msgpack.decode(self._file.read(size), type=list[bytes])
        self._unread -= 1
        if not self._unread:
            self._file.truncate(0)
            self._end = 0
        return frames

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
