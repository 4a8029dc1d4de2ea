"""Workers that outlive their broker are the next one's, with what they run.

Only spawned calls are known then, from the journal: of those, inputs that have no outcome belong to
the worker that runs them, or that ran them last and will repeat its answers. Their lease keeps its
number, so that answers find it; the attempt has to be the one that the journal knows. Whoever runs
anything else is killed: its call was attached (the client numbers what it sends again anew), is
over, or was cancelled.

What a worker had answered and no broker has kept it repeats, or gives back: it does that once it
has found the new broker, before anything else. Until then its lease is as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.core.hosts import Host
from kernel_worker.core.leases import Lease
from kernel_worker.core.pools import Condition
from kernel_worker.core.transitions import Cause, InputState

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.events import HostRejoined
    from kernel_worker.core.pools import Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import Held, Survivor


def adopt(state: State, event: HostRejoined) -> None:
    """Know a host and its workers, while all inputs without an outcome are PENDING."""
    host = state.hosts[event.host] = Host(event.host, event.resources, is_far=event.is_far)
    state.hosts_changed()
    # Who runs something first: another one may have had the same inputs before.
    for survivor in sorted(event.survivors, key=lambda one: not (one.held and one.held.runs)):
        _adopt(state, host, survivor)


def _adopt(state: State, host: Host, survivor: Survivor) -> None:
    spec, held = survivor.spec, survivor.held
    pool = state.pools.get(spec.pool) or state.define(spec)
    worker = state.add_worker(pool, host, survivor.devices, survivor.worker)
    worker.pid, worker.start = survivor.pid, survivor.start
    state.expect_ready(worker)
    if held is None:
        return
    call = state.calls.get(held.call)
    part = None if call is None or call.pool is not pool else _open_part(call, held)
    if call is not None and part is not None:
        _go_on(state, worker, call, held, part)
    elif held.runs or spec.single_use:
        state.kill_worker(worker)


def _open_part(call: Call, held: Held) -> tuple[int, int] | None:
    """Return what a worker may go on with of a lease: neighbours that have no outcome.

    They are those around the input that it has taken up last, or what comes next. Others, before
    that, were answered to a broker that did not keep it, and wait for whoever is free.
    """
    if call.cancelled or call.streams or call.pool.is_shared:
        return None
    states = call.states
    runs = states.runs(max(held.start, states.begin), min(held.stop, states.end))
    pending = [(low, high) for low, high, found in runs if found is InputState.PENDING]
    for low, high in pending[:-1]:
        if high >= held.index:
            return _of_attempt(call, low, high, held.attempt)
    return _of_attempt(call, *pending[-1], held.attempt) if pending else None


def _of_attempt(call: Call, low: int, high: int, attempt: int) -> tuple[int, int] | None:
    """Return the first of these inputs that are at this attempt."""
    stop = low
    while stop < high and call.attempt_of(stop) == attempt:
        stop += 1
    return (low, stop) if low < stop else None


def _go_on(state: State, worker: Worker, call: Call, held: Held, part: tuple[int, int]) -> None:
    start, stop = part
    call.states.move(start, stop, Cause.GRANTED)
    lease = Lease(
        id=held.lease,
        worker=worker,
        call=call,
        start=held.start,
        stop=stop,
        attempt=held.attempt,
        granted_at=state.now,
        charge=0.0,
        next=start,
    )
    state.hold(lease)
    state.enter(worker, Condition.IDLE)
    state.settle(worker)
    worker.resumed = True  # what the hosts have was asked when it was granted
