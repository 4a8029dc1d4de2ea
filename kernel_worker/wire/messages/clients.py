"""What clients and the broker say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

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
    WorkerId,
)
from kernel_worker.wire.messages.anybody import Tagged


class Define(Tagged, tag="define"):
    """A function version with its options. Its objects were sent before."""

    spec: FunctionSpec
    derived: bool = False
    """Made from a class that was defined elsewhere: settings that were changed stay."""
    table: Digest = Digest("")
    """Of an instance: resolves the functions that its hooks call."""
    requires: tuple[Digest, ...] = ()
    """All objects that the table's functions need."""


class Submit(Tagged, tag="submit"):
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


class AddInputs(Tagged, tag="add_inputs"):
    """One more batch (frames follow), positions `start` to `start + count`."""

    call: CallId
    start: int
    count: int


class CloseInputs(Tagged, tag="close_inputs"):
    """No more inputs follow; there are `total`."""

    call: CallId
    total: int


class CancelCall(Tagged, tag="cancel_call"):
    """The user asks that the call (and its children) end; answered by `Failure`s."""

    call: CallId
    terminate: bool = False
    """Kill the workers that run it instead of asking them."""
    reached: int = -1
    """Of a call with a line: the input that the client waits for."""


class PauseCall(Tagged, tag="pause_call"):
    """The user asks that no further input of the call start (or that it go on)."""

    call: CallId
    paused: bool = True


class AttachCall(Tagged, tag="attach_call"):
    """Tell me the outcomes of this spawned call, those known and those to come."""

    call: CallId
    items: int = 0
    """Not 0: and what its generator gives, from the first item on, behind a `Replaying` with this
    number. The last `AttachCall` decides."""


class DropObjects(Tagged, tag="drop_objects"):
    """The client will not name these again without sending them again."""

    digests: tuple[Digest, ...]


class ConfigurePool(Tagged, tag="configure_pool"):
    """Change what is given; answered by `Reply` with a `PoolSettings`."""

    request: int
    pool: PoolId
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_seconds: float | None = None


class Provide(Tagged, tag="provide"):
    """A provider's agent: it could bring hosts such as these; answered by `Reply` with a `Demand`.

    An offer holds for 150 s: it is said again and again.
    """

    request: int
    shapes: tuple[HostResources, ...]
    note: str = ""
    """How that stands, for people."""


class Deploy(Tagged, tag="deploy"):
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


class Ask(Tagged, tag="ask"):
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
        "door",
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
    elsewhere; `keys` -> how many connections end because their keys are not listed any more; `door`
    -> where those with keys get in: where that is nowhere yet, at a socket beside the local one."""
    subject: str = ""
    filter: CallFilter | None = None
    after: int = 0


class Blocked(Tagged, tag="blocked"):
    """The attempt waits in our API for `calls`: its worker's slot is free until one moves."""

    parent: ParentInput
    calls: tuple[CallId, ...]
    """`model.NO_CALL` among them: not for a call alone, or for none."""
    halts: bool = False
    """Nothing else in the worker can run meanwhile: it waits on the thread of the event loop."""


class Resumed(Tagged, tag="resumed"):
    """The attempt runs on (also when the wait was given up: a timeout, an interrupt)."""

    parent: ParentInput


class ConsoleLine(Tagged, tag="console_line"):
    """What was typed into the console that this client has taken."""

    worker: WorkerId
    text: str


class ConsoleRefused(Tagged, tag="console_refused"):
    """Nobody can type into the console that was offered: the input goes on."""

    worker: WorkerId
    reason: str


class Credit(Tagged, tag="credit"):
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


class Accepted(Tagged, tag="accepted"):
    """The spawned call is on disk."""

    call: CallId


class CancelConfirmed(Tagged, tag="cancel_confirmed"):
    """The cancellation of the spawned call is on disk, or no such call is open."""

    call: CallId


class Rejected(Tagged, tag="rejected"):
    """The call cannot be; `error` is a class name of `kernel_worker.errors`."""

    call: CallId
    error: str
    message: str


class Results(Tagged, tag="results"):
    """Outcomes of `[start, start + count)`: frames follow, a batch whose first value is `start`.

    Where frames hold more than that (`first` < `start`), `first` is the index of their first value.
    """

    call: CallId
    start: int
    count: int
    first: int


class Failure(Tagged, tag="failure"):
    """The input at `index` ended otherwise. FAILED and INIT_FAILED bring the exception's frame."""

    call: CallId
    index: int
    count: int
    """As many neighbours from `index` on ended the same way (CANCELLED only; else 1)."""
    outcome: Outcome
    attempt: int
    message: str = ""


class Replaying(Tagged, tag="replaying"):
    """What follows about the call belongs to the `AttachCall` with that number."""

    call: CallId
    number: int


class Items(Tagged, tag="items"):
    """The generator gave its items `[start, start + count)`: frames follow, a batch of these.

    None follow where they have gone by a line.
    """

    call: CallId
    index: int
    start: int
    count: int


class CallProgress(Tagged, tag="call_progress"):
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


MOST_INPUTS = 10_000_000
"""One message brings no more than this."""
SHOWN_LINES = 10_000
SHOWN_BYTES = 32 * 1024 * 1024
"""A client shows no more of a call than this, and the broker passes no more on."""


class Output(Tagged, tag="output"):
    """Worker -> broker -> client: one frame follows, what the input wrote.

    UTF-8 text; of the stream "display" a `display.Display`.
    """

    call: CallId
    index: int
    stream: Literal["stdout", "stderr", "display", "build"]
    """"build": from what builds the image that the input waits for."""
    worker: WorkerId
    withheld: int = 0
    """Broker -> client: so many lines were written here that are not passed on; no text."""
    lines: int = -1
    """How many lines a text has that is sealed; -1: it can be counted."""


class ConsoleOffered(Tagged, tag="console_offered"):
    """Worker -> broker (-> client, for a breakpoint): an input waits for somebody to look at it.

    What the client hears names the call that it made, whichever input below it waits.
    """

    call: CallId
    index: int
    kind: Literal["breakpoint", "failure"]
    worker: WorkerId
    keep_seconds: float = 0.0
    """How long the frames of a failure are kept."""


class ConsoleSaid(Tagged, tag="console_said"):
    """Worker -> broker -> client: one frame follows, what the console shows; then it waits."""

    worker: WorkerId


class ConsoleClosed(Tagged, tag="console_closed"):
    """Worker -> broker -> client: the input goes on, or its frames are gone."""

    worker: WorkerId


class Reply(Tagged, tag="reply"):
    """The answer to `Ask` and `ConfigurePool`; `body` is msgpack, or an error if `error` is set."""

    request: int
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str = ""
    """A class name of `kernel_worker.errors`; then `body` is the message, a string."""
