"""Workers come up, fail to, and die.

A death counts against the one input that had started (those that had, where a worker runs several
at once), and against nothing else that the worker held. One for its memory is that input's failure:
it would need as much again. A worker that dies before it is ready counts against its pool:
back-off, then a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.core import lending, outcomes
from kernel_worker.core.cancelling import end_pool_waiting
from kernel_worker.core.ending import finish_if_over
from kernel_worker.core.pools import MAX_START_FAILURES, Condition
from kernel_worker.core.tracing import Ran
from kernel_worker.model import Outcome
from kernel_worker.packages import NOWHERE

if TYPE_CHECKING:
    from kernel_worker.core import events
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import HostId, LeaseId


def worker_started(state: State, event: events.WorkerStarted) -> None:
    """Note the process."""
    worker = state.workers.get(event.worker)
    if worker is not None:
        worker.pid = event.pid
        worker.start = event.start
        if worker.delayed and worker.condition is Condition.STARTING:
            state.expect_ready(worker)


def worker_delayed(state: State, event: events.WorkerDelayed) -> None:
    """Let no time limit run until the process exists."""
    worker = state.workers.get(event.worker)
    if worker is not None and worker.condition is Condition.STARTING:
        worker.delayed = True
        state.timers.clear(("startup", worker.id))


def worker_ready(state: State, event: events.WorkerReady) -> None:
    """Let a worker take leases."""
    worker = state.workers.get(event.worker)
    if worker is None or worker.condition is not Condition.STARTING:
        return
    state.timers.clear(("startup", worker.id))
    worker.pool.start_failures = 0
    worker.pool.broken = False
    state.enter(worker, Condition.IDLE)


def worker_start_failed(state: State, event: events.WorkerStartFailed) -> None:
    """End what waits for a function that cannot be loaded: it would fail again.

    Where its host lacks what another one may have, it is tried there first.
    """
    worker = state.workers.get(event.worker)
    if worker is None or worker.leases:
        return
    pool, message = worker.pool, event.message
    state.remove_worker(worker)
    if event.lack:
        pool.refusals[worker.host.id] = event.lack
        if state.has_host_for(pool):
            return
        message = NOWHERE + "; ".join(sorted(pool.refusals.values()))
    pool.refusals.clear()
    pool.note_start_failure(state.now)
    pool.broken = True
    end_pool_waiting(state, pool, message, has_payload=True)


def devices_held(state: State, event: events.DevicesHeld) -> None:
    """Note which devices cannot be had for now; the worker that is not started is no failure."""
    host = state.hosts.get(event.host)
    if host is None:
        return
    host.held = frozenset(event.devices)
    worker = state.workers.get(event.worker)
    if worker is not None and worker.host is host and not worker.leases:
        state.remove_worker(worker)


def worker_exited(state: State, event: events.WorkerExited) -> None:
    """Deal with everything that a worker held, now that it is reaped."""
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    was_starting = worker.condition is Condition.STARTING
    gone = _Death(
        event.cause, event.lease, event.position, timed_out=event.timed_out, also=event.started
    )
    gone.over_memory_mib = event.over_memory_mib
    _bury(state, worker, gone)
    if was_starting:
        _note_start_failure(state, worker, event.cause)


def start_took_too_long(state: State, worker: Worker) -> None:
    """Kill a worker that has not become ready in time: a failed start."""
    seconds = worker.pool.spec.startup_timeout_seconds
    state.kill_worker(worker)
    _note_start_failure(state, worker, f"not ready after {seconds:g} s")


def host_lost(state: State, host_id: HostId) -> None:
    """Deal with the workers of a host that is gone."""
    host = state.hosts.pop(host_id, None)
    if host is None:
        return
    for worker in list(host.workers.values()):
        worker.killed = True
        _bury(state, worker, _death_with(worker, "its host is gone"))
    state.hosts_changed()


def give_up(state: State, worker: Worker, cause: str) -> None:
    """Have a worker killed that nobody hears of; what it held is dealt with at once."""
    state.kill_worker(worker)
    leases, death = list(worker.leases.values()), _death_with(worker, cause)
    _strip(state, worker)
    worker.paused = worker.parked = worker.parked_call = None
    worker.lingering.clear()
    state.settle(worker)
    _end_leases(state, leases, death)


def _death_with(worker: Worker, cause: str) -> _Death:
    """Return how a worker died that is gone with its host: what it should be running, had begun."""
    first = next(iter(worker.leases.values()), None)
    position = -1 if first is None else first.next
    lease = 0 if first is None else first.group or first.id
    also = tuple(worker.leases)[1:] if worker.pool.is_concurrent else ()
    return _Death(cause, lease, position, timed_out=False, also=also)


class _Death:
    """How a worker died, and in which inputs."""

    __slots__ = ("also", "cause", "lease", "over_memory_mib", "position", "timed_out")

    def __init__(
        self,
        cause: str,
        lease: LeaseId | int,
        position: int,
        *,
        timed_out: bool,
        also: tuple[LeaseId, ...] = (),
    ) -> None:
        self.cause = cause
        self.lease = lease
        self.position = position
        self.timed_out = timed_out
        self.over_memory_mib = 0
        self.also = also
        """Further leases that ran, in a worker that runs several at once."""


def _bury(state: State, worker: Worker, death: _Death) -> None:
    leases = list(worker.leases.values())
    _strip(state, worker)
    state.remove_worker(worker)
    _end_leases(state, leases, death)


def _strip(state: State, worker: Worker) -> None:
    """Let a worker have no leases, which the caller ends."""
    for lease in worker.leases.values():
        state.stop_awaiting(lease)
        del lease.call.leases[lease.id]
        worker.pool.divisible.pop(lease.id, None)
    worker.leases.clear()


def _end_leases(state: State, leases: list[Lease], death: _Death) -> None:
    group = death.lease if death.position >= 0 else 0
    # The last lease first, so that all of them end up before the backlog in their order.
    for lease in reversed(leases):
        if group and lease.group == group:
            _end_group_lease(state, lease, death, alone=len(leases) == 1)
        elif lease.id in death.also:
            _end_running(state, lease, death)
        else:
            _end_lease(state, lease, death)
        state.note_waiting(lease.call)
        finish_if_over(state, lease.call)


def _end_lease(state: State, lease: Lease, death: _Death) -> None:
    call, start, position = lease.call, lease.next, death.position
    if lease.id in state.loans:
        if lease.next:
            _end_loan(state, lease, death)
            return
        lending.end(state, lease)  # its first input came by the broker, and is as any other
    lease.next = lease.stop
    runs = death.lease == lease.id and start <= position < lease.stop
    if not runs and call.has_given(start):
        runs, position = True, start  # one that waits to be read does not say that it runs
    if not runs:
        if call.pool.spec.rerun_on_crash:
            outcomes.return_outstanding(state, lease, start, lease.stop)
            return
        # Nobody knows whether it had run: its answer may have died on its way.
        counted, ran = not lease.worker.ends_by_order, Ran(lease.worker, lease.granted_at)
        for index in range(lease.stop - 1, start - 1, -1):
            outcomes.lose_attempt(state, call, index, death.cause, counted=counted, ran=ran)
        return
    outcomes.return_outstanding(state, lease, position + 1, lease.stop)
    _end_input(state, lease, death, position, alone=not death.also)
    outcomes.return_outstanding(state, lease, start, position)


def _end_loan(state: State, lease: Lease, death: _Death) -> None:
    """End a loan, and the input that ran: its client has the inputs, and tries again."""
    if death.lease == lease.id and death.position >= lease.next:
        lending.reach(state, lease, death.position)
    if death.timed_out and lease.outstanding:
        index, lease.next = lease.next, lease.stop
        ran = Ran(lease.worker, lease.granted_at)
        outcomes.end_attempt(
            state, lease.call, index, Outcome.TIMED_OUT, has_payload=False, ran=ran
        )
    counted = not lease.worker.ends_by_order
    outcomes.lose_outstanding(state, lease, death.cause, counted=counted)
    lending.end(state, lease)


def _end_group_lease(state: State, lease: Lease, death: _Death, *, alone: bool) -> None:
    """One call of the function ran all inputs of the group, by whose number the page names it."""
    start, stop = lease.next, lease.stop
    lease.next = stop
    for index in range(stop - 1, start - 1, -1):
        _end_input(state, lease, death, index, alone=alone and stop - start == 1)


def _end_input(state: State, lease: Lease, death: _Death, index: int, *, alone: bool) -> None:
    """End an input that had started; `alone`: nothing ran beside it that may have needed more."""
    call, ran = lease.call, Ran(lease.worker, lease.granted_at)
    if death.timed_out and death.lease in (lease.id, lease.group):
        outcomes.end_attempt(state, call, index, Outcome.TIMED_OUT, has_payload=False, ran=ran)
    elif death.over_memory_mib and alone and not call.cancelled:
        outcomes.exceed_memory(state, call, index, death.over_memory_mib, ran)
    else:
        counted = not lease.worker.ends_by_order
        outcomes.lose_attempt(state, call, index, death.cause, counted=counted, ran=ran)


def _end_running(state: State, lease: Lease, death: _Death) -> None:
    """Lose an input that ran beside others; that one of them timed out counts against no other."""
    index, lease.next = lease.next, lease.stop
    counted = not lease.worker.ends_by_order and not death.timed_out
    ran = Ran(lease.worker, lease.granted_at)
    outcomes.lose_attempt(state, lease.call, index, death.cause, counted=counted, ran=ran)


def _note_start_failure(state: State, worker: Worker, cause: str) -> None:
    pool = worker.pool
    pool.note_start_failure(state.now)
    if pool.start_failures >= MAX_START_FAILURES:
        message = (
            f"{pool.spec.name}: {pool.start_failures} workers in a row died before they were "
            f"ready, the last one: {cause}"
        )
        end_pool_waiting(state, pool, message)
