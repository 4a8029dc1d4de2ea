"""Calls inside calls: a waiting input gives its slot up, and impossible chains fail at once.

A blocked worker keeps its memory and devices, nothing else. What it holds of leases but has not
started is asked back, because the child that it waits for may be among it.
Where a worker runs several inputs at once, one that waits gives its place among them up, and the
worker its CPU once all of them wait. An input that waits on the thread of the event loop *halts*
its worker: nothing else in it runs, so it counts as if all of them waited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.core import effects
from kernel_worker.core.cancelling import end_waiting
from kernel_worker.core.ending import finish_if_over
from kernel_worker.core.lending import reach_parent
from kernel_worker.core.pools import Condition
from kernel_worker.model import NO_CALL, Outcome, ParentInput

if TYPE_CHECKING:
    from kernel_worker.core import events
    from kernel_worker.core.calls import Call
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import LeaseId


def worker_blocked(state: State, event: events.WorkerBlocked) -> None:
    """Free the slot of an attempt that waits; ignored where nothing is left to wait for."""
    reach_parent(state, event.parent)
    lease = state.lease_at(event.parent)
    awaited = [state.calls[call] for call in event.calls if call in state.calls]
    elsewhere = NO_CALL in event.calls
    if lease is None or not (awaited or elsewhere) or lease.worker.condition is Condition.STOPPING:
        return
    state.start_awaiting(lease, awaited, event.parent.index, halts=event.halts, elsewhere=elsewhere)
    if not lease.group and (event.halts or not lease.call.pool.is_concurrent):
        _ask_rest_back(state, lease, event.parent.index)
    for call in awaited:
        chain = impossible_chain(state, call.pool, event.parent)
        if chain:
            end_waiting(state, call, Outcome.INIT_FAILED, chain)
            finish_if_over(state, call)


def worker_resumed(state: State, event: events.WorkerResumed) -> None:
    """Give an attempt that runs on its slot back, whether one is free or not."""
    lease = state.lease_at(event.parent)
    if lease is not None and lease.awaited:
        state.resume(lease)


def _ask_rest_back(state: State, lease: Lease, index: int) -> None:
    """Ask the worker of a blocked input for everything that it has not started."""
    worker = lease.worker
    for held in worker.leases.values():
        first = index + 1 if held is lease else held.next
        if first < held.stop and not held.asked_back:
            held.asked_back = True
            state.emit(effects.TakeBack(worker.id, worker.host.id, held.id))


def end_if_impossible(state: State, call: Call) -> None:
    """Fail what came back of a call where those who wait for it hold what it needs."""
    for lease in list(call.waiters.values()):
        parent = ParentInput(
            lease.call.id, lease.awaiting, lease.attempt, lease.worker.id, lease.id
        )
        chain = impossible_chain(state, call.pool, parent)
        if chain:
            end_waiting(state, call, Outcome.INIT_FAILED, chain)
            finish_if_over(state, call)
            return


def impossible_chain(state: State, pool: Pool, parent: ParentInput | None) -> str:
    """Return why `pool` can get no worker while the attempts above it wait, or an empty string."""
    wanted = pool.spec.resources
    if parent is None or not (wanted.gpu or wanted.memory_mib):
        return ""
    ancestors = _ancestors(state, parent)
    if pool.is_concurrent and any(w.pool is pool and not w.halts for w in ancestors):
        return ""  # where one of its inputs waits, another one may run
    for host in state.hosts_for(pool):
        holders = [worker for worker in ancestors if worker.host is host]
        if host.could_fit(wanted, holders):
            return ""
    chain = " -> ".join([w.pool.spec.name for w in reversed(ancestors)] + [pool.spec.name])
    what = f"{wanted.gpu:g} GPU" if wanted.gpu else f"{wanted.memory_mib} MiB of memory"
    return (
        f"{pool.spec.name} needs {what}, all of which the calls that wait for it hold "
        f"themselves: {chain}. Give one of them less, or none, of it"
    )


def _ancestors(state: State, parent: ParentInput) -> list[Worker]:
    """Return the workers whose inputs are above a nested call, the nearest first."""
    found: list[Worker] = []
    seen: set[LeaseId] = set()
    above: ParentInput | None = parent
    while above is not None:
        lease = state.lease_at(above)
        if lease is None or lease.id in seen:
            break
        seen.add(lease.id)
        if lease.worker not in found:
            found.append(lease.worker)
        above = lease.call.parent
    return found


def depth_of(state: State, parent: ParentInput | None) -> int:
    """Return how many calls a call made inside `parent` is nested in."""
    call: Call | None = None if parent is None else state.calls.get(parent.call)
    return 0 if call is None else call.depth + 1
