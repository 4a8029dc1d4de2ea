"""Loans: a worker that a client calls directly, past the broker, while nobody else needs it.

Theory. A *loan* is the lease of a call that *lends*: its first input came by the broker like any
other, further ones go from the client to the worker over a *line*, and are answered there. The
lease outlives its last input, so that the worker stays BUSY and its CPU is accounted for. An input
of the line exists here only where it must: once the worker has told that it ended (in batches), or
where something is said about it while it runs (`reach`): it takes long, it waits for a nested call,
it is cancelled, it fails, its worker dies. Up to then it is as if it had not come.

Granted: with the first input, where nothing waits at all (`granting.granted_at_once`).
Renewed: by use; the worker gives a line back that nobody has used for a moment.
Revoked (`review`): in the turn in which anybody waits, anywhere, or the version is superseded, the
worker is to go, or the call was cancelled or paused. A revocation is a `TakeBack`; the loan ends
with its acknowledgement (`InputsReturned`), before which the worker is granted nothing: it ends the
input that runs, and reads no further one.
Ended: by that, or by the end of the worker. The client is told from which input on none has run
(`LineEnded`), behind the outcome of the last one that did; what it had sent and is not answered it
sends by the broker's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernel_worker.core import effects
from kernel_worker.core.tracing import note_values
from kernel_worker.core.transitions import Cause

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Pool
    from kernel_worker.core.state import State
    from kernel_worker.model import ParentInput


MOST_AHEAD: Final = 1 << 17
"""A worker that is lent tells how far it has come every 100 ms: nobody is further than that."""


def may_lend(pool: Pool) -> bool:
    """Whether a worker of the pool may be called past the broker.

    Where an attempt may be followed by another one of the same broker's making, it may not.
    """
    spec = pool.spec
    limited = spec.resources.memory_limit_mib
    return pool.may_batch and not spec.retries.max_retries and not limited and not pool.superseded


def advance(state: State, lease: Lease, stop: int, elapsed_seconds: float) -> None:
    """Note that the inputs of a line before `stop` have succeeded.

    Nothing of a line is believed before the first input is answered, which comes by the broker.
    """
    call, start = lease.call, lease.next
    if not 0 < start < stop <= start + MOST_AHEAD:
        return
    if lease.stop < stop:
        _arrive(call, lease.stop, stop)
        lease.stop = stop
    call.states.move(start, stop, Cause.SUCCEEDED)
    lease.next = stop
    note_values(state, lease, start, stop, elapsed_seconds)


def reach(state: State, lease: Lease, index: int, elapsed_seconds: float = 0.0) -> None:
    """Note that the input of a line at `index` runs, and that those before it have succeeded."""
    advance(state, lease, index, elapsed_seconds)
    if lease.stop == index == lease.next:
        _arrive(lease.call, index, index + 1)
        lease.stop = index + 1


def reach_parent(state: State, parent: ParentInput) -> None:
    """Know the attempt inside which something happens, where it came by a line."""
    lease = state.lease_of(parent.worker, parent.lease)
    if lease is not None and lease.id in state.loans and lease.call.id == parent.call:
        reach(state, lease, parent.index)


def review(state: State) -> None:
    """Ask for the workers that are lent and that others need."""
    for lease in state.loans.values():
        worker, call = lease.worker, lease.call
        if lease.asked_back:
            continue
        is_over = worker.draining or call.pool.superseded or call.cancelled or call.paused
        if state.backlogged or is_over:
            lease.asked_back = True
            state.emit(effects.TakeBack(worker.id, worker.host.id, lease.id))


def end(state: State, lease: Lease) -> None:
    """Let a loan be over: its lease ends with the last input that it knows of."""
    del state.loans[lease.id]
    call = lease.call
    call.lends = False
    call.closed = True
    state.emit(effects.EndLine(call.client, call.id, lease.stop))


def _arrive(call: Call, start: int, stop: int) -> None:
    call.states.extend_to(stop)
    call.states.move(start, stop, Cause.ARRIVED)
    call.states.move(start, stop, Cause.GRANTED)
