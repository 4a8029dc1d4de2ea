"""What the host agent says in the log that it shares with its broker."""

from __future__ import annotations

import os
import sys
import time

_is_json = False


def begin(log_format: str) -> None:
    """Write lines of JSON from now on, or (`text`) plain ones."""
    global _is_json  # noqa: PLW0603  one a process, said once at its beginning
    _is_json = log_format == "json"


def say(text: str) -> None:
    """Write a line."""
    if not _is_json:
        sys.stderr.write(f"host agent: {text}\n")
        return
    from kernel_worker.log_lines import LogLine, encoded  # noqa: PLC0415  where it is asked for

    line = LogLine(time="", level="WARNING", process="host", pid=os.getpid(), message=text)
    sys.stderr.write(encoded(time.time(), line) + "\n")
