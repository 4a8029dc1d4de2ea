"""Results of a map between their arrival and the loop that takes them: in order, in bounded memory.

Results stay as they came, in encoded batches. What does not fit into `HELD_BYTES` goes into a file
without a name and comes back from there. `take` never waits: it returns what is next, or what to
wait for.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.model import Outcome
from notebook_ext.spill import Spill, Spilled, Values
from notebook_ext.submission import Ended
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELD_BYTES = 64 * 1024 * 1024
"""More than this is kept in a file."""
FULL_BYTES = 16 * 1024 * 1024
FULL_COUNT = 50_000
"""With so much to take, a map whose loop is elsewhere pulls no more inputs."""


class Skipped(msgspec.Struct, frozen=True):
    """Stands for results that are not wanted."""

    count: int


Piece = Values | Ended | Skipped


class Delivery:
    """One map's results, safe for one who puts and one who takes."""

    def __init__(
        self, *, ordered: bool, keep: Callable[[int, Values], object] | None = None
    ) -> None:
        """Start with none.

        Args:
            ordered: whether they are taken in the order of the inputs.
            keep: called with results before they are taken: an interrupt at any moment finds them
                kept, or here. So it may be called twice with the same.
        """
        self._ordered = ordered
        self._keep = keep
        self._lock = threading.Lock()
        self._held: dict[int, Piece | Spilled] = {}
        self._arrivals: deque[int] = deque()
        self._next = 0
        self._given = 0
        self._total: int | None = None
        self._last: Callable[[], object] | None = None
        self._aborted = False
        self._waiting: Waiting[None] | None = None
        self._offers: list[Callable[[bool], object]] = []
        self._held_bytes = 0
        self._held_count = 0
        self._taking: int | None = None
        """What is being taken, or was last."""
        self.failures = 0
        """How many inputs that failed wait to be taken."""
        self._spill = Spill()

    @property
    def is_full(self) -> bool:
        """Whether so much can be taken that no more should be made."""
        if self._waiting is not None:
            return False
        return self._held_bytes > FULL_BYTES or self._held_count > FULL_COUNT

    def put(self, start: int, piece: Piece | Spilled) -> bool:
        """Add the results of `[start, start + piece.count)`; each index comes once.

        Returns:
            False where nobody takes anything any more; then nothing is added.
        """
        with self._lock:
            if self._aborted:
                return False
            self._held[start] = self._kept(piece)
            self._held_count += piece.count
            self.failures += piece.count * _is_failure(piece)
            if not self._ordered:
                self._arrivals.append(start)
            waiting = self._wake() if not self._ordered or start == self._next else None
        _release(waiting)
        return True

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

    def offer(self, act: Callable[[bool], object]) -> bool:
        """Have the thread that takes call `act(True)` when it waits; see `Waiting.offer`."""
        with self._lock:
            self._offers.append(act)
            if self._waiting is not None:
                return self._waiting.offer(self._act)
            return not self._aborted

    def _act(self, waits: bool) -> None:  # noqa: FBT001  an offer
        while self._offers:
            self._offers.pop(0)(waits)

    def take(self) -> tuple[int, Piece] | Waiting[None] | None:
        """Return what is next, with its first index; or what to wait for; or None at the end.

        Raises:
            BaseException: what `finish` or `abort` was given, at the end.
        """
        __tracebackhide__ = True
        with self._lock:
            start = self._first()
            over = self._aborted or self._given == self._total
            if start is None and not over:
                if self._waiting is None:
                    self._waiting = Waiting()
                    if self._offers:
                        self._waiting.offer(self._act)
                return self._waiting
            self._taking = start
        if start is not None:
            return start, self._taken(start)
        if self._last is not None:
            self._last()
        return None

    def take_failures(self) -> list[Ended]:
        """Take back what failed and nobody has taken; their new outcomes are to be put."""
        with self._lock:
            held, taking = self._held, self._taking
            found = [at for at in held if at != taking and _is_failure(held[at])]
            pieces = [held.pop(start) for start in found]
            self._arrivals = deque(start for start in self._arrivals if start in held)
            self.failures -= sum(piece.count for piece in pieces)
            self._held_count -= sum(piece.count for piece in pieces)
            failures = [piece for piece in pieces if isinstance(piece, Ended)]
            self._held_bytes -= sum(map(_size, failures))
        return failures

    def left(self) -> Iterator[tuple[int, Piece]]:
        """Yield what nobody has taken, and let go of everything."""
        with self._lock:
            self._aborted = True
            held, self._held = self._held, {}
        for start, piece in held.items():
            yield start, piece.read() if isinstance(piece, Spilled) else piece
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._aborted = True
            self.failures = 0
            self._held.clear()
            self._arrivals.clear()
            self._spill.close()
            self._held_bytes = self._held_count = 0

    def _first(self) -> int | None:
        if self._ordered:
            return self._next if self._next in self._held else None
        return self._arrivals[0] if self._arrivals else None

    def _taken(self, start: int) -> Piece:
        held = self._held[start]
        piece = held.read() if isinstance(held, Spilled) else held
        if self._keep is not None and isinstance(piece, Values):
            self._keep(start, piece)
        with self._lock:
            del self._held[start]
            if not self._ordered:
                self._arrivals.popleft()
            self._next = start + piece.count
            self._given += piece.count
            self._held_count -= piece.count
            self.failures -= piece.count * _is_failure(piece)
            if not isinstance(held, Spilled):
                self._held_bytes -= _size(held)
            elif held.spill is self._spill:
                self._spill.drop()
        return piece

    def _kept(self, piece: Piece | Spilled) -> Piece | Spilled:
        if isinstance(piece, Spilled):
            return piece
        size = _size(piece)
        kept: Piece | Spilled = piece
        if isinstance(piece, Values) and self._held_bytes + size > HELD_BYTES:
            kept = self._spill.write(piece)
        if not isinstance(kept, Spilled):
            self._held_bytes += size
        return kept

    def _wake(self) -> Waiting[None] | None:
        waiting, self._waiting = self._waiting, None
        return waiting


def _release(waiting: Waiting[None] | None) -> None:
    if waiting is not None:
        waiting.complete(_nothing)


def _nothing() -> None:
    """What a waiting gives that only says that something changed."""


def _is_failure(piece: object) -> bool:
    return isinstance(piece, Ended) and piece.outcome is not Outcome.CANCELLED


def _size(piece: Piece) -> int:
    if isinstance(piece, Skipped):
        return 0
    if isinstance(piece, Ended):
        return 256 + len(piece.exception or b"")
    return piece.size_bytes
