"""Which input runs here: a worker sets it, a nested client and the output streams read it.

The value follows threads and tasks as context variables do. In a process that is no worker
(`worker_identity` unset) there is none.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.model import CallId, Digest, FunctionSpec, LeaseId, ParentInput, WorkerId

if TYPE_CHECKING:
    from collections.abc import Callable


class RunningInput(msgspec.Struct, frozen=True, gc=False):
    """One attempt of one input, as the worker that runs it knows it.

    A struct because one is made for each input: 0.14 µs instead of a dataclass's 1.3.
    """

    call: CallId
    index: int
    attempt: int
    worker: WorkerId
    lease: LeaseId
    table: Digest
    """The object that resolves the functions which this tree of calls refers to."""
    directory: str = ""
    by_line: bool = False
    """It may have come by the line of its call, as one of many calls of the user's."""

    @property
    def shown_call(self) -> str:
        """The id of the call that the user made."""
        return f"{self.call}.{self.index}" if self.by_line and self.index else self.call

    def as_parent(self) -> ParentInput:
        """Return the form in which a nested call names this attempt."""
        return ParentInput(self.call, self.index, self.attempt, self.worker, self.lease)


class RunningLease(msgspec.Struct):
    """A lease of quick inputs, which says which of them runs where somebody asks.

    To say it for each of them costs more than to run it. So what takes a copy of the context and
    outlives its input counts as part of the one that runs of the lease then.
    """

    last: RunningInput
    """The one that was asked for last."""
    slots: Any
    """The worker's page (`wire.page`) …"""
    position: int
    """… and where on it the index of the input stands."""
    ended: int = -1
    """The last one that ran; below 0: one runs."""

    def now(self) -> RunningInput:
        """Return the input that runs, or ran last."""
        last, index = self.last, self.slots[self.position] if self.ended < 0 else self.ended
        if last.index != index:
            self.last = last = msgspec.structs.replace(last, index=index)
        return last


current_input: ContextVar[RunningInput | RunningLease | None] = ContextVar(
    "current_input", default=None
)
"""What runs in this thread or task; see `running_here`."""


traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""The span (W3C) below which what runs in this thread or task belongs; empty: nobody traces."""


class WorkerIdentity(msgspec.Struct, eq=False):
    """What a worker process tells a nested client that is made in it."""

    worker: WorkerId
    connection_file: str
    objects: dict[Digest, bytes]
    """Objects that reached this worker and that a nested client may read (tables)."""
    load_function: Callable[[bytes, bytes], Any] | None = None
    """Makes a function of a code object and a snapshot: what a reference runs `.local`."""
    entering: FunctionSpec | None = None
    """The instance whose `enter` hooks run now, before the first input."""
    running: Callable[[], RunningInput | None] | None = None
    """Returns the input that the worker is at, for threads that inherit no context."""


worker_identity: WorkerIdentity | None = None
"""Set once, by the worker's main module."""
seals = False
"""The code of this process, or an input of it, came sealed: what it calls from then on is too."""


def named(running: RunningInput | RunningLease | None) -> RunningInput | None:
    """Return the very input that `running` is."""
    return running.now() if isinstance(running, RunningLease) else running


def running_here() -> RunningInput | None:
    """Return the input that runs in this thread or task; None: it has inherited none."""
    return named(current_input.get())


def running_input() -> RunningInput | None:
    """Return the input that runs here: that of this thread or task, else the worker's.

    Threads do not inherit context variables, and a worker is at one input at a time.
    """
    running = running_here()
    if running is None and worker_identity is not None and worker_identity.running is not None:
        return worker_identity.running()
    return running
