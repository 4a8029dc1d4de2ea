"""How fast a map goes and when it will be done, from how much was finished when.

The rate is that of the last few seconds, so that a pool that has just grown shows, and not that of
a single moment, so that batches do not make it jump. Time is an argument everywhere.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 6.0
MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400


class Pace:
    """The rate of one map."""

    def __init__(self, started_at: float) -> None:
        """Start at `started_at` seconds with nothing finished."""
        self._samples: deque[tuple[float, int]] = deque([(started_at, 0)])

    def observe(self, now: float, finished: int) -> None:
        """Note that `finished` inputs were finished at `now` seconds."""
        samples = self._samples
        samples.append((now, finished))
        while len(samples) > 2 and samples[1][0] < now - WINDOW_SECONDS:  # noqa: PLR2004
            samples.popleft()

    @property
    def rate(self) -> float:
        """Return the inputs finished per second over the last few seconds."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        # What runs again was finished before: the number may fall.
        return max(after - before, 0) / (last - first) if last > first else 0.0

    def eta_seconds(self, remaining: int | None) -> float | None:
        """Return how many seconds `remaining` inputs will take, or None if nobody can know."""
        rate = self.rate
        return remaining / rate if remaining is not None and rate > 0 else None


def format_seconds(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `42 s`, `3 m 05 s`, `2 h 07 m`, `3 d 4 h`."""
    if seconds < 9.95:  # noqa: PLR2004  what would round to two digits
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} m {whole % MINUTE:02} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} m"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def format_rate(rate: float) -> str:
    """Return a rate for people: `0.25/s`, `12/s`, `5.2 k/s`, `1.1 M/s`."""
    for limit, scale, unit in ((1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if rate >= limit:
            return f"{rate / scale:.1f}{unit}/s"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"  # noqa: PLR2004
