"""What the journal holds: facts that were decided about spawned calls, one struct per fact.

A restart replays them in order (`Scheduler.restore`) and decides nothing again. Payloads are not
in here: the journal stores them beside a record under the keys that its docstring names.
"""

from __future__ import annotations

from typing import dataclass_transform

import msgspec

from kernel_worker.model import (
    CallContext,
    CallId,
    DeployedFunction,
    Digest,
    FunctionSpec,
    Outcome,
    ParentInput,
    WorkerId,
)
from kernel_worker.traces import CallTrace


@dataclass_transform(frozen_default=True)
class _Record(msgspec.Struct, frozen=True, array_like=True):
    """What all records are."""


class CallSubmitted(_Record, tag="call_submitted"):
    """A spawned call was accepted. Stored beside it: the objects that it and its specs name."""

    call: CallId
    spec: FunctionSpec
    snapshot: Digest
    table: Digest
    shared: Digest
    context: CallContext
    requires: tuple[Digest, ...]
    nested_specs: tuple[FunctionSpec, ...]
    submitted_at: float
    """Unix seconds."""
    parent: ParentInput | None = None
    root: CallId = CallId("")
    """The root of the tree of calls that it belongs to; empty for itself."""
    streams: bool = False
    """Its input runs a generator."""


class InputsAdded(_Record, tag="inputs_added"):
    """Inputs `[start, start + count)` arrived. Stored beside it: their batch."""

    call: CallId
    start: int
    count: int


class InputsClosed(_Record, tag="inputs_closed"):
    """The call has `total` inputs and gets no more."""

    call: CallId
    total: int


class CallCancelled(_Record, tag="call_cancelled"):
    """The user has cancelled the call: what runs of it ends, and never runs again."""

    call: CallId


class InputsLeased(_Record, tag="inputs_leased"):
    """Inputs `[start, stop)`, which must not run twice, go to a worker: they may have begun."""

    call: CallId
    start: int
    stop: int
    attempt: int


class RangeSucceeded(_Record, tag="range_succeeded"):
    """Inputs `[start, stop)` succeeded. Stored beside it: the frames of values from `first` on."""

    call: CallId
    start: int
    stop: int
    first: int
    attempt: int = 1
    worker: WorkerId = WorkerId("")
    began_at: float = 0.0
    """When the first of them began, in Unix seconds …"""
    ended_at: float = 0.0
    """… and the last one ended."""


class InputEnded(_Record, tag="input_ended"):
    """Inputs `[index, index + count)` ended otherwise. Stored beside it: the exception, if any."""

    call: CallId
    index: int
    count: int
    outcome: Outcome
    attempt: int
    message: str
    worker: WorkerId = WorkerId("")
    """Empty where none ran them."""
    began_at: float = 0.0
    ended_at: float = 0.0


class AttemptFailed(_Record, tag="attempt_failed"):
    """An attempt failed and the input will be tried again: the count survives a restart."""

    call: CallId
    index: int
    attempt: int
    lost: bool = False
    """The worker died under it: not one of the function's retries."""


class AttachedCallEnded(_Record, tag="attached_call_ended"):
    """An attached call that was made somewhere inside the spawned `call` is over.

    Nothing is ever run again because of it: it is remembered for the call graph.
    """

    call: CallId
    trace: CallTrace


class ItemsYielded(_Record, tag="items_yielded"):
    """The generator at `index` gave items `[start, start + count)`. Beside it: their batch."""

    call: CallId
    index: int
    start: int
    count: int


Record = (
    CallSubmitted
    | InputsAdded
    | InputsClosed
    | CallCancelled
    | InputsLeased
    | RangeSucceeded
    | InputEnded
    | AttemptFailed
    | AttachedCallEnded
    | ItemsYielded
)


class Deployment(msgspec.Struct, frozen=True, array_like=True):
    """An app was deployed. Stored beside it: the objects that its functions name.

    It is in force until the app is deployed again or stopped, and no fact about a call.
    """

    app: str
    version: int
    """From 1 on, by one."""
    deployed_at: float
    """Unix seconds."""
    functions: tuple[DeployedFunction, ...]
    tag: str = ""
    """Whatever the user calls this version."""
