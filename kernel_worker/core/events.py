"""What happened: the closed union that goes into the core. Past tense, frozen, no payloads."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_worker.model import (
    CallContext,
    CallId,
    ClientId,
    Digest,
    FunctionSpec,
    HostId,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    WorkerId,
)


@dataclass(frozen=True, slots=True)
class ClientConnected:
    """A client said hello; after a reconnection too."""

    client: ClientId


@dataclass(frozen=True, slots=True)
class ClientLost:
    """The client is gone for good: its process died, it said bye, or its grace ran out."""

    client: ClientId


@dataclass(frozen=True, slots=True)
class HostJoined:
    """A host agent offers its resources."""

    host: HostId
    resources: HostResources


@dataclass(frozen=True, slots=True)
class HostLost:
    """A host agent and all of its workers are gone."""

    host: HostId


@dataclass(frozen=True, slots=True)
class FunctionDefined:
    """A function version with its options; a new version of a key supersedes the old pools."""

    client: ClientId
    spec: FunctionSpec


@dataclass(frozen=True, slots=True)
class CallSubmitted:
    """A new call with its first `count` inputs."""

    client: ClientId
    call: CallId
    pool: PoolId
    attached: bool
    count: int
    closed: bool
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    shared: Digest = Digest("")
    context: CallContext = CallContext()
    parent: ParentInput | None = None
    requires: tuple[Digest, ...] = ()
    pools: tuple[PoolId, ...] = ()
    indivisible: bool = False
    """The batch is one pickle: any part of it travels whole (see `wire.payload`)."""


@dataclass(frozen=True, slots=True)
class InputsAdded:
    """`[start, start + count)` of an open call arrived."""

    call: CallId
    start: int
    count: int
    indivisible: bool = False


@dataclass(frozen=True, slots=True)
class InputsClosed:
    """The call gets no more inputs."""

    call: CallId
    total: int


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """The user asked for the call to end."""

    call: CallId
    terminate: bool


@dataclass(frozen=True, slots=True)
class PoolConfigured:
    """The user changed a pool's settings; None leaves one as it is."""

    client: ClientId
    pool: PoolId
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The process exists."""

    worker: WorkerId
    pid: int
    start: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker said hello: it takes leases."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerStartFailed:
    """The function could not be loaded; the event's payload is the exception."""

    worker: WorkerId
    message: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The process is reaped. `position` is the input that had started under `lease`, or -1."""

    worker: WorkerId
    cause: str
    lease: LeaseId = LeaseId(0)
    position: int = -1
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class WorkerBlocked:
    """The attempt waits in our API for these calls."""

    parent: ParentInput
    calls: tuple[CallId, ...]


@dataclass(frozen=True, slots=True)
class WorkerResumed:
    """The attempt runs on."""

    parent: ParentInput


@dataclass(frozen=True, slots=True)
class RangeSucceeded:
    """`[start, start + count)` of a lease succeeded; the event's payload is the values."""

    worker: WorkerId
    lease: LeaseId
    start: int
    count: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True)
class InputEnded:
    """One input of a lease ended otherwise; FAILED: the event's payload is the exception."""

    worker: WorkerId
    lease: LeaseId
    index: int
    outcome: Outcome
    elapsed_seconds: float


@dataclass(frozen=True, slots=True)
class InputsReturned:
    """`[start, stop)` of a lease was not started and never will be under it; may be empty."""

    worker: WorkerId
    lease: LeaseId
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline that `next_deadline` named has come."""


Event = (
    ClientConnected
    | ClientLost
    | HostJoined
    | HostLost
    | FunctionDefined
    | CallSubmitted
    | InputsAdded
    | InputsClosed
    | CallCancelled
    | PoolConfigured
    | WorkerStarted
    | WorkerReady
    | WorkerStartFailed
    | WorkerExited
    | WorkerBlocked
    | WorkerResumed
    | RangeSucceeded
    | InputEnded
    | InputsReturned
    | TimePassed
)
