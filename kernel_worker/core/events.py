"""What happened: the closed union that goes into the core. Past tense, frozen, no payloads."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec

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
    Survivor,
    WorkerId,
)


@dataclass_transform(frozen_default=True)
class _Event(msgspec.Struct, frozen=True, gc=False):
    """What all events are."""


class ClientConnected(_Event):
    """A client said hello; after a reconnection too."""

    client: ClientId
    is_nested: bool = False
    """It is the connection of a worker."""


class ClientLost(_Event):
    """The client is gone for good: its process died, it said bye, or its grace ran out."""

    client: ClientId


class HostJoined(_Event):
    """A host agent offers its resources."""

    host: HostId
    resources: HostResources
    is_far: bool = False
    """It is another machine than the broker's."""


class HostRejoined(_Event):
    """A host agent that another broker knew offers its resources and says who lives there still.

    It goes into `Scheduler.restore`: nobody has inputs yet that a survivor may run.
    """

    host: HostId
    resources: HostResources
    survivors: tuple[Survivor, ...]
    is_far: bool = False
    """As of `HostJoined`."""


class HostLost(_Event):
    """A host agent and all of its workers are gone."""

    host: HostId


class HostSilent(_Event):
    """Nothing was heard of a host for longer than its lease; nobody knows what runs there."""

    host: HostId


class HostHeard(_Event):
    """A host that was silent is heard of again, before its workers have been given up."""

    host: HostId


class HostDraining(_Event):
    """A host is about to leave: what runs there may end, and nothing begins."""

    host: HostId


class DevicesHeld(_Event):
    """All devices of a host that other brokers of its machine use, as far as is known."""

    host: HostId
    devices: tuple[int, ...]
    worker: WorkerId = WorkerId("")
    """One that was not started because of that."""


class HostsOffered(_Event):
    """A provider could bring hosts such as these."""

    client: ClientId
    shapes: tuple[HostResources, ...]
    note: str = ""
    """How that stands, for people."""


class WorkerEvicted(_Event):
    """Somebody wants this worker to end: what it runs is interrupted and runs again elsewhere."""

    worker: WorkerId


class FunctionDefined(_Event):
    """A function version with its options; a new version of a key supersedes the old pools."""

    client: ClientId
    spec: FunctionSpec
    derived: bool = False
    """`client` knows no settings of its own: where the pool is known, it stays as it is."""


class FunctionReleased(_Event):
    """`client`, which stays, needs a function version no more: it ends with the calls it has."""

    client: ClientId
    pool: PoolId


class CallSubmitted(_Event):
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
    streams: bool = False
    """Its one input gives items before its outcome."""
    lends: bool = False
    """The client would call the worker of its one input directly, past the broker."""
    deaths: int = 0
    """How many workers have died under its one input already."""


class InputsAdded(_Event):
    """`[start, start + count)` of an open call arrived."""

    call: CallId
    start: int
    count: int
    indivisible: bool = False


class InputsClosed(_Event):
    """The call gets no more inputs."""

    call: CallId
    total: int


class CallCancelled(_Event):
    """The user asked for the call to end."""

    call: CallId
    terminate: bool
    client: ClientId = ClientId("")
    """Who asked, and is told when the cancellation of a spawned call is durable."""
    reached: int = -1
    """Of a call that lends: the input that the client waits for."""


class CallPaused(_Event):
    """The user asked that no further input of the call start."""

    call: CallId


class CallUnpaused(_Event):
    """The user asked that the call go on."""

    call: CallId


class PoolConfigured(_Event):
    """The user changed a pool's settings; None leaves one as it is."""

    client: ClientId
    pool: PoolId
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_seconds: float | None = None


class WorkerStarted(_Event):
    """The process exists."""

    worker: WorkerId
    pid: int
    start: str


class WorkerDelayed(_Event):
    """What the worker starts in is being built: that takes as long as it takes."""

    worker: WorkerId


class WorkerReady(_Event):
    """The worker said hello: it takes leases."""

    worker: WorkerId


class WorkerStartFailed(_Event):
    """The function could not be loaded; the event's payload is the exception."""

    worker: WorkerId
    message: str
    lack: str = ""
    """What the host has in the place of what the function needs: `box has no numpy`."""


class WorkerExited(_Event):
    """The process is reaped. `position` is the input that had started under `lease`, or -1."""

    worker: WorkerId
    cause: str
    lease: LeaseId = LeaseId(0)
    position: int = -1
    timed_out: bool = False
    over_memory_mib: int = 0
    """What it used, where it was killed for that."""
    started: tuple[LeaseId, ...] = ()
    """Further leases that ran, in a worker that runs several at once."""


class WorkerBlocked(_Event):
    """The attempt waits in our API for these calls."""

    parent: ParentInput
    calls: tuple[CallId, ...]
    halts: bool = False
    """Nothing else in the worker can run meanwhile: it waits on the thread of the event loop."""


class WorkerResumed(_Event):
    """The attempt runs on."""

    parent: ParentInput


class RangeSucceeded(_Event):
    """`[start, start + count)` of a lease succeeded; the event's payload is the values."""

    worker: WorkerId
    lease: LeaseId
    start: int
    count: int
    elapsed_seconds: float


class LineReached(_Event):
    """The inputs before `index` that came by the line of a lease have succeeded."""

    worker: WorkerId
    lease: LeaseId
    index: int
    elapsed_seconds: float
    runs: bool
    """Whether the one at `index` runs."""


class ItemsYielded(_Event):
    """The generator at `index` gave items `[start, start + count)`: the event's payload."""

    worker: WorkerId
    lease: LeaseId
    index: int
    start: int
    count: int
    line_of: CallId = CallId("")
    """The attached call by whose line they went; empty: they are here."""


class ProducerPaused(_Event):
    """The generator of a lease waits until somebody takes what it gave."""

    worker: WorkerId
    lease: LeaseId


class ProducerResumed(_Event):
    """What the generator of a lease gave has been taken: it runs on."""

    worker: WorkerId
    lease: LeaseId


class InputEnded(_Event):
    """One input of a lease ended otherwise; FAILED: the event's payload is the exception."""

    worker: WorkerId
    lease: LeaseId
    index: int
    outcome: Outcome
    elapsed_seconds: float
    cancelled_below: bool = False
    """It failed with the cancellation of a call that it had made."""
    lingers: bool = False
    """It runs on, although it is answered: its slot is free at `InputLeft`."""
    parks: bool = False
    """The worker keeps its frames for somebody to look at until `InputLeft`."""


class InputLeft(_Event):
    """What ran on under a lease that is answered has ended."""

    worker: WorkerId
    lease: LeaseId


class InputsReturned(_Event):
    """`[start, stop)` of a lease was not started and never will be under it; may be empty."""

    worker: WorkerId
    lease: LeaseId
    start: int
    stop: int


class TimePassed(_Event):
    """A deadline that `next_deadline` named has come."""


Event = (
    ClientConnected
    | ClientLost
    | HostJoined
    | HostLost
    | HostSilent
    | HostHeard
    | HostDraining
    | HostsOffered
    | FunctionDefined
    | FunctionReleased
    | CallSubmitted
    | InputsAdded
    | InputsClosed
    | CallCancelled
    | CallPaused
    | CallUnpaused
    | PoolConfigured
    | WorkerStarted
    | WorkerDelayed
    | WorkerReady
    | WorkerStartFailed
    | DevicesHeld
    | WorkerExited
    | WorkerBlocked
    | WorkerResumed
    | RangeSucceeded
    | LineReached
    | ItemsYielded
    | ProducerPaused
    | ProducerResumed
    | InputEnded
    | InputLeft
    | InputsReturned
    | WorkerEvicted
    | TimePassed
)
