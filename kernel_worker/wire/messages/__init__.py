"""One struct per message. `PROTOCOL.md` beside this file says who sends which, when.

A message on the wire is one header frame (msgpack of one of these structs, a tagged union) and
then the payload frames that it speaks of, which nobody but the two ends looks into.
Anything that does not decode raises `ProtocolError`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import msgspec

from kernel_worker.errors import ProtocolError
from kernel_worker.wire.messages.anybody import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    BulkWay,
    Bye,
    Hello,
    Refused,
    StoreObject,
    Welcome,
)
from kernel_worker.wire.messages.clients import (
    MOST_INPUTS,
    SHOWN_BYTES,
    SHOWN_LINES,
    Accepted,
    AddInputs,
    Ask,
    AttachCall,
    Blocked,
    CallFilter,
    CallProgress,
    CancelCall,
    CancelConfirmed,
    CloseInputs,
    ConfigurePool,
    ConsoleClosed,
    ConsoleLine,
    ConsoleOffered,
    ConsoleRefused,
    ConsoleSaid,
    Credit,
    Define,
    Deploy,
    DropObjects,
    Failure,
    Items,
    Output,
    PauseCall,
    Provide,
    Rejected,
    Replaying,
    Reply,
    Results,
    Resumed,
    Submit,
)
from kernel_worker.wire.messages.hosts import (
    SEALED_START,
    AttachKernel,
    ConsoleInput,
    ConsoleWord,
    DevicesHeld,
    Draining,
    Interrupt,
    KeepBroker,
    KillWorker,
    RetirePool,
    StartDelayed,
    StartFailed,
    StartWorker,
    StopWorker,
    TakeBack,
    WorkerExited,
    WorkerStarted,
)
from kernel_worker.wire.messages.replies import (
    LOG_BYTES,
    AttachedKernel,
    CallInfo,
    CallState,
    ConsoleInfo,
    Demand,
    DeploymentInfo,
    EventPage,
    Graph,
    HostStatus,
    HostUse,
    LogEntry,
    LogPage,
    PoolStats,
    PoolStatus,
    ScheduleInfo,
    Shortage,
    Status,
    TreeCall,
    WorkerStatus,
)
from kernel_worker.wire.messages.shelves import Parked, ShelfWord, UseShelf
from kernel_worker.wire.messages.workers import (
    Done,
    InputEnded,
    InputLeft,
    KernelAttached,
    Lease,
    LineEnded,
    LineReached,
    Paused,
    Returned,
    Yielded,
)

__all__ = [
    "LOG_BYTES",
    "MOST_INPUTS",
    "PROTOCOL_MAJOR",
    "PROTOCOL_MINOR",
    "SEALED_START",
    "SHOWN_BYTES",
    "SHOWN_LINES",
    "Accepted",
    "AddInputs",
    "Ask",
    "AttachCall",
    "AttachKernel",
    "AttachedKernel",
    "Blocked",
    "BulkWay",
    "Bye",
    "CallFilter",
    "CallInfo",
    "CallProgress",
    "CallState",
    "CancelCall",
    "CancelConfirmed",
    "CloseInputs",
    "ConfigurePool",
    "ConsoleClosed",
    "ConsoleInfo",
    "ConsoleInput",
    "ConsoleLine",
    "ConsoleOffered",
    "ConsoleRefused",
    "ConsoleSaid",
    "ConsoleWord",
    "Credit",
    "Define",
    "Demand",
    "Deploy",
    "DeploymentInfo",
    "DevicesHeld",
    "Done",
    "Draining",
    "DropObjects",
    "EventPage",
    "Failure",
    "Graph",
    "Hello",
    "HostStatus",
    "HostUse",
    "InputEnded",
    "InputLeft",
    "Interrupt",
    "Items",
    "KeepBroker",
    "KernelAttached",
    "KillWorker",
    "Lease",
    "LineEnded",
    "LineReached",
    "LogEntry",
    "LogPage",
    "Message",
    "Output",
    "Parked",
    "PauseCall",
    "Paused",
    "PoolStats",
    "PoolStatus",
    "Provide",
    "Refused",
    "Rejected",
    "Replaying",
    "Reply",
    "Results",
    "Resumed",
    "RetirePool",
    "Returned",
    "ScheduleInfo",
    "ShelfWord",
    "Shortage",
    "StartDelayed",
    "StartFailed",
    "StartWorker",
    "Status",
    "StopWorker",
    "StoreObject",
    "Submit",
    "TakeBack",
    "ToBroker",
    "ToClient",
    "ToHost",
    "ToWorker",
    "TreeCall",
    "UseShelf",
    "Welcome",
    "WorkerExited",
    "WorkerStarted",
    "WorkerStatus",
    "Yielded",
    "decode_at_broker",
    "decode_at_client",
    "decode_at_host",
    "decode_at_worker",
    "encode",
]

T = TypeVar("T")

ToBroker = (
    Hello
    | Bye
    | Draining
    | StoreObject
    | Define
    | Submit
    | AddInputs
    | CloseInputs
    | CancelCall
    | PauseCall
    | AttachCall
    | DropObjects
    | ConfigurePool
    | Deploy
    | Provide
    | Ask
    | UseShelf
    | ShelfWord
    | Blocked
    | Resumed
    | Credit
    | WorkerStarted
    | StartDelayed
    | StartFailed
    | DevicesHeld
    | WorkerExited
    | Done
    | Yielded
    | Paused
    | InputEnded
    | InputLeft
    | Returned
    | LineReached
    | KernelAttached
    | ConsoleLine
    | ConsoleRefused
    | ConsoleOffered
    | ConsoleSaid
    | ConsoleClosed
    | Output
)
ToClient = (
    Welcome
    | Refused
    | Accepted
    | CancelConfirmed
    | Rejected
    | Results
    | Failure
    | Items
    | LineEnded
    | Replaying
    | CallProgress
    | Output
    | ConsoleOffered
    | ConsoleSaid
    | ConsoleClosed
    | Reply
    | Parked
    | Bye
)
ToHost = (
    Welcome
    | Refused
    | Bye
    | StoreObject
    | StartWorker
    | StopWorker
    | KillWorker
    | TakeBack
    | Interrupt
    | AttachKernel
    | ConsoleInput
    | RetirePool
    | KeepBroker
)
ToWorker = Welcome | Refused | Bye | StoreObject | Lease | Credit

Message = ToBroker | ToClient | ToHost | ToWorker

_encoder = msgspec.msgpack.Encoder()


class _Decoders:
    """Each is made when it is used first: a process needs one or two, and each takes a while."""

    @cached_property
    def to_broker(self) -> msgspec.msgpack.Decoder[ToBroker]:
        return msgspec.msgpack.Decoder(ToBroker)

    @cached_property
    def to_client(self) -> msgspec.msgpack.Decoder[ToClient]:
        return msgspec.msgpack.Decoder(ToClient)

    @cached_property
    def to_host(self) -> msgspec.msgpack.Decoder[ToHost]:
        return msgspec.msgpack.Decoder(ToHost)

    @cached_property
    def to_worker(self) -> msgspec.msgpack.Decoder[ToWorker]:
        return msgspec.msgpack.Decoder(ToWorker)


_decoders = _Decoders()


def encode(message: Message) -> bytes:
    """Return the header frame of `message`."""
    return _encoder.encode(message)


def decode_at_broker(frame: bytes) -> ToBroker:
    """Return the message in a header frame that the broker received, or raise `ProtocolError`."""
    return _decode(_decoders.to_broker, frame)


def decode_at_client(frame: bytes) -> ToClient:
    """Return the message in a header frame that a client received, or raise `ProtocolError`."""
    return _decode(_decoders.to_client, frame)


def decode_at_host(frame: bytes) -> ToHost:
    """Return the message in a header frame that a host agent received, or raise `ProtocolError`."""
    return _decode(_decoders.to_host, frame)


def decode_at_worker(frame: bytes) -> ToWorker:
    """Return the message in a header frame that a worker received, or raise `ProtocolError`."""
    return _decode(_decoders.to_worker, frame)


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"not a message of ours ({len(frame)} bytes): {error}"
        raise ProtocolError(message) from error
