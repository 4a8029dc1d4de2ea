"""One line of a log as JSON: what the broker and its host agent write where `log_format` is json.

The names are those that collectors of logs look for: `time` (ISO 8601, UTC), `level`, `message`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line; what is empty is left out."""

    time: str
    level: str
    process: str
    """`broker` or `host`."""
    pid: int
    message: str
    room: str = ""
    """The module that says it."""
    exception: str = ""
    """A traceback, of several lines."""


def encoded(at: float, line: LogLine) -> str:
    """Return `line`, said `at` (Unix seconds), without an end of line."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    timed = msgspec.structs.replace(line, time=moment.replace("+00:00", "Z"))
    return msgspec.json.encode(timed).decode()
