"""Who runs what next: leases to idle workers, a second one ahead, and taking back.

Calls for which a blocked worker waits come first, the deepest first; then the pool that has had
the least of the CPUs, and in it the call that has had the least of the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernel_worker import records
from kernel_worker.core import effects
from kernel_worker.core.leases import (
    MAX_INPUTS,
    PREFETCH_SECONDS,
    TAKE_BACK_AFTER_SECONDS,
    TARGET_SECONDS,
    Lease,
    lease_size,
)
from kernel_worker.core.pools import Condition
from kernel_worker.core.sharing import group_of, next_shared
from kernel_worker.core.transitions import Cause

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State

_UNKNOWN_CHARGE_SECONDS: Final = 0.005
"""What an input of unknown duration is charged before its answer corrects that."""


def grant_all(state: State) -> None:
    """Grant every lease that may be granted now."""
    while state.backlogged and (choice := _choose(state)) is not None:
        pool, worker, call = choice
        if pool.is_shared:
            _grant_shared(state, pool, worker, call)
            continue
        alone = call.backlog.count == 1
        _grant(state, call, worker, 1 if alone else lease_size(call, _sharers(state, pool)))
    if len(state.backlogged) == 1:
        _prefetch(state)
    _take_back(state)


def granted_at_once(state: State, call: Call) -> bool:
    """Grant the one input of a call that has just come, where nothing waits and a worker is idle.

    Whose turn it is needs no order then: what is decided is what `grant_all` would.
    """
    pool = call.pool
    if state.backlogged or pool.is_shared or call.parent is not None or not call.attached:
        return False
    if call.paused:
        return False
    worker = _free_worker(pool) if pool.idle else None
    if worker is None or (call.lends and worker.host.is_far):
        return False  # on another machine nobody can be called past the broker
    state.join_turns(call)
    _grant(state, call, worker, 1)
    return True


def _choose(state: State) -> tuple[Pool, Worker, Call] | None:
    best: tuple[Pool, Worker, Call] | None = None
    best_rank = (0, 0.0)
    for pool in state.backlogged.values():
        if pool.is_shared:
            found = next_shared(state, pool)
            if found is None:
                continue
            worker, call = found
            nested = call if call.waiters else None
        else:
            free = _free_worker(pool) if pool.idle else None
            if free is None:
                continue
            nested = state.next_nested(pool) if pool.nested else None
            turn = nested or state.next_in_turn(pool)
            if turn is None:
                continue
            worker, call = free, turn
        rank = (-1 - nested.depth if nested else 0, pool.served_seconds)
        if best is None or rank < best_rank:
            best, best_rank = (pool, worker, call), rank
    return best


def _free_worker(pool: Pool) -> Worker | None:
    """Return the idle worker that ran last, so that the others may age, if it may run now."""
    if len(pool.busy) >= pool.ceiling:
        return None
    cpu = pool.spec.resources.cpu
    for worker in reversed(pool.idle.values()):
        if worker.host.has_cpu(cpu) and not worker.draining:
            return worker
    return None


def _sharers(state: State, pool: Pool) -> int:
    """Return how many workers share the pool's backlog."""
    return max(1, int(min(pool.unblocked, state.slots(pool), pool.ceiling)))


def _grant_shared(state: State, pool: Pool, worker: Worker, call: Call) -> None:
    """Grant one input, or all of a group, to a worker that runs several at once."""
    if pool.is_concurrent:
        _grant(state, call, worker, 1)
        state.touch(pool)
    else:
        plan = group_of(pool, call)
        group = state.new_lease_id()
        for member, count in plan:
            _grant(state, member, worker, count, group, len(plan))
            # What is left of a call came with its last inputs, or before them.
            member.is_queued = bool(member.backlog.count)
            member.queued_at = member.added_at


def _grant(  # noqa: PLR0917  a lease is this
    state: State, call: Call, worker: Worker, limit: int, group: int = 0, group_size: int = 0
) -> None:
    pool = call.pool
    if state.virtual_seconds < pool.served_seconds:
        state.virtual_seconds = pool.served_seconds
    if pool.virtual_seconds < call.served_seconds:
        pool.virtual_seconds = call.served_seconds
    taken = call.backlog.take(limit)
    start, stop = taken.start, taken.stop
    state.add_backlog(call, start - stop)
    call.states.move(start, stop, Cause.GRANTED)
    seconds = call.seconds_per_input
    charge = _UNKNOWN_CHARGE_SECONDS if seconds is None else seconds
    lease = Lease(
        id=state.new_lease_id(),
        worker=worker,
        call=call,
        start=start,
        stop=stop,
        attempt=taken.attempt,
        granted_at=state.now,
        charge=charge,
        next=start,
        group=group,
    )
    share = charge * (stop - start)
    call.served_seconds += share
    pool.served_seconds += share * pool.input_cpu
    state.hold(lease)
    if call.lends:
        state.loans[lease.id] = lease
    state.note_waiting(call)
    state.settle(worker)
    if not pool.spec.rerun_on_crash:
        state.record(call, records.InputsLeased(call.id, start, stop, taken.attempt))
    state.emit(
        effects.GrantLease(
            worker.id, lease.id, call.id, start, stop, taken.attempt, group, group_size, call.lends
        )
    )


# -- a second lease, so that a worker need not wait for the next one


def _prefetch(state: State) -> None:
    """Give busy workers a second lease, where it is short and nobody else waits for the CPU."""
    pool = next(iter(state.backlogged.values()))
    if not pool.may_batch or pool.nested or pool.count(Condition.STARTING):
        return
    for worker in list(pool.busy.values()):
        call = state.next_in_turn(pool)
        if call is None or not _is_short(call) or pool.backlog < len(pool.busy):
            return  # and no other worker is looked at: there may be thousands
        if len(worker.leases) != 1 or worker.draining or worker.resumed:
            continue
        held = next(iter(worker.leases.values())).call
        if not (held.streams or held.keeps_failed or held.lends):  # it may wait, or be parked
            _grant_ahead(state, pool, worker, call)


def _is_short(call: Call) -> bool:
    seconds = call.seconds_per_input
    return seconds is not None and seconds < PREFETCH_SECONDS


def _grant_ahead(state: State, pool: Pool, worker: Worker, call: Call) -> None:
    seconds = call.seconds_per_input
    held = next(iter(worker.leases.values()))
    if seconds is None or _seconds_left(held) >= PREFETCH_SECONDS:
        return
    size = lease_size(call, _sharers(state, pool))
    if size * seconds < PREFETCH_SECONDS:
        _grant(state, call, worker, min(size, MAX_INPUTS))


def _seconds_left(lease: Lease) -> float:
    """Return how long what is outstanding of a lease should take."""
    seconds = lease.call.seconds_per_input
    return PREFETCH_SECONDS if seconds is None else lease.outstanding * seconds


# -- taking back what a worker has not started, for one that has nothing


def _take_back(state: State) -> None:
    for pool in state.called.values():
        if pool.backlog or not pool.idle or not pool.divisible or not pool.may_batch:
            continue
        held = [
            lease
            for lease in pool.divisible.values()
            if lease.worker.id in pool.busy and unstarted(lease) > 0
        ]
        if held:
            _take_back_for(state, pool, held)


def _take_back_for(state: State, pool: Pool, held: list[Lease]) -> None:
    idle = sum(
        worker.host.has_cpu(pool.spec.resources.cpu) and not worker.draining
        for worker in pool.idle.values()
    )
    asked = sum(lease.asked_back and not lease.returned for lease in held)
    candidates = [lease for lease in held if not lease.asked_back]
    candidates.sort(key=_seconds_left, reverse=True)
    for lease in candidates[: max(0, idle - asked)]:
        due = lease.granted_at + TAKE_BACK_AFTER_SECONDS
        if state.now >= due or _seconds_left(lease) > 2 * TARGET_SECONDS:
            lease.asked_back = True
            state.emit(effects.TakeBack(lease.worker.id, lease.worker.host.id, lease.id))
        else:
            state.timers.set_if_earlier(("take back", pool.id), due)


def unstarted(lease: Lease) -> int:
    """Return how many inputs of a lease should not have started."""
    first = next(iter(lease.worker.leases.values())) is lease
    return lease.outstanding - first
