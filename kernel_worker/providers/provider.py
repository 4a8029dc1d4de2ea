"""What every provider does: the protocol between the agent and an engine.

A provider is looked at, it tells nothing by itself: `look` says of each host that it has how that
stands, now. So nothing depends on having heard everything, in order: an agent that was killed is
followed by one that looks, and knows its hosts again by their names.

    request    accepted: the host is PENDING until the engine has placed it. Of a name that is there
               already nothing happens.
    look       every host whose name has not been released, those of a former agent too.
               PENDING, RUNNING, or GONE, with the cause: it stays so until it is released.
    release    of a host that is there its end, after a grace or at once; of one that is GONE that
               nobody wants to hear of it any more. Of an unknown name nothing happens.
    close      lets go of the engine. Hosts stay.

Calls may take as long as the engine takes to answer; what the engine refuses is an `Error` of ours.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.model import HostResources


class HostSpec(msgspec.Struct, frozen=True):
    """A host that is to be had."""

    name: str
    """What it is called everywhere: by the engine, and by the broker."""
    cpus: int
    memory_mib: int = 0
    """What the engine is to reserve; 0: as the engine does by itself."""
    gpus: int = 0
    gpu_kind: str = ""
    """Such as `H200`; empty: nobody knows before it is there."""
    is_declared: bool = False
    """The devices are not looked for on the machine, but believed."""


class Phase(enum.Enum):
    """How a host stands with its engine."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"


class Cause(enum.Enum):
    """Why a host is GONE."""

    NONE = ""
    ENDED = "ended"
    """It was placed, and its process is no more."""
    LOST = "lost"
    """Its machine is no more, as far as the engine knows."""
    FAILED = "failed"
    """It could not be started."""
    UNSCHEDULABLE = "unschedulable"
    """No machine of the engine has what it asks for."""


class Sight(msgspec.Struct, frozen=True):
    """How one host stands with its engine."""

    spec: HostSpec
    phase: Phase
    cause: Cause = Cause.NONE
    detail: str = ""
    """For people: what the engine says."""
    node: str = ""
    """The engine's name of the machine."""
    devices: tuple[str, ...] = ()
    """The devices that it was given, by their indices on that machine."""


class Provider(Protocol):
    """One engine, as the agent sees it. Errors are those of `kernel_worker.errors`."""

    def shapes(self) -> tuple[HostResources, ...]:
        """Return what the engine's machines have, each kind once: no host can be larger."""

    def request(self, spec: HostSpec) -> None:
        """Have a host placed, when there is a place."""

    def look(self) -> Mapping[str, Sight]:
        """Return how each host stands, by name."""

    def release(self, name: str, grace_seconds: float) -> None:
        """Have a host end: what it runs may take `grace_seconds`; 0: it is killed."""

    def close(self) -> None:
        """Let go of the engine; hosts stay."""
