"""Lines of a log as JSON."""

from __future__ import annotations

import json

from kernel_worker.log_lines import LogLine, encoded


def test_what_is_empty_is_left_out_and_the_rest_is_one_line() -> None:
    line = encoded(0.1234, LogLine("", "INFO", "broker", 7, 'a "word"\nand another'))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.123Z",
        "level": "INFO",
        "process": "broker",
        "pid": 7,
        "message": 'a "word"\nand another',
    }
    more = json.loads(encoded(1.0, LogLine("", "ERROR", "host", 7, "m", "a.b", "Traceback\n …")))
    assert (more["room"], more["exception"]) == ("a.b", "Traceback\n …")
