"""What to do about it: the closed union out of the core. Imperative, frozen, no payloads.

The shell performs effects in order. `Record` comes before the effects that rely on it: what follows
a record in the same list (about a spawned call) is not performed before the record is on disk.
"The event's payload" is the frames that came with the message that became the event.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel_worker import records
from kernel_worker.model import (
    CallId,
    ClientId,
    FunctionSpec,
    HostId,
    LeaseId,
    Outcome,
    PoolId,
    WorkerId,
)


@dataclass(frozen=True, slots=True)
class Record:
    """Persist this fact, with the event's payload where the record's docstring says so."""

    record: records.Record


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Ask the host for a worker of this pool."""

    worker: WorkerId
    host: HostId
    spec: FunctionSpec
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Ask the host to end an idle worker."""

    worker: WorkerId
    host: HostId


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Ask the host to kill a worker."""

    worker: WorkerId
    host: HostId


@dataclass(frozen=True, slots=True)
class RetirePool:
    """Tell the host that this pool's template may go."""

    pool: PoolId
    host: HostId


@dataclass(frozen=True, slots=True)
class GrantLease:
    """Send `[start, stop)` of the call to the worker."""

    worker: WorkerId
    lease: LeaseId
    call: CallId
    start: int
    stop: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Ask for what the worker has not started of this lease."""

    worker: WorkerId
    host: HostId
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Interrupt this very attempt."""

    worker: WorkerId
    host: HostId
    lease: LeaseId
    index: int


@dataclass(frozen=True, slots=True)
class AcceptCall:
    """Tell the client that its spawned call is durable."""

    client: ClientId
    call: CallId


@dataclass(frozen=True, slots=True)
class RejectCall:
    """Tell the client that the call cannot be; `error` is a class name of `errors`."""

    client: ClientId
    call: CallId
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class ReportRange:
    """Report that `[start, stop)` succeeded; values: the event's payload, from `first` on."""

    call: CallId
    start: int
    stop: int
    first: int


@dataclass(frozen=True, slots=True)
class ReportEnd:
    """Report that `[index, index + count)` ended otherwise.

    FAILED and INIT_FAILED: the exception is the event's payload where `has_payload`.
    """

    call: CallId
    index: int
    count: int
    outcome: Outcome
    attempt: int
    message: str
    has_payload: bool


@dataclass(frozen=True, slots=True)
class DropInputs:
    """`[start, stop)` is terminal: the payloads of its inputs are not needed again."""

    call: CallId
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class FinishCall:
    """Every input is terminal and reported, and no more come: the core has forgotten the call."""

    call: CallId


Effect = (
    Record
    | StartWorker
    | StopWorker
    | KillWorker
    | RetirePool
    | GrantLease
    | TakeBack
    | Interrupt
    | AcceptCall
    | RejectCall
    | ReportRange
    | ReportEnd
    | DropInputs
    | FinishCall
)
