"""What the agent will do later: callbacks by time."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """Callbacks, the earliest first. A callback looks itself whether it is still wanted."""

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` once it is `when` (seconds, as of `run`'s `now`)."""
        heapq.heappush(self._heap, (when, next(self._count), callback))

    def next_at(self) -> float | None:
        """Return when the next one is due."""
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call all that are due."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
