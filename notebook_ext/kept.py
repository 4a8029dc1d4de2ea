"""What a map keeps of its inputs and results, so that its rest can be run if it does not end well.

Results that were handed out are kept as they came, encoded, up to `MEMORY_BYTES`, then in a file
without a name, and up to `FILE_BYTES` there; a map that gives more than that keeps none of those
that it hands out. A map whose every input succeeded forgets everything when it ends.

Inputs are numbered here as the user numbers them.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kernel_worker.wire import payload
from notebook_ext.cutting import cut
from notebook_ext.numbering import Spans
from notebook_ext.spill import Spill, Spilled, Values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_ext.submission import Ended

MEMORY_BYTES: Final = 24 * 1024 * 1024
FILE_BYTES: Final = 1024 * 1024 * 1024
FAILED_BYTES: Final = 64 * 1024 * 1024
"""So much is kept of inputs that failed, with their exceptions; of more, nothing."""


class Kept:
    """What became of one map's inputs; safe from any thread."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._lock = threading.Lock()
        self._succeeded = Spans()
        self._pieces: dict[int, Values | Spilled] = {}
        self._bytes = 0
        self._spill = Spill()
        self._failures: dict[int, Ended] = {}
        self._failed_bytes = 0
        self._batches: set[int] = set()
        self.forgot_values = False
        """Whether results were handed out that are not kept."""
        self.forgot_failures = 0
        """How many inputs failed of which nothing is kept."""

    def note(self, start: int, count: int) -> None:
        """These succeeded."""
        with self._lock:
            self._succeeded.add(start, start + count)

    def keep(self, start: int, values: Values) -> None:
        """Keep results; harmless where they are."""
        with self._lock:
            if start in self._pieces or self.forgot_values:
                return
            size = values.size_bytes
            if self._bytes + size <= MEMORY_BYTES:
                self._bytes += size
                self._pieces[start] = values
                return
            fits = self._spill.size_bytes + size <= FILE_BYTES
            piece = self._spill.write(values) if fits else values
            if isinstance(piece, Spilled):
                self._pieces[start] = piece
            else:
                self._drop_values()
                self.forgot_values = True

    def fail(self, end: Ended) -> None:
        """An input failed."""
        with self._lock:
            inputs = 0 if id(end.inputs) in self._batches else sum(map(len, end.inputs))
            cost = 256 + len(end.exception or b"")
            if self._failed_bytes + cost + inputs > FAILED_BYTES // 2 and inputs:
                alone = cut(end.inputs, end.position, end.position + 1)
                end = replace(end, inputs=alone, position=0)
                inputs = sum(map(len, alone))
            if self._failed_bytes + cost + inputs > FAILED_BYTES:
                self.forgot_failures += 1
                return
            self._failed_bytes += cost + inputs
            self._batches.add(id(end.inputs))
            self._failures[end.index] = end

    def drop_failure(self, end: Ended) -> None:
        """An input that failed runs again."""
        with self._lock:
            for index in range(end.index, end.index + end.count):
                self._failures.pop(index, None)

    def forget(self) -> None:
        """Let go of the results."""
        with self._lock:
            self._drop_values()
            self.forgot_values = True

    @property
    def failures(self) -> dict[int, Ended]:
        """How inputs failed, by index."""
        with self._lock:
            return dict(sorted(self._failures.items()))

    @property
    def succeeded(self) -> list[tuple[int, int]]:
        """The ranges `[start, stop)` that succeeded."""
        with self._lock:
            return list(self._succeeded)

    @property
    def pieces(self) -> list[tuple[int, Values | Spilled]]:
        """The results, in order."""
        with self._lock:
            return sorted(self._pieces.items(), key=_start)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of `[start, stop)` that have not succeeded."""
        with self._lock:
            return self._succeeded.missing(start, stop)

    def _drop_values(self) -> None:
        self._pieces = {}
        self._bytes = 0
        self._spill = Spill()  # the file goes with the last that refers to it


class KeptValues:
    """Results that are kept, by index; unpickled when they are asked for."""

    def __init__(self, pieces: list[tuple[int, Values | Spilled]]) -> None:
        """Read `pieces`, which are in order."""
        self._pieces = pieces
        self._starts = [start for start, _ in pieces]
        self._open: tuple[int, Values, payload.BatchReader] | None = None

    def __len__(self) -> int:
        return sum(piece.count for _, piece in self._pieces)

    def indices(self) -> Iterator[int]:
        """Yield the indices of the results, in order."""
        for start, piece in self._pieces:
            yield from range(start, start + piece.count)

    def value(self, index: int) -> object:
        """Return the result of an input.

        Raises:
            KeyError: it is not kept.
            DeserializationError: it cannot be unpickled here.
        """
        at = bisect_right(self._starts, index) - 1
        if at < 0 or index >= self._starts[at] + self._pieces[at][1].count:
            raise KeyError(index)
        if self._open is None or self._open[0] != at:
            values = self._pieces[at][1].read()
            self._open = (at, values, payload.BatchReader(values.frames))
        _, values, reader = self._open
        return reader[values.position + index - self._starts[at]]


def _start(piece: tuple[int, object]) -> int:
    return piece[0]
