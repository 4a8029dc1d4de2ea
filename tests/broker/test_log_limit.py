"""What the broker's log grows by is bounded."""

from __future__ import annotations

import logging

from kernel_worker.broker.log_limit import LogLimit


def _line(at: float, level: int = logging.WARNING) -> logging.LogRecord:
    record = logging.LogRecord("broker", level, "", 0, "%s is dropped", ("it",), None)
    record.created = at
    return record


def test_a_burst_is_written_and_then_so_many_a_second() -> None:
    limit = LogLimit(burst_lines=3, lines_per_second=2)
    assert [limit.filter(_line(100.0)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [limit.filter(_line(101.0)) for _ in range(3)] == [True, True, False]
    assert [limit.filter(_line(1000.0)) for _ in range(4)] == [True] * 3 + [False]


def test_what_was_left_out_is_counted() -> None:
    limit = LogLimit(burst_lines=1, lines_per_second=1)
    first, *lost, last = (_line(at) for at in (10.0, 10.0, 10.1, 12.0))
    assert limit.filter(first)
    assert not any(map(limit.filter, lost))
    assert limit.filter(last)
    assert last.getMessage() == "(2 lines left out) it is dropped"
    after = _line(14.0)
    assert limit.filter(after)
    assert after.getMessage() == "it is dropped"


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    limit = LogLimit(burst_lines=1, lines_per_second=1)
    assert limit.filter(_line(1000.0))
    assert not limit.filter(_line(1.0))
    assert limit.filter(_line(2.5))


def test_warnings_never_hide_an_error() -> None:
    limit = LogLimit(burst_lines=1, lines_per_second=1)
    assert [limit.filter(_line(1.0)) for _ in range(3)] == [True, False, False]
    error = _line(1.0, logging.ERROR)
    assert limit.filter(error)
    assert error.getMessage() == "it is dropped"
    assert not limit.filter(_line(1.0, logging.ERROR))
