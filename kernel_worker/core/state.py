"""Everything that the core knows, and the moves that keep its counters true.

The rooms beside this one (outcomes, granting, scaling ...) are functions on a `State`; they change
conditions, backlogs and leases only through the methods here.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.core import effects
from kernel_worker.core.hosts import EPSILON
from kernel_worker.core.pools import Condition, Pool, Worker
from kernel_worker.core.timers import Timers
from kernel_worker.core.transitions import Cause
from kernel_worker.model import NO_CALL, LeaseId, WorkerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker import records
    from kernel_worker.core.calls import Call
    from kernel_worker.core.hosts import Host
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.offers import Offer
    from kernel_worker.core.tracing import Remembered
    from kernel_worker.model import (
        CallId,
        ClientId,
        FunctionKey,
        FunctionSpec,
        HostId,
        ParentInput,
        PoolId,
    )


_STARTUP_GRACE_SECONDS: Final = 1.0
_STARTING, _STOPPING = Condition.STARTING, Condition.STOPPING


class State:
    """The facts, and the effects of the event in hand."""

    def __init__(self, prefix: str, leases_from: int = 0) -> None:
        """Make an empty state; worker ids are `ta-<prefix>-<n>`, leases are numbered from there."""
        self.prefix = prefix
        self.now = 0.0
        self.effects: list[effects.Effect] = []
        self.emit: Callable[[effects.Effect], None] = self.effects.append
        """Adds an effect to those of the event in hand."""
        self.timers = Timers()
        self.clients: set[ClientId] = set()
        self.nested_clients: set[ClientId] = set()
        self.hosts: dict[HostId, Host] = {}
        self.pools: dict[PoolId, Pool] = {}
        self.pools_of_key: dict[FunctionKey, set[PoolId]] = {}
        self.calls: dict[CallId, Call] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.backlogged: dict[PoolId, Pool] = {}
        """Pools with PENDING inputs."""
        self.called: dict[PoolId, Pool] = {}
        """Pools with open calls."""
        self.dirty: dict[PoolId, Pool] = {}
        """Pools whose number of workers is to be looked at in this turn."""
        self.virtual_seconds = 0.0
        """The share that the pool which was served last had had."""
        self.recent: dict[CallId, Remembered] = {}
        """Attached roots that ended lately, the oldest first: their graphs can still be had."""
        self.recent_bytes = 0
        self.loans: dict[LeaseId, Lease] = {}
        """The leases of calls that lend, while their worker is lent."""
        self.newly_waiting: list[Call] = []
        """Calls that began to wait in this turn, if they do so still."""
        self.offers: dict[ClientId, Offer] = {}
        """The hosts that providers could bring, by who speaks for them."""
        self.offers_awaited_until = 0.0
        self._worker_count = 0
        self._last_lease = leases_from
        self._turn_count = 0

    # -- effects and ids

    def take_effects(self) -> list[effects.Effect]:
        """Return the effects of the event in hand, which is done with."""
        done = self.effects.copy()
        self.effects.clear()
        return done

    def record(self, call: Call, fact: records.Record) -> None:
        """Persist a fact if it is about a spawned call."""
        if not call.attached:
            self.emit(effects.Record(fact))

    def new_worker_id(self) -> WorkerId:
        """Return an id that no worker has had."""
        self._worker_count += 1
        return WorkerId(f"ta-{self.prefix}-{self._worker_count}")

    def new_lease_id(self) -> LeaseId:
        """Return an id that no lease has had."""
        self._last_lease += 1
        return LeaseId(self._last_lease)

    # -- pools

    def define(self, spec: FunctionSpec) -> Pool:
        """Return the pool of `spec`, made if it is new.

        Its id stands for all else that is in `spec`: of a pool that is known only the settings may
        change, and which of several packings of the same code its workers load.
        """
        pool = self.pools.get(spec.pool)
        if pool is None:
            pool = Pool(spec.pool, spec, spec.settings)
            self.pools[spec.pool] = pool
            self.pools_of_key.setdefault(spec.key, set()).add(spec.pool)
        elif pool.spec != spec:
            if pool.spec.settings != spec.settings:
                pool.settings = spec.settings
            known = pool.spec
            pool.spec = msgspec.structs.replace(known, code=spec.code, settings=spec.settings)
        self.touch(pool)
        return pool

    def forget_pool(self, pool: Pool) -> None:
        """Know the pool no more."""
        del self.pools[pool.id]
        self.timers.clear(("floor", pool.id))
        siblings = self.pools_of_key[pool.spec.key]
        siblings.discard(pool.id)
        if not siblings:
            del self.pools_of_key[pool.spec.key]

    def touch(self, pool: Pool) -> None:
        """Have the number of the pool's workers looked at in this turn."""
        self.dirty[pool.id] = pool

    def hosts_changed(self) -> None:
        """Have every pool looked at again, because there are other resources now."""
        for pool in self.pools.values():
            pool.fits = None
            self.touch(pool)
            if pool.refusals:
                here = {name: lack for name, lack in pool.refusals.items() if name in self.hosts}
                pool.refusals = here if self.has_host_for(pool) else {}

    def hosts_for(self, pool: Pool) -> list[Host]:
        """Return the hosts that have not refused to run the pool's workers."""
        return [host for host in self.hosts.values() if host.id not in pool.refusals]

    def has_host_for(self, pool: Pool) -> bool:
        """Whether the pool's workers fit a host that has not refused them."""
        return any(host.could_ever_fit(pool.spec.resources) for host in self.hosts_for(pool))

    def slots(self, pool: Pool) -> int:
        """Return how many of the pool's workers could run user code at once, were they alone."""
        return sum(host.slots(pool.spec.resources) for host in self.hosts_for(pool))

    # -- backlogs

    def await_turn(self, call: Call) -> None:
        """Give a call with a backlog its place in the order of turns; call after adding to it."""
        if call.paused:
            return
        pool = call.pool
        if pool.is_shared:
            self._note_queued(call)
        self.join_turns(call)
        self.backlogged[pool.id] = pool
        if not call.in_turn:
            call.in_turn = True
            self._turn_count += 1
            heapq.heappush(pool.turns, (call.served_seconds, self._turn_count, call))
        self.note_waiting(call)
        self.touch(pool)

    def join_turns(self, call: Call) -> None:
        """Let a call, and its pool, that had nothing waiting start where the others are."""
        pool = call.pool
        if pool.id not in self.backlogged and pool.served_seconds < self.virtual_seconds:
            pool.served_seconds = self.virtual_seconds
        if not call.in_turn and call.served_seconds < pool.virtual_seconds:
            call.served_seconds = pool.virtual_seconds

    def _note_queued(self, call: Call) -> None:
        call.added_at = self.now
        if not call.is_queued:
            call.is_queued = True
            call.queued_at = self.now

    def enroll(self, call: Call) -> None:
        """Know an open call."""
        self.calls[call.id] = call
        call.pool.calls[call.id] = call
        self.called[call.pool.id] = call.pool
        if call.pools:
            call.pools = tuple(pool_id for pool_id in call.pools if pool_id in self.pools)
            for pool_id in call.pools:
                self.pools[pool_id].references += 1
        if call.parent is not None and call.parent.call in self.calls:
            children = self.calls[call.parent.call].children
            children.setdefault(call.parent.index, set()).add(call.id)

    def dismiss(self, call: Call) -> None:
        """Know a call that is over no more."""
        pool = call.pool
        del self.calls[call.id]
        del pool.calls[call.id]
        if not pool.calls:
            del self.called[pool.id]
            pool.quiet_since = self.now
            pool.turns.clear()  # or else the last ones would be kept there
        pool.nested.pop(call.id, None)
        self.touch(pool)
        self.timers.clear(("waiting", call.id))
        if call.retried:
            self.timers.clear(("retry", call.id))
        if call.cancelled:
            self.timers.clear(("linger", call.id))
        for pool_id in call.pools:
            nested = self.pools[pool_id]
            nested.references -= 1
            self.touch(nested)
        if call.parent is not None and call.parent.call in self.calls:
            self._leave_parent(call, call.parent)

    def _leave_parent(self, call: Call, parent: ParentInput) -> None:
        children = self.calls[parent.call].children
        siblings = children.get(parent.index)
        if siblings is not None:
            siblings.discard(call.id)
            if not siblings:
                del children[parent.index]

    def next_in_turn(self, pool: Pool) -> Call | None:
        """Return the call of the pool whose turn it is, or None; stale places are dropped."""
        while pool.turns:
            served, order, call = pool.turns[0]
            if not call.eligible:
                heapq.heappop(pool.turns)
                call.in_turn = False
            elif served < call.served_seconds:
                heapq.heapreplace(pool.turns, (call.served_seconds, order, call))
            else:
                return call
        return None

    def next_nested(self, pool: Pool) -> Call | None:
        """Return the deepest call of the pool for which a blocked worker waits, or None."""
        waiting = [call for call in pool.nested.values() if call.eligible]
        return max(waiting, key=lambda call: call.depth, default=None)

    def add_backlog(self, call: Call, count: int) -> None:
        """Count `count` inputs more (or less) that are PENDING."""
        if call.paused:
            return
        pool = call.pool
        pool.backlog += count
        if not pool.backlog:
            self.backlogged.pop(pool.id, None)

    def requeue(self, call: Call, start: int, stop: int) -> None:
        """Put inputs that have just become PENDING again before all others."""
        call.requeue(start, stop)
        self.add_backlog(call, stop - start)
        self.await_turn(call)

    def note_waiting(self, call: Call) -> None:
        """Remember since when the call waits with nothing running."""
        if call.eligible and not call.leases:
            if call.waiting_since is None:
                call.waiting_since = self.now
                self.newly_waiting.append(call)
        else:
            call.waiting_since = None

    def take_newly_waiting(self) -> list[Call]:
        """Return the open calls that began to wait in this turn and do so still."""
        waiting = [call for call in self.newly_waiting if call.waiting_since == self.now]
        self.newly_waiting.clear()
        return [call for call in waiting if call.id in self.calls]

    # -- workers

    def add_worker(
        self, pool: Pool, host: Host, devices: tuple[int, ...], known: WorkerId | None = None
    ) -> Worker:
        """Make a worker that is about to be started; `known`: that another broker has started."""
        new = self.new_worker_id()
        worker = Worker(known or new, pool, host, devices, self.now)
        worker.number = self._worker_count
        self.workers[worker.id] = worker
        pool.workers[worker.id] = worker
        host.workers[worker.id] = worker
        pool.file(worker)
        self.touch(pool)
        return worker

    def expect_ready(self, worker: Worker) -> None:
        """Wait for a worker to be ready, but not for ever."""
        worker.host.templates.add(worker.pool.id)
        limit = worker.pool.spec.startup_timeout_seconds + _STARTUP_GRACE_SECONDS
        self.timers.set(("startup", worker.id), self.now + limit)

    def remove_worker(self, worker: Worker) -> None:
        """Forget a worker that is gone; its leases are closed by then."""
        if worker.on_cpu:
            self._set_on_cpu(worker, on_cpu=False)
        del self.workers[worker.id]
        del worker.pool.workers[worker.id]
        del worker.host.workers[worker.id]
        worker.pool.unfile(worker)
        self.timers.clear(("cancel", worker.id))
        self.timers.clear(("startup", worker.id))
        self.timers.clear(("lingering", worker.id))
        window = worker.pool.settings.scaledown_window_seconds
        worker.pool.template_kept_until = self.now + window
        self.touch(worker.pool)

    def enter(self, worker: Worker, condition: Condition) -> None:
        """Change the condition of a worker."""
        pool = worker.pool
        pool.unfile(worker)
        worker.condition = condition
        worker.since = self.now
        pool.file(worker)
        self.dirty[pool.id] = pool

    def settle(self, worker: Worker) -> None:
        """Bring a worker's condition and its use of a CPU in line with its leases."""
        if not worker.leases:
            settled = Condition.IDLE if worker.parked is None else Condition.PARKED
        else:
            settled = Condition.BLOCKED if worker.waits else Condition.BUSY
        condition = worker.condition
        if condition is not settled and condition is not _STARTING and condition is not _STOPPING:
            self.enter(worker, settled)
        on_cpu = settled is Condition.BUSY
        if worker.on_cpu is not on_cpu:
            self._set_on_cpu(worker, on_cpu=on_cpu)

    def _set_on_cpu(self, worker: Worker, *, on_cpu: bool) -> None:
        worker.on_cpu = on_cpu
        host, cpu = worker.host, worker.pool.spec.resources.cpu
        host.cpu_used += cpu if on_cpu else -cpu
        if not on_cpu:
            worker.resumed = False
            if abs(host.cpu_used) < EPSILON:
                host.cpu_used = 0.0

    def start_awaiting(
        self,
        lease: Lease,
        calls: list[Call],
        index: int,
        *,
        halts: bool = False,
        elsewhere: bool = False,
    ) -> None:
        """Block the input at `index` of a lease on calls; `halts`: all of its worker with it.

        With `elsewhere`: (also) on something that is known elsewhere, an item of a queue.
        """
        worker = lease.worker
        worker.waiting += not lease.awaited
        more = (*(call.id for call in calls), *((NO_CALL,) if elsewhere else ()))
        lease.awaited = tuple(dict.fromkeys((*lease.awaited, *more)))
        lease.awaiting = index
        lease.resumed = False
        if halts:
            worker.halts.add(lease.id)
        for call in calls:
            call.waiters[lease.id] = lease
            call.pool.nested[call.id] = call
        self.settle(worker)

    def stop_awaiting(self, lease: Lease) -> None:
        """Unblock a lease; the caller settles its worker."""
        if not lease.awaited:
            return
        lease.worker.waiting -= 1
        lease.worker.halts.discard(lease.id)
        for call_id in lease.awaited:
            call = self.calls.get(call_id)
            if call is not None:
                call.waiters.pop(lease.id, None)
                if not call.waiters:
                    call.pool.nested.pop(call_id, None)
        lease.awaited = ()
        lease.awaiting = -1

    def resume(self, lease: Lease) -> None:
        """Let a blocked input run on whether there is a slot or not: the handover."""
        worker, was_on_cpu = lease.worker, lease.worker.on_cpu
        self.stop_awaiting(lease)
        lease.resumed = True
        self.settle(worker)
        if worker.on_cpu and not was_on_cpu:
            worker.resumed = True

    def stop_worker(self, worker: Worker) -> None:
        """Have an idle worker ended."""
        self.enter(worker, Condition.STOPPING)
        self.emit(effects.StopWorker(worker.id, worker.host.id))

    def kill_worker(self, worker: Worker) -> None:
        """Have a worker killed; its inputs are dealt with when it has been reaped."""
        if not worker.killed:
            worker.killed = True
            self.enter(worker, Condition.STOPPING)
            self.emit(effects.KillWorker(worker.id, worker.host.id))

    # -- leases

    def lease_of(self, worker_id: WorkerId, lease_id: LeaseId) -> Lease | None:
        """Return the live lease of that worker, or None: the answer to it came too late."""
        worker = self.workers.get(worker_id)
        return None if worker is None else worker.leases.get(lease_id)

    def lease_at(self, parent: ParentInput) -> Lease | None:
        """Return the live lease under which the attempt runs that `parent` names, or None."""
        lease = self.lease_of(parent.worker, parent.lease)
        if lease is None or lease.call.id != parent.call or lease.attempt != parent.attempt:
            return None
        return lease if lease.next <= parent.index < lease.stop else None

    @staticmethod
    def hold(lease: Lease) -> None:
        """Let a worker have a lease."""
        worker = lease.worker
        if worker.leases or lease.outstanding > 1:
            worker.pool.divisible[lease.id] = lease
        lease.call.leases[lease.id] = lease
        worker.leases[lease.id] = lease

    def close_lease_if_answered(self, lease: Lease) -> None:
        """End a lease that has no outstanding input; its worker is free for the next one.

        An input that waited for a call and ends without having run on leaves the slot that it had
        given up to what its worker holds besides: a handover too.
        """
        worker = lease.worker
        was_blocked = worker.condition is Condition.BLOCKED
        if lease.awaited and not lease.next <= lease.awaiting < lease.stop:
            self.stop_awaiting(lease)
        is_over = lease.next >= lease.stop and lease.id not in self.loans
        if is_over and worker.leases.pop(lease.id, None) is not None:
            if worker.paused == lease.id:
                worker.paused = None
            del lease.call.leases[lease.id]
            worker.pool.divisible.pop(lease.id, None)
            self.note_waiting(lease.call)
            if not worker.leases:
                self.timers.clear(("cancel", worker.id))
        self.settle(worker)
        if was_blocked and worker.on_cpu:
            worker.resumed = True
        self.stop_if_done(worker)

    def stop_if_done(self, worker: Worker) -> None:
        """Have an idle worker ended that is to get no more leases."""
        if worker.condition is Condition.IDLE and (worker.draining or worker.pool.spec.single_use):
            self.stop_worker(worker)

    def give_back(self, lease: Lease, start: int, stop: int) -> tuple[int, int] | None:
        """Make unstarted inputs of a lease wait again.

        Returns the range that ended as cancelled instead, which the caller reports, or None.
        """
        call = lease.call
        call.states.move(start, stop, Cause.RETURNED)
        if call.cancelled:
            return start, stop
        self.requeue(call, start, stop)
        return None
