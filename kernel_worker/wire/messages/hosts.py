"""What the broker and the hosts' agents say to each other."""

from __future__ import annotations

from typing import Literal

from kernel_worker.model import (
    FunctionSpec,
    LeaseId,
    PoolId,
    WorkerId,
)
from kernel_worker.wire.messages.anybody import Tagged


class Draining(Tagged, tag="draining"):
    """Link -> broker: this machine is about to leave; what runs there may end, nothing begins."""


class StartWorker(Tagged, tag="start_worker"):
    """The objects `spec.objects` were sent before."""

    worker: WorkerId
    spec: FunctionSpec
    devices: tuple[int, ...] = ()


class StopWorker(Tagged, tag="stop_worker"):
    """End an idle worker; what has not ended after `grace_seconds` is killed."""

    worker: WorkerId
    grace_seconds: float = 5.0


class KillWorker(Tagged, tag="kill_worker"):
    """SIGKILL, now."""

    worker: WorkerId


class TakeBack(Tagged, tag="take_back"):
    """Ask for what the worker has not started of `lease`; the worker answers `Returned`."""

    worker: WorkerId
    lease: LeaseId


class Interrupt(Tagged, tag="interrupt"):
    """Raise InputCancellation in that very attempt; after `grace_seconds` it is killed."""

    worker: WorkerId
    lease: LeaseId
    index: int
    grace_seconds: float = 5.0


ConsoleWord = Literal["open", "line", "refused", "hangup", "release"]


class ConsoleInput(Tagged, tag="console_input"):
    """For the console in a worker: somebody has taken it, typed a line, will not, or has left.

    `release`: what it keeps of an input that failed is not wanted.
    """

    worker: WorkerId
    what: ConsoleWord
    text: str = ""


class AttachKernel(Tagged, tag="attach_kernel"):
    """Let the worker be a Jupyter kernel too; it answers the broker with `KernelAttached`."""

    worker: WorkerId


class RetirePool(Tagged, tag="retire_pool"):
    """No worker of this pool will be asked for soon: its template and its objects may go.

    What a later `StartWorker` names, of whatever pool, is sent again before it.
    """

    pool: PoolId


class KeepBroker(Tagged, tag="keep_broker"):
    """Start another broker when this one is killed (or do so no more): something has a schedule."""

    wanted: bool


class WorkerStarted(Tagged, tag="worker_started"):
    """The process exists (it says `Hello` itself when it is ready)."""

    worker: WorkerId
    pid: int
    start: str
    """`forked`, or `fresh: <why>`."""


SEALED_START = "a worker could not start; why is sealed"
"""Says a `StartFailed` of a function that came sealed, in the place of what the exception says."""


class StartFailed(Tagged, tag="start_failed"):
    """The template or the worker could not load the function: one frame, the exception."""

    worker: WorkerId
    message: str
    lack: str = ""
    """What the host has in the place of a package that the function needs: another one may do."""


class DevicesHeld(Tagged, tag="devices_held"):
    """All devices of the host that other brokers of that machine use, as far as is known there."""

    devices: tuple[int, ...]
    worker: WorkerId = WorkerId("")
    """One that is not started, as it was to have one of them."""


class StartDelayed(Tagged, tag="start_delayed"):
    """What the worker starts in is being built, and no time limit runs: one frame, what that says.

    UTF-8 text, whole lines, maybe none. It is sealed where the function came sealed.
    """

    worker: WorkerId


class WorkerExited(Tagged, tag="worker_exited"):
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
