"""Who has said `Hello`: clients, host agents and workers, by the id that their socket carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel_worker.model import (
    ClientId,
    Digest,
    FunctionKey,
    HostId,
    HostResources,
    PoolId,
    WorkerId,
)

if TYPE_CHECKING:
    from kernel_worker.broker.watches import ProcessWatch


@dataclass(slots=True, eq=False)
class Client:
    """A connection of a process that makes calls."""

    id: ClientId
    routing: bytes
    pid: int = 0
    is_far: bool = False
    """Whether it came over TCP."""
    watch: ProcessWatch | None = None
    instances: dict[PoolId, FunctionKey] = field(default_factory=dict)
    """The pools that are defined in its name for instances of deployed classes, and their keys."""


@dataclass(slots=True, eq=False)
class Host:
    """A host agent."""

    id: HostId
    routing: bytes
    resources: HostResources
    pid: int = 0
    machine: str = ""
    is_far: bool = False
    """Whether it is another machine than the broker's."""
    watch: ProcessWatch | None = None
    sent: set[Digest] = field(default_factory=set)
    """The code and environment objects that it has."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker, from the moment it is asked for."""

    id: WorkerId
    routing: bytes
    host: HostId
    pool: PoolId
    number: int = 0
    """What its `Hello` says at least (see there): one that says less is about to dial anew."""
    is_connected: bool = False
    pid: int = 0
    start: str = ""
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    shared: Digest = Digest("")
    """The last object that was sent to it in each role."""


Peer = Client | Host | Worker


class Peers:
    """All peers that may speak, and the workers that have not spoken yet."""

    def __init__(self) -> None:
        self.speaking: dict[bytes, Peer] = {}
        """Those that have said `Hello`, by routing id."""
        self.clients: dict[ClientId, Client] = {}
        self.hosts: dict[HostId, Host] = {}
        self.workers: dict[WorkerId, Worker] = {}

    def add_client(self, client: Client) -> None:
        """A client said `Hello`."""
        self.clients[client.id] = client
        self.speaking[client.routing] = client

    def add_host(self, host: Host) -> None:
        """A host agent said `Hello`."""
        self.hosts[host.id] = host
        self.speaking[host.routing] = host

    def expect_worker(self, worker: WorkerId, host: HostId, pool: PoolId, number: int = 0) -> None:
        """A host is asked for this worker, or has it still."""
        self.workers[worker] = Worker(worker, worker.encode(), host, pool, number)

    def worker_spoke(self, worker: Worker) -> None:
        """A worker said `Hello`; it has no object that an earlier connection was sent."""
        worker.is_connected = True
        worker.snapshot = worker.table = worker.shared = Digest("")
        self.speaking[worker.routing] = worker

    def remove(self, peer: Peer) -> None:
        """The peer is gone for good."""
        self.speaking.pop(peer.routing, None)
        match peer:
            case Client():
                self.clients.pop(peer.id, None)
            case Host():
                self.hosts.pop(peer.id, None)
            case Worker():
                self.workers.pop(peer.id, None)
        if not isinstance(peer, Worker) and peer.watch is not None:
            peer.watch.close()
            peer.watch = None

    def workers_of(self, host: HostId) -> list[Worker]:
        """Return the workers of a host."""
        return [worker for worker in self.workers.values() if worker.host == host]
