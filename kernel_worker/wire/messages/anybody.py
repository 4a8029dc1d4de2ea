"""What peers of every kind say to the broker, and it to them."""

from __future__ import annotations

from typing import Literal, dataclass_transform

import msgspec

from kernel_worker import model
from kernel_worker.model import (
    Digest,
    HostResources,
    Survivor,
    WorkerId,
)

PROTOCOL_MAJOR = model.PROTOCOL_MAJOR
PROTOCOL_MINOR = 0


@dataclass_transform(frozen_default=True)
class Tagged(msgspec.Struct, frozen=True, array_like=True):
    """What all messages are."""


class Hello(Tagged, tag="hello"):
    """The first message of a connection, and again after each reconnection."""

    role: Literal["client", "host", "worker", "link"]
    """`link`: of another machine, which speaks for all that are there (`PROTOCOL.md`)."""
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


class BulkWay(msgspec.Struct, frozen=True, array_like=True):
    """How the large frames of a link go: see `wire.bulk`."""

    port: int
    """Of the broker's machine; 0 where there is none."""
    session: bytes
    """Names this link there."""
    secret: bytes
    """Who knows it is that link, or the broker."""

    def __repr__(self) -> str:
        return f"BulkWay({self.port}, …)"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        """Show what `repr` does."""
        return [("port", self.port)]


class Welcome(Tagged, tag="welcome"):
    """The answer to `Hello`."""

    incarnation: str
    """Changes when the broker was restarted: whoever sees a new one sends everything again."""
    machine: str
    lease_seconds: float = 0.0
    """To a link: for how long it may be silent before its inputs are given to others …"""
    fence_seconds: float = 0.0
    """… and after how long without an answer it kills all that it has."""
    bulk: BulkWay | None = None
    """To a link: how large frames go."""


class Refused(Tagged, tag="refused"):
    """The answer to a `Hello` (or to anything before one) that cannot be served."""

    reason: str


class Bye(Tagged, tag="bye"):
    """The peer leaves on purpose; its attached calls are cancelled.

    Of a broker: somebody has stopped it. Who is a client starts no other one for what it waits for.
    """


class StoreObject(Tagged, tag="store_object"):
    """One frame follows: the bytes whose content address is `digest`."""

    digest: Digest
