"""What happened to inputs, for the call graph: kept where nobody else keeps it, and for as long.

Theory. A *tree* is a call and all that was made inside its inputs; its *root* is the topmost call
that was known when the call came. Facts about spawned calls are in the journal, with who ran what
and when; here is what the journal has not: the trace of attached calls (`kernel_worker.traces`,
20 bytes a lease). When an attached call ends, its trace goes

* into the journal, where a spawned call is above it (its *keeper*): the graph of that is whole
  after a restart, and nothing is written for a tree in which nobody spawned;
* else to its root, as bytes, until that has ended too: the last `RECENT_CALLS` roots stay.

Guarantees: the trace of an open attached call tells of exactly its inputs that have an outcome.
Not guaranteed: that trees of attached calls are whole beyond `TREE_BYTES`, or remembered for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from kernel_worker import records, traces
from kernel_worker.core import effects
from kernel_worker.model import CallId, FunctionSpec, Outcome, ParentInput
from kernel_worker.traces import CallTrace

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import WorkerId

RECENT_CALLS: Final = 256
"""So many attached calls that have ended, and were nested in none, are remembered …"""
RECENT_BYTES: Final = 16_000_000
"""… as long as their traces are no larger together (the last one always is)."""
TOLD_AGAIN_BYTES: Final = 64_000
TREE_BYTES: Final = 16_000_000
"""So much is kept of the nested calls of one tree that have ended."""

_NONE = CallId("")
_encode = msgspec.msgpack.Encoder().encode


class Remembered(msgspec.Struct, eq=False):
    """An attached call that has ended, and the root of a tree; nothing else of it stays."""

    id: CallId
    root: CallId
    parent: ParentInput | None
    spec: FunctionSpec
    submitted_at: float
    total: int
    trace: bytearray
    history: list[bytes]
    """The encoded `CallTrace`s of attached calls in its tree that have ended."""
    history_bytes: int


class Ran(NamedTuple):
    """Who ran an input, and since when (seconds, as `now`)."""

    worker: Worker
    began_at: float


class Part(NamedTuple):
    """A call, and some rows of its trace."""

    trace: CallTrace
    after: int
    """How many bytes of rows are not wanted with the next part."""
    more: bool
    """Whether there are further rows already."""


def place_in_tree(state: State, call: Call) -> None:
    """Find the root and the keeper of a call that has just come."""
    above = None if call.parent is None else state.calls.get(call.parent.call)
    call.root = call.id if above is None else above.root
    if not call.attached:
        call.keeper = call.id
    elif above is not None:
        call.keeper = above.keeper


def note_values(state: State, lease: Lease, start: int, stop: int, elapsed_seconds: float) -> None:
    """Note that inputs of an attached call succeeded."""
    call = lease.call
    times = (state.now - call.submitted_at, elapsed_seconds)
    goes_on = lease.traced_to == start
    if not goes_on or not traces.extend(call.trace, lease.traced_at, stop, times):
        number = lease.worker.number
        lease.traced_at = traces.add(
            call.trace, start, stop, number, times, lease.attempt, Outcome.SUCCEEDED
        )
        if len(call.trace) > traces.MOST_BYTES:
            _condense(call)
            return
    lease.traced_to = stop


def note_end(  # noqa: PLR0917  as `report_end`
    state: State,
    call: Call,
    indices: tuple[int, int],
    outcome: Outcome,
    attempt: int,
    ran: Ran | None,
) -> None:
    """Note that inputs of an attached call ended without a value."""
    elapsed = 0.0 if ran is None else state.now - ran.began_at
    number = 0 if ran is None else ran.worker.number
    times = (state.now - call.submitted_at, elapsed)
    traces.add(call.trace, *indices, number, times, attempt, outcome)
    if len(call.trace) > traces.MOST_BYTES:
        _condense(call)


def note_finished(state: State, call: Call) -> None:
    """Put the trace of a call that is over where its tree is remembered."""
    if not call.attached:
        return
    if call.keeper:
        state.emit(effects.Record(records.AttachedCallEnded(call.keeper, _trace_of(state, call))))
        return
    root = state.calls.get(call.root) or state.recent.get(call.root)
    if root is None or root is call:
        _remember(state, call)
    elif root.history_bytes < TREE_BYTES:
        ended = _encode(_trace_of(state, call))
        root.history.append(ended)
        root.history_bytes += len(ended)
        if root.id in state.recent:
            state.recent_bytes += len(ended)


def root_of(state: State, call: CallId) -> CallId | None:
    """Return the root of the tree that a call belongs to, or None where it is not known here."""
    known = state.calls.get(call) or state.recent.get(call)
    return None if known is None else known.root


def part_of(state: State, call: CallId, after: int, limit: int) -> Part | None:
    """Return what is known here of one call, and the rows of its trace from `after` bytes on.

    What is beyond the end begins again: the trace was condensed. Rows that a worker may still
    extend are told again with the next part, unless they lie far behind.
    """
    known: Call | Remembered | None = state.calls.get(call) or state.recent.get(call)
    if known is None:
        return None
    leases = () if isinstance(known, Remembered) else known.leases.values()
    start = after if after <= len(known.trace) else 0
    end = min(start + limit, len(known.trace))
    more = end < len(known.trace)
    growing = [lease.traced_at for lease in leases if lease.traced_to >= 0]
    again = min((at for at in growing if max(start, end - TOLD_AGAIN_BYTES) <= at), default=end)
    trace = _trace_of(state, known, bytes(known.trace[start:end]))
    return Part(trace, end if more else min(again, end), more)


def tree_of(state: State, root: CallId) -> list[bytes]:
    """Return what is known here of a tree: `CallTrace`s, encoded."""
    calls: list[Call | Remembered] = [call for call in state.calls.values() if call.root == root]
    if root in state.recent:
        calls.append(state.recent[root])
    found = [_encode(_trace_of(state, call)) for call in calls]
    for call in calls:
        found += call.history
    return found


def _trace_of(state: State, call: Call | Remembered, rows: bytes | None = None) -> CallTrace:
    running: tuple[tuple[WorkerId, int, int, int, float], ...] = ()
    attempts: tuple[tuple[int, int], ...] = ()
    if isinstance(call, Remembered):
        spec, total = call.spec, call.total
    else:
        spec, total = call.pool.spec, call.states.end
        running = tuple(
            (lease.worker.id, lease.next, lease.stop, lease.attempt, lease.granted_at)
            for lease in call.leases.values()
        )
        attempts = tuple(sorted((index, life.attempt) for index, life in call.lives.items()))
    parent = call.parent
    return CallTrace(
        call=call.id,
        parent=_NONE if parent is None else parent.call,
        parent_index=0 if parent is None else parent.index,
        name=spec.name,
        module=spec.module,
        submitted_at=call.submitted_at,
        total=total,
        workers=f"ta-{state.prefix}",
        rows=bytes(call.trace) if rows is None else rows,
        running=running,
        attempts=attempts,
    )


def _remember(state: State, call: Call) -> None:
    recent = state.recent
    recent[call.id] = Remembered(
        call.id,
        call.root,
        call.parent,
        call.pool.spec,
        call.submitted_at,
        call.states.end,
        call.trace,
        call.history,
        call.history_bytes,
    )
    state.recent_bytes += len(call.trace) + call.history_bytes
    while len(recent) > RECENT_CALLS or (state.recent_bytes > RECENT_BYTES and len(recent) > 1):
        oldest = recent.pop(next(iter(recent)))
        state.recent_bytes -= len(oldest.trace) + oldest.history_bytes


def _condense(call: Call) -> None:
    call.trace = traces.condensed(call.trace)
    for lease in call.leases.values():
        lease.traced_to = -1
