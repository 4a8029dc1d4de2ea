"""A bound on what the broker's log grows by, whatever its peers do.

Theory: a token bucket (RFC 2697 calls it a committed rate with a burst): a line costs a token, a
second brings some. What found none is counted, and the next line that finds one says how many.
"""

from __future__ import annotations

import logging
from typing import Final

BURST_LINES: Final = 200
LINES_PER_SECOND: Final = 5.0


class LogLimit(logging.Filter):
    """Lets through a burst of lines, and then so many a second."""

    def __init__(
        self, burst_lines: int = BURST_LINES, lines_per_second: float = LINES_PER_SECOND
    ) -> None:
        """Begin with a full bucket; time is that of the records (Unix seconds)."""
        super().__init__()
        self._burst, self._rate = burst_lines, lines_per_second
        self._tokens = float(burst_lines)
        self._filled_at = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written; it then says how many before it were not."""
        passed = max(0.0, record.created - self._filled_at)
        self._filled_at = record.created
        self._tokens = min(float(self._burst), self._tokens + passed * self._rate)
        if self._tokens < 1:
            self._left_out += 1
            return False
        self._tokens -= 1
        if self._left_out:
            record.msg = f"({self._left_out} lines left out) {record.msg}"
            self._left_out = 0
        return True
