"""One struct per message. `PROTOCOL.md` beside this file says who sends which, when.

A message on the wire is one header frame (msgpack of one of these structs, a tagged union) and
then the payload frames that it speaks of, which nobody but the two ends looks into.
Anything that does not decode raises `ProtocolError`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, TypeVar, dataclass_transform

import msgspec

from kernel_worker import model
from kernel_worker.errors import ProtocolError
from kernel_worker.model import (
    CallContext,
    CallId,
    DeployedFunction,
    Digest,
    FunctionSpec,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    StreamLimits,
    Survivor,
    WorkerId,
)

T = TypeVar("T")

PROTOCOL_MAJOR = model.PROTOCOL_MAJOR
PROTOCOL_MINOR = 0


@dataclass_transform(frozen_default=True)
class _Message(msgspec.Struct, frozen=True, array_like=True):
    """What all messages are."""


# ---- anybody -> broker, broker -> anybody ---------------------------------------------------


class Hello(_Message, tag="hello"):
    """The first message of a connection, and again after each reconnection."""

    role: Literal["client", "host", "worker"]
    peer: str
    """The peer's id; the same as its ZeroMQ routing id."""
    major: int = PROTOCOL_MAJOR
    minor: int = PROTOCOL_MINOR
    pid: int = 0
    machine: str = ""
    """The boot id of the peer's machine: pids mean something only where it is the broker's."""
    resources: HostResources | None = None
    """Hosts only."""
    worker: WorkerId = WorkerId("")
    """Of a client that is made in a worker: which one. It keeps nothing alive by being there."""
    survivors: tuple[Survivor, ...] = ()
    """Of a host that another broker knew: its workers, and what they hold."""
    number: int = 0
    """Of a worker: how many brokers it has outlived. What is sent to one that says less than its
    host has said is lost: it is about to dial anew."""


class Welcome(_Message, tag="welcome"):
    """The answer to `Hello`."""

    incarnation: str
    """Changes when the broker was restarted: whoever sees a new one sends everything again."""
    machine: str


class Refused(_Message, tag="refused"):
    """The answer to a `Hello` (or to anything before one) that cannot be served."""

    reason: str


class Bye(_Message, tag="bye"):
    """The peer leaves on purpose; its attached calls are cancelled.

    Of a broker: somebody has stopped it. Who is a client starts no other one for what it waits for.
    """


class StoreObject(_Message, tag="store_object"):
    """One frame follows: the bytes whose content address is `digest`."""

    digest: Digest


# ---- client -> broker -----------------------------------------------------------------------


class Define(_Message, tag="define"):
    """A function version with its options. Its objects were sent before."""

    spec: FunctionSpec
    derived: bool = False
    """Made from a class that was defined elsewhere: settings that were changed stay."""
    table: Digest = Digest("")
    """Of an instance: resolves the functions that its hooks call."""
    requires: tuple[Digest, ...] = ()
    """All objects that the table's functions need."""


class Submit(_Message, tag="submit"):
    """A new call, with its first batch of inputs (frames follow unless `count` is 0)."""

    call: CallId
    pool: PoolId
    attached: bool
    """Attached calls die with their client and are not journalled; spawned ones are durable."""
    count: int
    closed: bool
    """No more inputs follow."""
    snapshot: Digest = Digest("")
    """Captured globals and closure values."""
    table: Digest = Digest("")
    """Resolves the functions that this tree of calls refers to."""
    shared: Digest = Digest("")
    """Arguments that every input of the call shares (`kwargs=`)."""
    context: CallContext = CallContext()
    parent: ParentInput | None = None
    requires: tuple[Digest, ...] = ()
    """Further objects that calls nested in this one may name (the table's): kept as long as it."""
    pools: tuple[PoolId, ...] = ()
    """Further pools that calls nested in this one may name: their specs are kept as long as it."""
    streams: bool = False
    """The one input of the call gives items (`Items`) before its outcome: it runs a generator."""
    parts: tuple[int, ...] = ()
    """Not empty: the frames are those of several whole batches, and these are their counts.

    The call is closed then, and taken in as one: it is accepted when all of it is on disk.
    """
    line: str = ""
    """Where the client listens (a unix socket): the worker of the one input may be lent to it."""
    deaths: int = 0
    """How many workers have died under the one input, which came by a line before."""


class AddInputs(_Message, tag="add_inputs"):
    """One more batch (frames follow), positions `start` to `start + count`."""

    call: CallId
    start: int
    count: int


class CloseInputs(_Message, tag="close_inputs"):
    """No more inputs follow; there are `total`."""

    call: CallId
    total: int


class CancelCall(_Message, tag="cancel_call"):
    """The user asks that the call (and its children) end; answered by `Failure`s."""

    call: CallId
    terminate: bool = False
    """Kill the workers that run it instead of asking them."""
    reached: int = -1
    """Of a call with a line: the input that the client waits for."""


class PauseCall(_Message, tag="pause_call"):
    """The user asks that no further input of the call start (or that it go on)."""

    call: CallId
    paused: bool = True


class AttachCall(_Message, tag="attach_call"):
    """Tell me the outcomes of this spawned call, those known and those to come."""

    call: CallId
    items: int = 0
    """Not 0: and what its generator gives, from the first item on, behind a `Replaying` with this
    number. The last `AttachCall` decides."""


class DropObjects(_Message, tag="drop_objects"):
    """The client will not name these again without sending them again."""

    digests: tuple[Digest, ...]


class ConfigurePool(_Message, tag="configure_pool"):
    """Change what is given; answered by `Reply` with a `PoolSettings`."""

    request: int
    pool: PoolId
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_seconds: float | None = None


class Deploy(_Message, tag="deploy"):
    """Deploy an app; its objects were sent before. Answered by `Reply` with a `DeploymentInfo`."""

    request: int
    app: str
    functions: tuple[DeployedFunction, ...]
    tag: str = ""


class CallFilter(msgspec.Struct, frozen=True, array_like=True):
    """Which calls are asked for."""

    app: str = ""
    """Of this app alone; empty for all."""
    status: str = ""
    """With this `CallInfo.status` alone; empty for all whose results are still there."""
    limit: int = 100


class Ask(_Message, tag="ask"):
    """A question; answered by `Reply`."""

    request: int
    what: Literal[
        "pool_stats",
        "status",
        "object",
        "call",
        "calls",
        "graph",
        "events",
        "stop",
        "lookup",
        "deployments",
        "stop_app",
        "logs",
        "hooks",
        "attach",
        "console",
        "stop_worker",
        "keys",
    ]
    """`pool_stats` (subject: pool) -> PoolStats; `status` -> Status; `object` (subject: digest)
    -> one frame; `call` (subject: call) -> CallInfo, also of a spawned one that has ended;
    `calls` (those of `filter`) -> list[CallInfo], newest first; `graph`
    (subject: call) -> Graph, and frames; `events` (subject: call) -> EventPage, the one behind
    `after`, and frames; `stop` ends the broker; `lookup` (subject: a deployed
    function's key) -> DeployedFunction; `deployments` (subject: an app, for all its versions, or
    empty, for what is deployed now) -> list[DeploymentInfo], newest first; `stop_app`
    (subject: an app) ends its deployment -> DeploymentInfo; `logs` (subject: call) -> LogPage, the
    one behind `after`, and frames; `hooks` (subject: an instance's pool) -> the digest of the table
    by which its hooks find functions, or an empty one; `attach` (subject: a worker, or a call that
    runs) -> AttachedKernel, once the worker is a Jupyter kernel; `console` (subject: a worker, a
    call, or empty, for the last that failed) -> ConsoleInfo: who asks has that console;
    `stop_worker` (subject: a worker) ends it: what it runs is interrupted, and runs again
    elsewhere; `keys` -> how many connections end because their keys are not listed any more."""
    subject: str = ""
    filter: CallFilter | None = None
    after: int = 0


class Blocked(_Message, tag="blocked"):
    """The attempt waits in our API for `calls`: its worker's slot is free until one moves."""

    parent: ParentInput
    calls: tuple[CallId, ...]
    halts: bool = False
    """Nothing else in the worker can run meanwhile: it waits on the thread of the event loop."""


class Resumed(_Message, tag="resumed"):
    """The attempt runs on (also when the wait was given up: a timeout, an interrupt)."""

    parent: ParentInput


class ConsoleLine(_Message, tag="console_line"):
    """What was typed into the console that this client has taken."""

    worker: WorkerId
    text: str


class ConsoleRefused(_Message, tag="console_refused"):
    """Nobody can type into the console that was offered: the input goes on."""

    worker: WorkerId
    reason: str


class Credit(_Message, tag="credit"):
    """Client -> broker -> worker: so much of what the generator gave has been taken, in all.

    The broker itself says it of a spawned call's items once they are on disk.
    """

    call: CallId
    index: int
    items: int
    item_bytes: int
    """Of the frames of whole batches that were taken."""
    lease: LeaseId = LeaseId(0)
    """Set by the broker."""


# ---- broker -> client -----------------------------------------------------------------------


class Accepted(_Message, tag="accepted"):
    """The spawned call is on disk."""

    call: CallId


class CancelConfirmed(_Message, tag="cancel_confirmed"):
    """The cancellation of the spawned call is on disk, or no such call is open."""

    call: CallId


class Rejected(_Message, tag="rejected"):
    """The call cannot be; `error` is a class name of `kernel_worker.errors`."""

    call: CallId
    error: str
    message: str


class Results(_Message, tag="results"):
    """Outcomes of `[start, start + count)`: frames follow, a batch whose first value is `start`.

    Where frames hold more than that (`first` < `start`), `first` is the index of their first value.
    """

    call: CallId
    start: int
    count: int
    first: int


class Failure(_Message, tag="failure"):
    """The input at `index` ended otherwise. FAILED and INIT_FAILED bring the exception's frame."""

    call: CallId
    index: int
    count: int
    """As many neighbours from `index` on ended the same way (CANCELLED only; else 1)."""
    outcome: Outcome
    attempt: int
    message: str = ""


class Replaying(_Message, tag="replaying"):
    """What follows about the call belongs to the `AttachCall` with that number."""

    call: CallId
    number: int


class Items(_Message, tag="items"):
    """The generator gave its items `[start, start + count)`: frames follow, a batch of these."""

    call: CallId
    index: int
    start: int
    count: int


class CallProgress(_Message, tag="call_progress"):
    """How an open attached call stands; at most 10 a second, only when it changed.

    Of a spawned one those who listen hear once, and only if it waits: `waiting_for`.
    """

    call: CallId
    running: int
    retried: int
    workers: int
    waiting_for: str = ""
    """Why nothing runs, once it has waited for 2 s; empty where it does not wait."""
    started: tuple[tuple[int, int], ...] = ()
    """The ranges [start, stop) that workers hold now."""


SHOWN_LINES = 10_000
SHOWN_BYTES = 32 * 1024 * 1024
"""A client shows no more of a call than this, and the broker passes no more on."""


class Output(_Message, tag="output"):
    """Worker -> broker -> client: one frame follows, what the input wrote.

    UTF-8 text; of the stream "display" a `display.Display`.
    """

    call: CallId
    index: int
    stream: Literal["stdout", "stderr", "display"]
    worker: WorkerId
    withheld: int = 0
    """Broker -> client: so many lines were written here that are not passed on; no text."""
    lines: int = -1
    """How many lines a text has that is sealed; -1: it can be counted."""


class ConsoleOffered(_Message, tag="console_offered"):
    """Worker -> broker (-> client, for a breakpoint): an input waits for somebody to look at it.

    What the client hears names the call that it made, whichever input below it waits.
    """

    call: CallId
    index: int
    kind: Literal["breakpoint", "failure"]
    worker: WorkerId
    keep_seconds: float = 0.0
    """How long the frames of a failure are kept."""


class ConsoleSaid(_Message, tag="console_said"):
    """Worker -> broker -> client: one frame follows, what the console shows; then it waits."""

    worker: WorkerId


class ConsoleClosed(_Message, tag="console_closed"):
    """Worker -> broker -> client: the input goes on, or its frames are gone."""

    worker: WorkerId


class Reply(_Message, tag="reply"):
    """The answer to `Ask` and `ConfigurePool`; `body` is msgpack, or an error if `error` is set."""

    request: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str = ""
    """A class name of `kernel_worker.errors`; then `body` is the message, a string."""


class PoolStats(msgspec.Struct, frozen=True):
    """The body that answers `pool_stats`."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int
    settings: PoolSettings
    input_headroom: int = 0


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


# ---- broker <-> host ------------------------------------------------------------------------


class StartWorker(_Message, tag="start_worker"):
    """The objects `spec.objects` were sent before."""

    worker: WorkerId
    spec: FunctionSpec
    devices: tuple[int, ...] = ()


class StopWorker(_Message, tag="stop_worker"):
    """End an idle worker; what has not ended after `grace_seconds` is killed."""

    worker: WorkerId
    grace_seconds: float = 5.0


class KillWorker(_Message, tag="kill_worker"):
    """SIGKILL, now."""

    worker: WorkerId


class TakeBack(_Message, tag="take_back"):
    """Ask for what the worker has not started of `lease`; the worker answers `Returned`."""

    worker: WorkerId
    lease: LeaseId


class Interrupt(_Message, tag="interrupt"):
    """Raise InputCancellation in that very attempt; after `grace_seconds` it is killed."""

    worker: WorkerId
    lease: LeaseId
    index: int
    grace_seconds: float = 5.0


ConsoleWord = Literal["open", "line", "refused", "hangup", "release"]


class ConsoleInput(_Message, tag="console_input"):
    """For the console in a worker: somebody has taken it, typed a line, will not, or has left.

    `release`: what it keeps of an input that failed is not wanted.
    """

    worker: WorkerId
    what: ConsoleWord
    text: str = ""


class AttachKernel(_Message, tag="attach_kernel"):
    """Let the worker be a Jupyter kernel too; it answers the broker with `KernelAttached`."""

    worker: WorkerId


class RetirePool(_Message, tag="retire_pool"):
    """No worker of this pool will be asked for soon: its template and its objects may go.

    What a later `StartWorker` names, of whatever pool, is sent again before it.
    """

    pool: PoolId


class WorkerStarted(_Message, tag="worker_started"):
    """The process exists (it says `Hello` itself when it is ready)."""

    worker: WorkerId
    pid: int
    start: str
    """`forked`, or `fresh: <why>`."""


SEALED_START = "a worker could not start; why is sealed"
"""Says a `StartFailed` of a function that came sealed, in the place of what the exception says."""


class StartFailed(_Message, tag="start_failed"):
    """The template or the worker could not load the function: one frame, the exception."""

    worker: WorkerId
    message: str


class WorkerExited(_Message, tag="worker_exited"):
    """The process is reaped; its devices are free."""

    worker: WorkerId
    cause: str
    """For people: `killed by SIGSEGV`, `exit code 3`, `out of memory (SIGKILL)`, `stopped`."""
    lease: LeaseId = LeaseId(0)
    """From the progress page: the lease that it was in (0: none) …"""
    position: int = -1
    """… and the index of the input that had started and not ended (-1: none)."""
    timed_out: bool = False
    """It was killed because that input would not stop after its timeout."""
    over_memory_mib: int = 0
    """It was killed because it used this much, more than its limit; 0: it was not."""
    started: tuple[LeaseId, ...] = ()
    """Further leases whose input ran, in a worker that runs several at once."""


# ---- broker <-> worker ----------------------------------------------------------------------


class Lease(_Message, tag="lease"):
    """Run the inputs `[start, stop)` of `call`; frames follow: a batch whose first item is `first`.

    Objects that it names were sent before, on this connection, unless they were named in the
    same role by the last lease that named any.
    """

    lease: LeaseId
    call: CallId
    start: int
    stop: int
    attempt: int
    first: int
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    shared: Digest = Digest("")
    context: CallContext = CallContext()
    streams: StreamLimits | None = None
    """Set where the call streams; the lease is one input then."""
    group: int = 0
    """Not 0: one call of the function takes this and the other leases with this number …"""
    group_size: int = 0
    """… of which there are so many; they arrive in any order."""
    line: str = ""
    """Where the client listens to whom the worker is lent, from before this input ends on."""


class Done(_Message, tag="done"):
    """Worker -> broker: `[start, start + count)` succeeded; frames follow: the batch of values."""

    lease: LeaseId
    start: int
    count: int
    elapsed_seconds: float


class LineReached(_Message, tag="line_reached"):
    """Worker -> broker: the inputs before `index` that came by the lease's line have succeeded."""

    lease: LeaseId
    call: CallId
    index: int
    elapsed_seconds: float
    runs: bool
    """Whether the one at `index` runs."""


class LineEnded(_Message, tag="line_ended"):
    """Broker -> client: the line of the call is over; no input from `stop` on has run by it."""

    call: CallId
    stop: int


class Yielded(_Message, tag="yielded"):
    """Worker -> broker: the generator gave its items `[start, start + count)`; frames follow."""

    lease: LeaseId
    index: int
    start: int
    count: int


class Paused(_Message, tag="paused"):
    """Worker -> broker: the generator is as far ahead as it may be and waits for `Credit`."""

    lease: LeaseId
    call: CallId
    index: int
    taken: int
    """How many of its items the worker knows to have been taken."""


class InputEnded(_Message, tag="input_ended"):
    """Worker -> broker: one input ended otherwise; FAILED brings one frame: the exception."""

    lease: LeaseId
    index: int
    outcome: Outcome
    elapsed_seconds: float
    cancelled_below: bool = False
    """What it raised is that a call of its own was cancelled."""
    lingers: bool = False
    """It is answered, but runs on: its slot is free when `InputLeft` comes."""
    parks: bool = False
    """The worker keeps its frames, and takes nothing new until `InputLeft`."""


class InputLeft(_Message, tag="input_left"):
    """Worker -> broker: what ran on under a lease that was answered (`lingers`) has ended."""

    lease: LeaseId


class Returned(_Message, tag="returned"):
    """Worker -> broker: `[start, stop)` of the lease was not started and never will be.

    `start == stop`: nothing could be given back.
    """

    lease: LeaseId
    start: int
    stop: int


class KernelAttached(_Message, tag="kernel_attached"):
    """Worker -> broker: it is a Jupyter kernel whose connection file is `path`, or cannot be."""

    path: str
    error: str = ""
    """Why it is none."""


ToBroker = (
    Hello
    | Bye
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
    | Ask
    | Blocked
    | Resumed
    | Credit
    | WorkerStarted
    | StartFailed
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
