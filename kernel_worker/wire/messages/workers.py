"""What the broker and the workers say to each other."""

from __future__ import annotations

from kernel_worker.model import (
    CallContext,
    CallId,
    Digest,
    LeaseId,
    Outcome,
    StreamLimits,
)
from kernel_worker.wire.messages.anybody import Tagged


class Lease(Tagged, tag="lease"):
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


class Done(Tagged, tag="done"):
    """Worker -> broker: `[start, start + count)` succeeded; frames follow: the batch of values."""

    lease: LeaseId
    start: int
    count: int
    elapsed_seconds: float


class LineReached(Tagged, tag="line_reached"):
    """Worker -> broker: the inputs before `index` that came by the lease's line have succeeded."""

    lease: LeaseId
    call: CallId
    index: int
    elapsed_seconds: float
    runs: bool
    """Whether the one at `index` runs."""


class LineEnded(Tagged, tag="line_ended"):
    """Broker -> client: the line of the call is over; no input from `stop` on has run by it."""

    call: CallId
    stop: int


class Yielded(Tagged, tag="yielded"):
    """Worker -> broker: the generator gave its items `[start, start + count)`; frames follow.

    None follow where they have gone by the line of `call`.
    """

    lease: LeaseId
    index: int
    start: int
    count: int
    call: CallId = CallId("")
    """Its call, where they have gone by a line."""


class Paused(Tagged, tag="paused"):
    """Worker -> broker: the generator is as far ahead as it may be and waits for `Credit`."""

    lease: LeaseId
    call: CallId
    index: int
    taken: int
    """How many of its items the worker knows to have been taken."""


class InputEnded(Tagged, tag="input_ended"):
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


class InputLeft(Tagged, tag="input_left"):
    """Worker -> broker: what ran on under a lease that was answered (`lingers`) has ended."""

    lease: LeaseId


class Returned(Tagged, tag="returned"):
    """Worker -> broker: `[start, stop)` of the lease was not started and never will be.

    `start == stop`: nothing could be given back.
    """

    lease: LeaseId
    start: int
    stop: int


class KernelAttached(Tagged, tag="kernel_attached"):
    """Worker -> broker: it is a Jupyter kernel whose connection file is `path`, or cannot be."""

    path: str
    error: str = ""
    """Why it is none."""
