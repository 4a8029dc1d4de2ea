"""What the client keeps of one call until it has ended: its inputs, and which of them ended.

A batch of inputs is let go as soon as the last of them has an outcome.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from notebook_ext.numbering import Spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame
    from notebook_ext.numbering import Renumbering
    from notebook_ext.submission import Submission

_SPENT_BATCHES = 32
"""So many are taken off the front at once."""


class Batch:
    """Inputs that were given to the broker together."""

    __slots__ = ("count", "frames", "left", "start")

    def __init__(self, start: int, count: int, frames: Sequence[Frame]) -> None:
        self.start = start
        self.count = count
        self.left = count
        self.frames = frames


class OpenCall:
    """One call that has not ended."""

    __slots__ = (
        "_starts",
        "added",
        "batches",
        "cancelled",
        "ended",
        "items",
        "left",
        "paused",
        "said",
        "terminate",
        "told",
        "total",
        "wire",
    )

    def __init__(self, said: Submission) -> None:
        self.said = said
        self.batches: list[Batch] = []
        self._starts: list[int] = []
        self.added = 0
        self.items = 0
        """How many items of its generator were told."""
        self.left = 0
        """Inputs that were added and have no outcome."""
        self.total: int | None = None
        self.ended = Spans()
        self.wire: Renumbering | None = None
        """None while the broker numbers as we do."""
        self.paused = False
        self.cancelled = False
        self.terminate = False
        self.told = 0
        """So many inputs a broker had heard of that is gone."""

    def append(self, count: int, frames: Sequence[Frame]) -> Batch:
        """Add inputs; they are kept until they have outcomes."""
        batch = Batch(self.added, count, frames)
        self.batches.append(batch)
        self._starts.append(batch.start)
        self.added += count
        self.left += count
        return batch

    def batch_at(self, index: int) -> Batch | None:
        """Return the batch that holds the input at `index`, if it is still kept."""
        at = bisect_right(self._starts, index) - 1
        if at < 0:
            return None
        batch = self.batches[at]
        return batch if batch.frames and index < batch.start + batch.count else None

    def end(self, start: int, count: int) -> list[tuple[int, int]]:
        """Note that these inputs have outcomes; return the ranges for which that is news."""
        new = self.ended.add(start, start + count)
        for low, high in new:
            self.left -= high - low
            self._release(low, high)
        return new

    @property
    def finished(self) -> bool:
        """Whether every input has an outcome and no more come."""
        return self.total is not None and self.left <= 0 and self.added >= self.total

    def _release(self, low: int, high: int) -> None:
        """Let go of the batches whose inputs have all ended."""
        at = max(0, bisect_right(self._starts, low) - 1)
        while at < len(self.batches) and self.batches[at].start < high:
            batch = self.batches[at]
            batch.left -= max(0, min(high, batch.start + batch.count) - max(low, batch.start))
            if batch.left <= 0:
                batch.frames = ()
            at += 1
        spent = 0
        while spent < len(self.batches) and not self.batches[spent].left > 0:
            spent += 1
        if spent > _SPENT_BATCHES or spent == len(self.batches):
            del self.batches[:spent]
            del self._starts[:spent]
