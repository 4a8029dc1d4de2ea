"""What the answers to a client's questions hold: the bodies of `Reply`."""

from __future__ import annotations

from typing import Literal

import msgspec

from kernel_worker.model import (
    CallId,
    HostResources,
    PoolId,
    PoolSettings,
    Resources,
    WorkerId,
)


class PoolStats(msgspec.Struct, frozen=True):
    """The body that answers `pool_stats`."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int
    settings: PoolSettings
    input_headroom: int = 0


class ScheduleInfo(msgspec.Struct, frozen=True):
    """A deployed function that is called by itself."""

    app: str
    name: str
    schedule: str
    """For people: `0 9 * * * (Europe/Berlin)`, `every 60 s`."""
    next_at: float | None
    """Unix seconds; None: never again."""


class DeploymentInfo(msgspec.Struct, frozen=True):
    """One version of a deployed app."""

    app: str
    version: int
    deployed_at: float
    """Unix seconds."""
    ended_at: float | None
    """Unix seconds; None while it is in force."""
    functions: tuple[str, ...]
    tag: str = ""
    schedules: tuple[ScheduleInfo, ...] = ()
    """Of a version in force: those of its functions that are called by themselves."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker, in `Status`."""

    worker: WorkerId
    pool: PoolId
    host: str
    pid: int
    state: str
    """starting, idle, busy, blocked or stopping."""
    start: str = ""
    """How it started: `forked`, or `fresh: <why>`."""
    since: float = 0.0
    """When it came into this state, in Unix seconds."""
    devices: tuple[int, ...] = ()


class AttachedKernel(msgspec.Struct, frozen=True):
    """The body that answers `attach`."""

    worker: WorkerId
    path: str
    """The connection file."""
    name: str
    """The function that the worker runs."""
    pid: int


class ConsoleInfo(msgspec.Struct, frozen=True):
    """The body that answers `console`."""

    worker: WorkerId
    call: CallId
    index: int
    kind: str
    name: str
    """The function that the worker runs."""


class PoolStatus(msgspec.Struct, frozen=True):
    """One pool, in `Status`."""

    pool: PoolId
    key: str
    name: str
    superseded: bool
    settings: PoolSettings
    backlog: int
    running: int
    idle: int
    busy: int
    starting: int
    waiting_for: str = ""
    client_pids: tuple[int, ...] = ()
    """The processes that have defined it and are connected, without workers."""


class HostStatus(msgspec.Struct, frozen=True):
    """One host, in `Status`."""

    host: str
    machine: str
    pid: int
    resources: HostResources
    cpu_used: float
    state: str = ""
    """`silent`, `draining`, or empty."""
    held: tuple[int, ...] = ()
    """Devices that other brokers of its machine use."""


class Shortage(msgspec.Struct, frozen=True):
    """Workers of one pool that no host has a place for, in `Demand`."""

    name: str
    """The function's."""
    resources: Resources
    workers: int


class HostUse(msgspec.Struct, frozen=True):
    """How much of one host is used, in `Demand`."""

    host: str
    workers: int
    """Its processes, whatever they do."""
    state: str = ""
    """`silent`, `draining`, or empty."""


class Demand(msgspec.Struct, frozen=True):
    """The body that answers `Provide`."""

    shortages: tuple[Shortage, ...]
    hosts: tuple[HostUse, ...]


CallState = Literal["pending", "running", "succeeded", "failed", "cancelled", "expired"]


LOG_BYTES = 64 * 1024 * 1024
"""So much of what a spawned call writes is kept with it."""


class LogEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something that an input wrote; a frame of a `LogPage` is a msgpack array of these."""

    index: int
    stream: str
    """As in `Output`; "notice" where the broker says something."""
    written_at: float
    """Unix seconds."""
    data: bytes
    """As the frame of `Output`."""


class LogPage(msgspec.Struct, frozen=True):
    """The body that answers `logs`; its frames hold the entries."""

    after: int
    """What to ask for the next page with."""
    more: bool
    """Whether there may be another one; otherwise this is all that is known now."""


class CallInfo(msgspec.Struct, frozen=True):
    """One call, in `Status` and as the answer to `call`."""

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
    app: str = ""
    submitted_at: float = 0.0
    """Unix seconds."""
    timed_out: int = 0
    init_failed: int = 0
    ended_at: float | None = None
    """Unix seconds; None while it is open."""
    expired: bool = False
    """Its results were kept for their time to live and are gone."""
    pool: PoolId = PoolId("")
    """Which pool's inputs it has; empty once it has ended."""

    @property
    def status(self) -> CallState:
        """How the call stands, in one word."""
        if self.expired:
            return "expired"
        if self.closed and not self.pending and not self.running:
            if self.failed:
                return "failed"
            return "cancelled" if self.cancelled else "succeeded"
        started = self.running or self.succeeded or self.failed or self.cancelled
        return "running" if started else "pending"


class TreeCall(msgspec.Struct, frozen=True, array_like=True):
    """A spawned call of a tree, as the journal knows it."""

    call: CallId
    parent: CallId
    """The call in an input of which it was made; empty for none …"""
    parent_index: int
    """… and that input."""
    name: str
    module: str
    submitted_at: float
    """Unix seconds."""


class Graph(msgspec.Struct, frozen=True):
    """The body that answers `graph`.

    Frames follow. The first is an array of `traces.CallTrace`: open calls and, where no spawned
    call is above them, ended attached ones. Each further one is an array of records of the tree's
    spawned calls, in order; what they say of an input is newer than a trace of a call that is open.
    """

    root: CallId
    calls: list[TreeCall]


class EventPage(msgspec.Struct, frozen=True):
    """The body that answers `events`: what is new of one call.

    Two frames follow: an array of at most one `traces.CallTrace`, how it stands now, of which the
    rows are those that are new; and an array of records, those of a spawned call that are new.
    """

    after: int
    """What to ask for the next page with."""
    more: bool
    """Whether there is another one already."""
    is_open: bool
    submitted_at: float
    """Unix seconds."""


class Status(msgspec.Struct, frozen=True):
    """The body that answers `status`."""

    incarnation: str
    pid: int
    version: str
    started_at: float
    clients: int
    hosts: list[HostStatus]
    pools: list[PoolStatus]
    workers: list[WorkerStatus]
    calls: list[CallInfo]
    schedules: list[ScheduleInfo] = []
    """What is called by itself, and when the next time."""
