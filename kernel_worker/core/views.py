"""What the core tells those who ask: plain frozen values, never its own objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_worker.core.offers import notes
from kernel_worker.core.pools import Condition
from kernel_worker.core.transitions import InputState
from kernel_worker.model import app_of

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.hosts import Host
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State
    from kernel_worker.model import (
        CallId,
        ClientId,
        FunctionKey,
        HostId,
        HostResources,
        PoolId,
        PoolSettings,
        WorkerId,
    )

WAITING_SECONDS: Final = 2.0
"""How long a call has waited before it says what for."""


class PoolCounts(NamedTuple):
    """What `get_current_stats` tells."""

    backlog: int
    num_total_runners: int
    """Workers that are starting or ready, and not stopping."""
    num_running_inputs: int
    settings: PoolSettings
    input_headroom: int
    """Inputs that could begin on the workers that there are: those that start or idle."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker."""

    worker: WorkerId
    pool: PoolId
    host: HostId
    pid: int
    state: str
    """starting, idle, busy, blocked or stopping."""
    start: str
    since: float
    """When it came into this state, in Unix seconds."""
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool."""

    pool: PoolId
    key: FunctionKey
    name: str
    superseded: bool
    settings: PoolSettings
    backlog: int
    running: int
    """Inputs that are leased."""
    idle: int
    busy: int
    starting: int
    waiting_for: str
    clients: tuple[ClientId, ...]
    """Those that have defined it and are connected, without workers."""


@dataclass(frozen=True, slots=True)
class HostView:
    """One host."""

    host: HostId
    resources: HostResources
    cpu_used: float
    state: str = ""
    """`silent`, `draining`, or empty."""
    held: tuple[int, ...] = ()
    """Devices that other brokers of its machine use."""


@dataclass(frozen=True, slots=True)
class CallView:
    """One open call."""

    call: CallId
    name: str
    attached: bool
    closed: bool
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    """In whatever way; `timed_out` and `init_failed` are among them."""
    cancelled: int
    app: str
    submitted_at: float
    """Unix seconds."""
    timed_out: int
    init_failed: int
    pool: PoolId


@dataclass(frozen=True, slots=True)
class Progress:
    """How an open call stands."""

    running: int
    retried: int
    workers: int
    waiting_for: str
    started: tuple[tuple[int, int], ...]
    """The ranges that workers hold and have not answered, by position."""


@dataclass(frozen=True, slots=True)
class StatusView:
    """Everything at once."""

    clients: int
    hosts: list[HostView]
    pools: list[PoolView]
    workers: list[WorkerView]
    calls: list[CallView]


def pool_counts(pool: Pool) -> PoolCounts:
    """Return the numbers of one pool."""
    delayed = sum(call.states.counts[InputState.DELAYED] for call in pool.calls.values())
    headroom = pool.count(Condition.IDLE) + pool.count(Condition.STARTING)
    running = _running_inputs(pool)
    return PoolCounts(pool.backlog + delayed, pool.alive, running, pool.settings, headroom)


def status(state: State) -> StatusView:
    """Return everything that there is."""
    return StatusView(
        clients=len(state.clients - state.nested_clients),
        hosts=[_host_view(host) for host in state.hosts.values()],
        pools=[_pool_view(state, pool) for pool in state.pools.values()],
        workers=[_worker_view(worker) for worker in state.workers.values()],
        calls=[call_view(call) for call in state.calls.values()],
    )


def call_view(call: Call) -> CallView:
    """Return how many inputs of a call are where."""
    counts = call.states.counts
    bad = (InputState.FAILED, InputState.TIMED_OUT, InputState.LOST, InputState.INIT_FAILED)
    return CallView(
        call=call.id,
        name=call.pool.spec.name,
        attached=call.attached,
        closed=call.closed,
        total=call.states.live + call.states.ended,
        pending=counts[InputState.PENDING] + counts[InputState.DELAYED],
        running=call.running,
        succeeded=counts[InputState.SUCCEEDED],
        failed=sum(counts[one] for one in bad),
        cancelled=counts[InputState.CANCELLED],
        app=app_of(call.pool.spec.key),
        submitted_at=call.submitted_at,
        timed_out=counts[InputState.TIMED_OUT],
        init_failed=counts[InputState.INIT_FAILED],
        pool=call.pool.id,
    )


def calls_waiting_in(state: State, pool_id: PoolId) -> list[CallId]:
    """Return the open calls that have inputs which wait for a worker of a pool."""
    pool = state.pools.get(pool_id)
    if pool is None:
        return []
    return [call.id for call in pool.calls.values() if call.states.counts[InputState.PENDING]]


def recent_calls(state: State) -> list[CallView]:
    """Return the open calls that somebody made by hand, newest first.

    Those that an input of another call waits for are seen in that one's graph.
    """
    mine = [c for c in state.calls.values() if c.parent is None or not c.attached]
    return sorted(map(call_view, mine), key=lambda view: view.submitted_at, reverse=True)


def progress(state: State, call: Call, now: float) -> Progress:
    """Return how a call stands, and what it waits for if it has waited long enough."""
    waited = 0.0 if call.waiting_since is None else now - call.waiting_since
    reason = ""
    if waited >= WAITING_SECONDS:
        reason = why_waiting(state, call.pool)
    return Progress(
        running=call.running,
        retried=call.retried,
        workers=len({lease.worker.id for lease in call.leases.values()}),
        waiting_for=reason,
        started=tuple(sorted((lease.next, lease.stop) for lease in call.leases.values())),
    )


def why_waiting(state: State, pool: Pool) -> str:
    """Return what the pool's backlog waits for; empty where it has none, or is about to run."""
    if not pool.backlog:
        return ""
    if not state.hosts:
        return _with_offers(state, "no host has joined yet")
    name = pool.spec.name
    if pool.count(Condition.BUSY) >= pool.ceiling:
        busy = pool.count(Condition.BUSY)
        return f"max_containers: pool {name} runs {busy} of {pool.settings.max_containers}"
    if pool.count(Condition.IDLE):
        return _with_offers(state, f"no free CPU: {_who_runs(state)}")
    if pool.count(Condition.STARTING):
        return "a worker is starting"
    if state.now < pool.retry_start_at:
        return f"the last worker of {name} died before it was ready; the next one starts soon"
    refusals = sorted(pool.refusals.values())
    return _with_offers(state, "; ".join([_why_no_worker(state, pool), *refusals]))


def _with_offers(state: State, reason: str) -> str:
    """Say beside a reason how those stand who could bring more hosts."""
    return "; ".join(filter(None, [reason, notes(state)]))


def _why_no_worker(state: State, pool: Pool) -> str:
    wanted = pool.spec.resources
    hosts = [host for host in state.hosts_for(pool) if host.is_open]
    if not hosts:
        return "no host may begin anything: each is silent, or about to leave"
    if any(host.place(wanted, host.workers.values()) is not None for host in hosts):
        return f"no free CPU: {_who_runs(state)}"
    what = "GPU" if wanted.gpu else "memory"
    holders: dict[str, int] = {}
    for worker in state.workers.values():
        held = worker.pool.spec.resources
        if worker.devices if wanted.gpu else held.memory_mib:
            holders[worker.pool.spec.name] = holders.get(worker.pool.spec.name, 0) + 1
    listed = [f"pool {name} has {count}" for name, count in sorted(holders.items())]
    if wanted.gpu:
        others = sum(len(host.held) for host in hosts)
        listed += [f"other brokers of the same machine have {others}"] if others else []
    return f"no free {what}: {', '.join(listed)}" if listed else f"no free {what}"


def _who_runs(state: State) -> str:
    """Return who uses the CPUs: `pool g runs 2 of 2`."""
    total = sum(host.resources.cpu for host in state.hosts.values())
    used: dict[str, float] = {}
    for worker in state.workers.values():
        if worker.on_cpu:
            name = worker.pool.spec.name
            used[name] = used.get(name, 0.0) + worker.pool.spec.resources.cpu
    listed = [f"pool {name} runs {cpu:g}" for name, cpu in sorted(used.items())]
    return f"{', '.join(listed) or 'nothing runs'} of {total:g}"


def _running_inputs(pool: Pool) -> int:
    return sum(call.running for call in pool.calls.values())


def _host_view(host: Host) -> HostView:
    return HostView(host.id, host.resources, host.cpu_used, host.state, tuple(sorted(host.held)))


def _worker_view(worker: Worker) -> WorkerView:
    return WorkerView(
        worker=worker.id,
        pool=worker.pool.id,
        host=worker.host.id,
        pid=worker.pid,
        state="stopping" if worker.evicted else worker.condition.name.lower(),
        start=worker.start,
        since=worker.since,
        devices=worker.devices,
    )


def _pool_view(state: State, pool: Pool) -> PoolView:
    return PoolView(
        pool=pool.id,
        key=pool.spec.key,
        name=pool.spec.name,
        superseded=pool.superseded,
        settings=pool.settings,
        backlog=pool.backlog,
        running=_running_inputs(pool),
        idle=pool.count(Condition.IDLE),
        busy=pool.count(Condition.BUSY) + pool.count(Condition.BLOCKED),
        starting=pool.count(Condition.STARTING),
        waiting_for=why_waiting(state, pool),
        clients=tuple(sorted(pool.clients - state.nested_clients)),
    )
