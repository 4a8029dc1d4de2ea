"""What the inputs of a call went through, in 20 bytes a lease: who ran them, when, how they ended.

A trace is a bytearray of rows. A row is a run of neighbours that one worker ran under one lease and
that ended the same way; where each of them began and ended is read off evenly between the two ends
of the run. So an input that takes long has a row of its own, and 5,000 quick ones share one. Above
`MOST_BYTES` a trace is condensed: how inputs ended stays exact, who ran them and when does not.

A leaf: the core writes traces, the journal keeps them, the client reads them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from kernel_worker.model import CallId, Outcome, WorkerId

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES: Final = 20_000_000
"""A million rows."""
TICKS_PER_SECOND: Final = 10_000
_ROW = struct.Struct("<IHIIfBB")
ROW_BYTES: Final = _ROW.size
_MOST_COUNT = 0xFFFF
_MOST_TICKS = 0xFFFFFFFF
_MOST_ATTEMPT = 0xFF


class Row(NamedTuple):
    """Inputs `[start, start + size)`."""

    start: int
    size: int
    worker: int
    """The number in the worker's id; 0: none ran them."""
    ended_ticks: int
    """After the call was submitted, in ticks of a ten-thousandth of a second."""
    elapsed_seconds: float
    attempt: int
    outcome: int


class CallTrace(msgspec.Struct, frozen=True, array_like=True):
    """One call in a tree of calls: where it belongs, and what its inputs went through."""

    call: CallId
    parent: CallId
    """The call in an input of which it was made; empty for none."""
    parent_index: int
    name: str
    module: str
    submitted_at: float
    """Unix seconds."""
    total: int
    """How many inputs it has (so far, where it is open)."""
    workers: str
    """Worker n is `<workers>-n`."""
    rows: bytes = b""
    running: tuple[tuple[WorkerId, int, int, int, float], ...] = ()
    """(worker, first, stop, attempt, since) of the inputs that workers hold, while it is open."""
    attempts: tuple[tuple[int, int], ...] = ()
    """(index, attempt) of inputs that wait for another attempt than their first."""


def add(  # noqa: PLR0917  a row in the making, once a lease
    trace: bytearray,
    start: int,
    stop: int,
    worker: int,
    times: tuple[float, float],
    attempt: int,
    outcome: Outcome,
) -> int:
    """Append what became of `[start, stop)`; return where the last row lies.

    Args:
        trace: what to add to.
        start: the first input.
        stop: the input after the last.
        worker: the number of the worker that ran them; 0 for none.
        times: when they ended, in seconds after the call was submitted, and how long they took.
        attempt: from 1.
        outcome: how they ended.
    """
    ended, elapsed = times
    ticks = min(int(ended * TICKS_PER_SECOND), _MOST_TICKS)
    attempt = min(attempt, _MOST_ATTEMPT)
    while stop - start > _MOST_COUNT:
        trace += _ROW.pack(start, _MOST_COUNT, worker, ticks, elapsed, attempt, outcome)
        start += _MOST_COUNT
    trace += _ROW.pack(start, stop - start, worker, ticks, elapsed, attempt, outcome)
    return len(trace) - ROW_BYTES


def extend(trace: bytearray, at: int, stop: int, times: tuple[float, float]) -> bool:
    """Let the row at `at` go on to `stop`: its worker has ended more inputs of the same lease.

    Returns:
        False where a row holds no more; then nothing changes.
    """
    start, _, worker, _, elapsed, attempt, outcome = _ROW.unpack_from(trace, at)
    if stop - start > _MOST_COUNT:
        return False
    ended, more = times
    ticks = min(int(ended * TICKS_PER_SECOND), _MOST_TICKS)
    _ROW.pack_into(trace, at, start, stop - start, worker, ticks, elapsed + more, attempt, outcome)
    return True


def rows_of(trace: bytes | bytearray) -> Iterator[Row]:
    """Yield the rows, in the order in which they were added."""
    return map(Row._make, _ROW.iter_unpack(trace))


def condensed(trace: bytearray) -> bytearray:
    """Return a trace of fewer rows: neighbours that ended the same way are one."""
    smaller = bytearray()
    last: Row | None = None
    for row in sorted(rows_of(trace)):
        if last is not None and _are_one(last, row):
            ended = max(last.ended_ticks, row.ended_ticks)
            elapsed = last.elapsed_seconds + row.elapsed_seconds
            joined = last.size + row.size
            last = last._replace(size=joined, ended_ticks=ended, elapsed_seconds=elapsed)
            continue
        if last is not None:
            smaller += _ROW.pack(*last)
        last = row
    if last is not None:
        smaller += _ROW.pack(*last)
    return smaller


def _are_one(left: Row, right: Row) -> bool:
    return (
        left.start + left.size == right.start
        and left.outcome == right.outcome
        and left.attempt == right.attempt
        and left.size + right.size <= _MOST_COUNT
    )
