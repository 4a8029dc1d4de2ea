"""How many workers there are: started for demand and floors, stopped when idle too long.

Demand starts no more workers than could find a CPU; floors are kept whatever the CPUs do. Where
memory or a device stands in the way, demand ends other pools' idle workers, and after a while
takes its turn from busy ones.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Final

from kernel_worker.core import effects
from kernel_worker.core.hosts import EPSILON
from kernel_worker.core.pools import Condition, missing_workers

if TYPE_CHECKING:
    from kernel_worker.core.hosts import Host
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import Resources

HANDOVER_SECONDS: Final = 0.25
"""How long idle workers above the ceiling are kept: a nested call needs them back soon."""
STARVED_SECONDS: Final = 2.0
"""How long work waits for memory or a device that busy workers of other pools hold."""
MAX_KEPT: Final = 1000
"""Beyond so many workers a pool grows by demand alone, whatever floor or buffer it was given."""


def scale_all(state: State) -> None:
    """Start and stop workers of the pools that something happened to."""
    state.dirty.update(state.backlogged)
    if len(state.dirty) == 1:
        _scale(state, state.dirty.popitem()[1])
        return
    pools = dict(state.dirty)
    state.dirty.clear()
    # Those with work before those that keep a floor: what was made free for work is not refilled.
    for pool in sorted(pools.values(), key=lambda pool: (not pool.backlog, pool.served_seconds)):
        _scale(state, pool)


def resources_freed(state: State) -> None:
    """Have the floors looked at that could not be kept."""
    for pool in state.pools.values():
        if pool.settings.min_containers:
            state.touch(pool)


def _scale(state: State, pool: Pool) -> None:
    limit = pool.settings.max_containers
    if limit is None or pool.unblocked <= limit:
        pool.over_since = None
    elif pool.over_since is None:
        pool.over_since = state.now
    # Where nothing waits and nothing is kept warm, none can be missing.
    missing = 0
    is_wanted = pool.backlog or (pool.spec.target_inputs and pool.busy)
    if is_wanted or pool.settings.min_containers or pool.settings.buffer_containers:
        missing = missing_workers(pool, state.slots(pool), state.now)
    if missing > 0:
        _start(state, pool, missing)
    else:
        pool.starved_since = None
        _stop_idle(state, pool)
    if not pool.workers and not pool.calls:
        _retire(state, pool)


# -- starting


def _start(state: State, pool: Pool, missing: int) -> None:
    if state.now < pool.retry_start_at:
        state.timers.set_if_earlier(("start", pool.id), pool.retry_start_at)
        return
    kept = min(pool.kept(state.now) - pool.unblocked, MAX_KEPT - len(pool.workers), missing)
    # A floor beyond the CPUs is what a provider is asked for, where there is one.
    while kept > 0 and _start_one(state, pool, needs_cpu=bool(state.offers)):
        kept -= 1
        missing -= 1
    # What a floor could not have, work may still make room for.
    is_wanted = pool.backlog or pool.spec.target_inputs
    useful = min(missing, _useful_starts(state, pool)) if is_wanted else 0
    for _ in range(useful):
        if not _start_one(state, pool):
            if pool.backlog:
                _make_room(state, pool)
            return
    pool.starved_since = None


def _useful_starts(state: State, pool: Pool) -> int:
    """Return how many more workers could run something soon."""
    waiting = pool.spare - pool.stranded
    cpu = pool.spec.resources.cpu
    if cpu <= EPSILON:
        return pool.backlog
    free = sum(
        math.floor(max(0.0, host.cpu_free) / cpu + EPSILON) for host in state.hosts_for(pool)
    )
    return max(0 if pool.spare or not pool.backlog else 1, free - waiting)


def _start_one(state: State, pool: Pool, *, needs_cpu: bool = False) -> bool:
    wanted, is_stranded = pool.spec.resources, pool.stranded > 0
    hosts = state.hosts_for(pool)
    if len(hosts) > 1:
        # One that has a CPU now first: where others have them all, a worker would be stranded.
        hosts.sort(key=lambda host: (host.has_cpu(wanted.cpu), _cpu_unclaimed(host)), reverse=True)
    for host in hosts:
        if not host.slots(wanted) or (needs_cpu and _cpu_unclaimed(host) + EPSILON < wanted.cpu):
            continue
        if is_stranded and not host.has_cpu(wanted.cpu):
            continue  # it would be another one
        devices = host.place(wanted, host.workers.values())
        if devices is not None:
            _start_on(state, pool, host, devices)
            return True
    return False


def _cpu_unclaimed(host: Host) -> float:
    """Return the cores of a host that would be free if all of its workers ran."""
    return host.resources.cpu - sum(
        worker.pool.spec.resources.cpu
        for worker in host.workers.values()
        if worker.condition < Condition.BLOCKED
    )


def _start_on(state: State, pool: Pool, host: Host, devices: tuple[int, ...]) -> None:
    worker = state.add_worker(pool, host, devices)
    state.expect_ready(worker)
    state.emit(effects.StartWorker(worker.id, host.id, pool.spec, devices))


# -- making room


def _make_room(state: State, pool: Pool) -> None:
    """End or drain others' workers whose memory or devices the pool's work needs."""
    if pool.spare:
        return
    for host in state.hosts_for(pool):
        if not host.is_open:
            continue
        leaving = [w for w in host.workers.values() if _is_leaving(w)]
        staying = [w for w in host.workers.values() if not _is_leaving(w)]
        if leaving and host.place(pool.spec.resources, staying) is not None:
            return
    idle = _victims(state, pool, Condition.IDLE)
    if idle:
        for worker in idle:
            state.stop_worker(worker)
        pool.starved_since = None
        return
    if pool.starved_since is None:
        pool.starved_since = state.now
    due = pool.starved_since + STARVED_SECONDS
    if state.now < due:
        state.timers.set_if_earlier(("starved", pool.id), due)
        return
    pool.starved_since = None
    for worker in _victims(state, pool, Condition.BUSY):
        worker.draining = True
        for lease in worker.leases.values():
            if not lease.asked_back and lease.outstanding > 1:
                lease.asked_back = True
                state.emit(effects.TakeBack(worker.id, worker.host.id, lease.id))


def _is_leaving(worker: Worker) -> bool:
    return worker.condition is Condition.STOPPING or worker.draining


def _victims(state: State, pool: Pool, condition: Condition) -> list[Worker]:
    """Return the fewest workers of other pools whose end makes room on a host, oldest first."""
    wanted = pool.spec.resources
    for host in state.hosts_for(pool):
        candidates = [
            worker
            for worker in host.workers.values()
            if worker.condition is condition
            and not _is_leaving(worker)
            and _stands_in_the_way(worker, pool, wanted)
        ]
        # Those that nothing keeps go first.
        candidates.sort(key=lambda w: (w.pool.unblocked <= w.pool.kept(state.now), w.since))
        chosen = _fewest(host, wanted, candidates)
        if chosen:
            return chosen
    return []


def _stands_in_the_way(worker: Worker, pool: Pool, wanted: Resources) -> bool:
    if worker.pool is pool:
        return False
    held = worker.pool.spec.resources
    return bool((wanted.gpu and worker.devices) or (wanted.memory_mib and held.memory_mib))


def _fewest(host: Host, wanted: Resources, candidates: list[Worker]) -> list[Worker]:
    if not host.slots(wanted):
        return []
    staying = [w for w in host.workers.values() if not _is_leaving(w)]
    removed: list[Worker] = []
    for worker in candidates:
        removed.append(worker)
        staying.remove(worker)
        if host.place(wanted, staying) is not None:
            break
    else:
        return []
    for worker in list(removed):
        if host.place(wanted, [*staying, worker]) is not None:
            removed.remove(worker)
            staying.append(worker)
    return removed


# -- stopping


def _stop_idle(state: State, pool: Pool) -> None:
    if not pool.idle or not _is_due(state, pool, next(iter(pool.idle.values()))):
        return
    surplus = pool.unblocked - pool.kept(state.now)
    if spared := _spared(state, pool):
        due = itertools.takewhile(partial(_is_due, state, pool), pool.idle.values())
        surplus = min(surplus, sum(1 for _ in due) - spared)
    for worker in list(pool.idle.values()):
        if surplus <= 0 or not _is_due(state, pool, worker):
            return
        state.stop_worker(worker)
        surplus -= 1


def _spared(state: State, pool: Pool) -> int:
    """Return how many of those that were idle for a window are the buffer, and not too many.

    It is there for the next call too: it outlives the last one by a window.
    """
    buffer = pool.settings.buffer_containers
    if not buffer or pool.superseded or pool.unblocked > pool.ceiling:
        return 0
    quiet_at = pool.quiet_since + pool.settings.scaledown_window_seconds
    if pool.calls:
        return buffer
    if state.now < quiet_at:
        state.timers.set_if_earlier(("idle", pool.id), quiet_at)
        return buffer
    return 0


def _is_due(state: State, pool: Pool, worker: Worker) -> bool:
    """Whether an idle worker that nothing keeps has been idle too long; if not, look again then.

    One timer a pool: it fires once a window however often workers come and go, and arms itself.
    """
    due = _stop_due(pool, worker)
    if state.now >= due:
        return True
    state.timers.set_if_earlier(("idle", pool.id), due)
    return False


def _stop_due(pool: Pool, worker: Worker) -> float:
    """Return until when an idle worker that nothing keeps may live."""
    if pool.superseded and not pool.calls:
        return worker.since
    if pool.over_since is not None and pool.unblocked > pool.ceiling:
        return max(worker.since, pool.over_since) + HANDOVER_SECONDS
    return worker.since + pool.settings.scaledown_window_seconds


def _retire(state: State, pool: Pool) -> None:
    """Let the templates of a pool without workers go, and forget it where nobody may call it."""
    if pool.spec.single_use and not pool.superseded and pool.clients:
        due = pool.template_kept_until
        if state.now < due:
            state.timers.set(("template", pool.id), due)
            return
    for host in state.hosts.values():
        if pool.id in host.templates:
            host.templates.discard(pool.id)
            state.emit(effects.RetirePool(pool.id, host.id))
    if not pool.clients and not pool.references:
        state.forget_pool(pool)
