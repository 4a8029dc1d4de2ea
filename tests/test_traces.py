"""Rows of 20 bytes: what is written is what is read."""

from __future__ import annotations

from kernel_worker import traces
from kernel_worker.model import Outcome
from kernel_worker.traces import Row


def test_rows_are_read_as_they_were_added() -> None:
    trace = bytearray()
    at = traces.add(trace, 0, 3, 7, (1.5, 0.5), 1, Outcome.SUCCEEDED)
    traces.add(trace, 3, 4, 0, (2.0, 0.0), 2, Outcome.CANCELLED)
    traces.extend(trace, at, 5, (2.5, 0.25))
    assert len(trace) == 2 * traces.ROW_BYTES == 40
    assert list(traces.rows_of(trace)) == [
        Row(0, 5, 7, 25_000, 0.75, 1, Outcome.SUCCEEDED),
        Row(3, 1, 0, 20_000, 0.0, 2, Outcome.CANCELLED),
    ]


def test_what_does_not_fit_a_row_is_several_or_the_most_that_fits() -> None:
    trace = bytearray()
    traces.add(trace, 0, 200_000, 0, (1e9, 0.0), 1000, Outcome.CANCELLED)
    rows = list(traces.rows_of(trace))
    assert sum(row.size for row in rows) == 200_000
    assert [row.start for row in rows] == [0, 65_535, 131_070, 196_605]
    assert {(row.ended_ticks, row.attempt) for row in rows} == {(2**32 - 1, 255)}
    traces.extend(trace, 0, 10, (1e9, 0.0))
    assert next(traces.rows_of(trace)).ended_ticks == 2**32 - 1


def test_a_condensed_trace_has_the_same_outcomes_in_fewer_rows() -> None:
    trace = bytearray()
    for start in range(1_000, 0, -1):
        outcome = Outcome.FAILED if start == 500 else Outcome.SUCCEEDED
        traces.add(trace, start, start + 1, start % 2, (start, 1.0), 1, outcome)
    rows = list(traces.rows_of(traces.condensed(trace)))
    assert [(row.start, row.size, row.outcome) for row in rows] == [
        (1, 499, Outcome.SUCCEEDED),
        (500, 1, Outcome.FAILED),
        (501, 500, Outcome.SUCCEEDED),
    ]
    assert rows[0].ended_ticks == 499 * traces.TICKS_PER_SECOND
    assert traces.condensed(bytearray()) == b""
