"""The broker's log as JSON, a line each."""

from __future__ import annotations

import logging

from kernel_worker.log_lines import LogLine, encoded


class JsonLines(logging.Formatter):
    """Makes of a record a line of JSON; what an exception says is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        trace = "" if record.exc_info is None else self.formatException(record.exc_info)
        line = LogLine(
            time="",
            level=record.levelname,
            process="broker",
            pid=record.process or 0,
            message=record.getMessage(),
            room=record.name,
            exception=trace,
        )
        return encoded(record.created, line)
