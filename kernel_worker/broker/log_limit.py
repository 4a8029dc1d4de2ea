"""A bound on what the broker's log grows by, whatever its peers do.

Theory: a token bucket (RFC 2697 calls it a committed rate with a burst): a line costs a token, a
second brings some. What found none is counted, and the next line that finds one says how many.
Each level has a bucket of its own: warnings of what peers say never hide an error of the broker's,
nor why it ended.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

BURST_LINES: Final = 200
LINES_PER_SECOND: Final = 5.0


class LogLimit(logging.Filter):
    """Lets through a burst of lines of each level, and then so many a second."""

    def __init__(
        self, burst_lines: int = BURST_LINES, lines_per_second: float = LINES_PER_SECOND
    ) -> None:
        """Begin with full buckets; time is that of the records (Unix seconds)."""
        super().__init__()
        self._burst, self._rate = burst_lines, lines_per_second
        self._buckets: dict[int, _Bucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written; it then says how many before it were not."""
        bucket = self._buckets.get(record.levelno)
        if bucket is None:
            bucket = self._buckets[record.levelno] = _Bucket(float(self._burst), record.created)
        passed = max(0.0, record.created - bucket.filled_at)
        bucket.filled_at = record.created
        bucket.tokens = min(float(self._burst), bucket.tokens + passed * self._rate)
        if bucket.tokens < 1:
            bucket.left_out += 1
            return False
        bucket.tokens -= 1
        if bucket.left_out:
            record.msg = f"({bucket.left_out} lines left out) {record.msg}"
            bucket.left_out = 0
        return True


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    left_out: int = 0
