"""What to do about it: the closed union out of the core. Imperative, frozen, no payloads.

The shell performs effects in order. `Record` comes before the effects that rely on it: what follows
a record in the same list (about a spawned call) is not performed before the record is on disk.
"The event's payload" is the frames that came with the message that became the event.
"""

from __future__ import annotations

from typing import dataclass_transform

import msgspec

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


@dataclass_transform(frozen_default=True)
class _Effect(msgspec.Struct, frozen=True, gc=False):
    """What all effects are."""


class Record(_Effect):
    """Persist this fact, with the event's payload where the record's docstring says so."""

    record: records.Record


class StartWorker(_Effect):
    """Ask the host for a worker of this pool."""

    worker: WorkerId
    host: HostId
    spec: FunctionSpec
    devices: tuple[int, ...]


class StopWorker(_Effect):
    """Ask the host to end an idle worker."""

    worker: WorkerId
    host: HostId


class KillWorker(_Effect):
    """Ask the host to kill a worker."""

    worker: WorkerId
    host: HostId


class RetirePool(_Effect):
    """Tell the host that this pool's template may go."""

    pool: PoolId
    host: HostId


class GrantLease(_Effect):
    """Send `[start, stop)` of the call to the worker."""

    worker: WorkerId
    lease: LeaseId
    call: CallId
    start: int
    stop: int
    attempt: int
    group: int = 0
    """Not 0: one call of the function takes this and the other leases with this number …"""
    group_size: int = 0
    """… of which there are so many."""
    lends: bool = False
    """The worker is lent to the call's client until it is taken back."""


class TakeBack(_Effect):
    """Ask for what the worker has not started of this lease."""

    worker: WorkerId
    host: HostId
    lease: LeaseId
    ends: bool = False
    """Nothing of it is to begin there; otherwise others may have what it does not come to."""


class Interrupt(_Effect):
    """Interrupt this very attempt."""

    worker: WorkerId
    host: HostId
    lease: LeaseId
    index: int


class ReleaseWorker(_Effect):
    """Let the worker drop the frames that it keeps, unless somebody looks at them."""

    worker: WorkerId
    host: HostId


class AcceptCall(_Effect):
    """Tell the client that its spawned call is durable."""

    client: ClientId
    call: CallId


class ConfirmCancel(_Effect):
    """Tell the client that the cancellation of this spawned call is durable."""

    client: ClientId
    call: CallId


class RejectCall(_Effect):
    """Tell the client that the call cannot be; `error` is a class name of `errors`."""

    client: ClientId
    call: CallId
    error: str
    message: str


class ReportRange(_Effect):
    """Report that `[start, stop)` succeeded; values: the event's payload, from `first` on."""

    call: CallId
    start: int
    stop: int
    first: int


class ReportItems(_Effect):
    """Report that the generator at `index` gave `[start, start + count)`: the event's payload."""

    call: CallId
    index: int
    start: int
    count: int


class ReportEnd(_Effect):
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


class EndLine(_Effect):
    """Tell the client that its line is over: no input from `stop` on has run by it."""

    client: ClientId
    call: CallId
    stop: int


class DropInputs(_Effect):
    """`[start, stop)` is terminal: the payloads of its inputs are not needed again."""

    call: CallId
    start: int
    stop: int


class FinishCall(_Effect):
    """Every input is terminal and reported, and no more come: the core has forgotten the call.

    The payloads of its last inputs, for which there was no `DropInputs`, go with it.
    """

    call: CallId
    tally: tuple[int, ...] = ()
    """Of a spawned call: how many inputs ended in each `Outcome`, by its value."""


Effect = (
    Record
    | StartWorker
    | StopWorker
    | KillWorker
    | RetirePool
    | GrantLease
    | TakeBack
    | Interrupt
    | ReleaseWorker
    | AcceptCall
    | ConfirmCancel
    | RejectCall
    | ReportRange
    | ReportItems
    | ReportEnd
    | EndLine
    | DropInputs
    | FinishCall
)
