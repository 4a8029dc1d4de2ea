"""Pools and their workers, and how many workers a pool should have. Pure policy.

`desired = clamp(demand, floor, ceiling) + buffer`, where only *unblocked* workers count: one that
waits for a nested call has given its place up.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.hosts import Host
    from kernel_worker.core.leases import Lease
    from kernel_worker.model import (
        CallId,
        ClientId,
        FunctionSpec,
        HostId,
        LeaseId,
        PoolId,
        PoolSettings,
        WorkerId,
    )

START_WORTH_SECONDS: Final = 0.02
"""Work that one more worker should find: starting one costs about half of it."""
FIRST_BACK_OFF_SECONDS: Final = 0.1
MAX_BACK_OFF_SECONDS: Final = 10.0
MAX_START_FAILURES: Final = 3


class Condition(enum.IntEnum):
    """What a worker is up to. Those before BLOCKED count against the ceiling of its pool."""

    STARTING = 0
    IDLE = 1
    BUSY = 2
    BLOCKED = 3
    """All of its inputs wait in our API, or for whoever reads what they give."""
    PARKED = 4
    """It keeps the frames of an input that failed: it holds memory and devices, nothing else."""
    STOPPING = 5
    """Asked to stop, or killed: it holds memory and devices until it is reaped."""


@dataclass(slots=True, eq=False)
class Worker:
    """One process, from the decision to start it until it is reaped."""

    id: WorkerId
    pool: Pool
    host: Host
    devices: tuple[int, ...]
    since: float
    """When its condition changed last."""
    condition: Condition = Condition.STARTING
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    """In the order in which it works them off."""
    paused: LeaseId | None = None
    """The lease whose generator is as far ahead of its reader as it may be: it is blocked too."""
    waiting: int = 0
    """How many of its leases are blocked: their input waits for calls."""
    halts: set[LeaseId] = field(default_factory=set)
    """Those of them that keep everything else in it from running, too."""
    lingering: set[LeaseId] = field(default_factory=set)
    """Leases that are answered although their input still runs: they hold a slot."""
    parked: LeaseId | None = None
    """The lease whose frames it keeps …"""
    parked_call: Call | None = None
    """… and the call that was."""
    on_cpu: bool = False
    resumed: bool = False
    """It took its slot back without asking whether there was one: the handover."""
    draining: bool = False
    """It gets no more leases, and stops when it has none."""
    evicted: bool = False
    """Somebody asked for its end: what it runs is interrupted, and runs again elsewhere."""
    killed: bool = False
    pid: int = 0
    start: str = ""
    delayed: bool = False
    """What it starts in was not there, and is, or was, built."""
    number: int = 0
    """The last part of its id."""

    @property
    def waits(self) -> bool:
        """Whether nothing in it can run: its input waits for calls, or for who reads its items."""
        if not self.waiting:
            return self.paused is not None
        return not self.pool.is_concurrent or bool(self.halts) or self.waiting == len(self.leases)

    @property
    def ends_by_order(self) -> bool:
        """Whether its end was asked for: it counts against no input."""
        return self.killed or self.evicted

    @property
    def load(self) -> int:
        """How many of the inputs that it may run at once it does, or still does."""
        return len(self.leases) - self.waiting + len(self.lingering)


@dataclass(slots=True, eq=False)
class Pool:
    """The workers of one function version with one set of options."""

    id: PoolId
    spec: FunctionSpec
    settings: PoolSettings
    superseded: bool = False
    clients: set[ClientId] = field(default_factory=set)
    """Connected clients that defined it: it is known as long as there are any."""
    owners: set[ClientId] = field(default_factory=set)
    """Those of them that are no workers' own connections: they hold the floor."""
    floor_until: float = 0.0
    """When no owner is left: how long the floor outlives them."""
    references: int = 0
    """How many open calls say that calls nested in them may use it."""
    calls: dict[CallId, Call] = field(default_factory=dict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    idle: dict[WorkerId, Worker] = field(default_factory=dict)
    """Its idle workers, the one that ran last last; the same dict as in `by_condition`."""
    busy: dict[WorkerId, Worker] = field(default_factory=dict)
    divisible: dict[LeaseId, Lease] = field(default_factory=dict)
    """The leases of its workers of which something may not have begun: of several inputs, or given
    to one that had another."""
    by_condition: tuple[dict[WorkerId, Worker], ...] = ()
    unblocked: int = 0
    """How many workers count against the ceiling: those that start, idle or run."""
    fits: bool | None = None
    """Whether a host could ever run a worker of it; None: nobody has looked since hosts changed."""
    backlog: int = 0
    """Inputs of its calls that are PENDING."""
    turns: list[tuple[float, int, Call]] = field(default_factory=list)
    """A heap of (share had, when queued, call): the calls with a backlog, least served first."""
    nested: dict[CallId, Call] = field(default_factory=dict)
    """Calls for which a blocked worker waits: they go before all turns."""
    virtual_seconds: float = 0.0
    """The share that the call which was served last had had: newcomers start there."""
    seconds_per_input: float | None = None
    served_seconds: float = 0.0
    """The share that it has had of the CPUs (virtual time)."""
    start_failures: int = 0
    """In a row."""
    retry_start_at: float = 0.0
    refusals: dict[HostId, str] = field(default_factory=dict)
    """Hosts that lack what it needs, and what they have: no worker of it is started there.

    There is another one on which it may run; where none is left, all are asked again.
    """
    broken: bool = False
    """The function cannot be loaded: its floor is not kept until somebody calls it."""
    starved_since: float | None = None
    """Since when it has work and no room for a worker because busy ones hold it."""
    over_since: float | None = None
    """Since when it has more unblocked workers than its ceiling."""
    quiet_since: float = 0.0
    """When its last call ended."""
    template_kept_until: float = 0.0
    is_concurrent: bool = False
    """Whether a worker of it runs several leases at once, which come and go by themselves."""
    is_shared: bool = False
    """Whether inputs of several calls may run in a worker of it at once."""
    input_cpu: float = 1.0
    """What an input that runs uses of the CPUs."""

    def __post_init__(self) -> None:
        """File workers by their condition."""
        self.by_condition = ({}, self.idle, self.busy, {}, {}, {})
        self.is_concurrent = self.spec.max_inputs > 1
        self.is_shared = self.is_concurrent or self.spec.max_batch_size > 0
        self.input_cpu = self.spec.resources.cpu / self.spec.max_inputs

    @property
    def may_batch(self) -> bool:
        """Whether a lease may hold more inputs than run at once."""
        return self.spec.rerun_on_crash and not self.spec.single_use and not self.is_shared

    def workers_in(self, condition: Condition) -> dict[WorkerId, Worker]:
        """Return the workers of one condition, the one that entered it first first."""
        return self.by_condition[condition]

    def file(self, worker: Worker) -> None:
        """Take a worker in under its condition."""
        condition = worker.condition
        self.by_condition[condition][worker.id] = worker
        self.unblocked += condition < Condition.BLOCKED

    def unfile(self, worker: Worker) -> None:
        """Take a worker out, before its condition changes or because it is gone."""
        condition = worker.condition
        del self.by_condition[condition][worker.id]
        self.unblocked -= condition < Condition.BLOCKED

    def count(self, condition: Condition) -> int:
        """Return how many workers are in one condition."""
        return len(self.by_condition[condition])

    @property
    def blocked(self) -> dict[WorkerId, Worker]:
        """Its workers all of whose inputs wait."""
        return self.by_condition[Condition.BLOCKED]

    @property
    def spare(self) -> int:
        """How many workers run nothing, or will soon be there to run something."""
        return self.unblocked - len(self.busy)

    @property
    def stranded(self) -> int:
        """How many idle workers cannot run what waits: others use the CPUs of their hosts."""
        if not self.backlog:
            return 0
        cpu = self.spec.resources.cpu
        return sum(not worker.host.has_cpu(cpu) for worker in self.idle.values())

    @property
    def alive(self) -> int:
        """How many workers there are that are not on their way out."""
        return len(self.workers) - self.count(Condition.STOPPING)

    @property
    def ceiling(self) -> float:
        """How many unblocked workers it may have."""
        limit = self.settings.max_containers
        return math.inf if limit is None else limit

    def floor(self, now: float) -> int:
        """Return how many warm workers it keeps without being called."""
        if self.superseded or self.broken:
            return 0
        if not self.owners and now >= self.floor_until:
            return 0
        return int(min(self.settings.min_containers, self.ceiling))

    def kept(self, now: float) -> int:
        """Return how many workers it keeps however long they have been idle."""
        if self.superseded and not self.calls:
            return 0
        kept, buffer = self.floor(now), self.settings.buffer_containers
        if buffer and self.calls:
            kept = max(kept, len(self.busy)) + buffer
        return int(min(kept, self.ceiling))

    def demand(self) -> int:
        """Return how many unblocked workers its work could use at once."""
        busy, waiting = len(self.busy), self.backlog
        if self.is_concurrent:
            running = sum(worker.load for worker in self.busy.values())
            target = self.spec.target_inputs or self.spec.max_inputs
            return max(busy, math.ceil((running + waiting) / target))
        if waiting and self.spec.max_batch_size:
            waiting = math.ceil(waiting / self.spec.max_batch_size)
        elif waiting and self.seconds_per_input is not None:
            worth = math.ceil(waiting * self.seconds_per_input / START_WORTH_SECONDS)
            waiting = max(1, min(waiting, worth))
        return busy + waiting

    def note_start_failure(self, now: float) -> None:
        """Remember that a worker did not come up, and wait before the next one."""
        self.start_failures += 1
        delay = FIRST_BACK_OFF_SECONDS * 2.0 ** min(self.start_failures - 1, 16)
        self.retry_start_at = now + min(delay, MAX_BACK_OFF_SECONDS)


def missing_workers(pool: Pool, slots: int, now: float) -> int:
    """Return how many more workers the pool should have; negative where it has more than that.

    One that is stranded does not count where another one may be started: it runs nothing before
    its host has a CPU again, and another host may have one now.
    """
    missing = desired_workers(pool, slots, now) - pool.unblocked + pool.stranded
    return int(min(missing, pool.ceiling - pool.unblocked))


def desired_workers(pool: Pool, slots: int, now: float) -> int:
    """Return how many unblocked workers the pool should have.

    Args:
        pool: The pool.
        slots: How many of its workers could run user code at once on all hosts.
        now: The time in seconds.
    """
    floor = pool.floor(now)
    demand = min(pool.demand(), slots)
    buffer = pool.settings.buffer_containers if pool.calls else 0
    return int(min(max(demand, floor) + buffer, pool.ceiling))
