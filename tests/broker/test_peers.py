"""Who may speak, and who is expected to."""

from __future__ import annotations

from kernel_worker.broker.peers import Client, Host, Peer, Peers
from kernel_worker.model import ClientId, Digest, HostId, HostResources, PoolId, WorkerId

HOST, WORKER = HostId("ho-1"), WorkerId("ta-1")


def made() -> Peers:
    peers = Peers()
    peers.add_client(Client(ClientId("cl-1"), b"cl-1"))
    peers.add_host(Host(HOST, b"ho-1", HostResources(1, 1)))
    peers.expect_worker(WORKER, HOST, PoolId("po-1"))
    return peers


def test_a_worker_may_speak_when_it_has_said_hello_and_has_no_object_then() -> None:
    peers = made()
    worker = peers.workers[WORKER]
    assert worker.routing not in peers.speaking
    worker.snapshot = Digest("of an earlier connection")
    peers.worker_spoke(worker)
    assert peers.speaking[b"ta-1"] is worker
    assert worker.is_connected
    assert not worker.snapshot


def test_who_is_removed_is_gone_from_everywhere() -> None:
    peers = made()
    assert peers.workers_of(HOST) == list(peers.workers.values())
    assert peers.workers_of(HostId("ho-2")) == []
    everybody: list[Peer] = [*peers.clients.values(), *peers.hosts.values()]
    everybody += peers.workers.values()
    for peer in everybody:
        peers.remove(peer)
        peers.remove(peer)
    assert [peers.speaking, peers.clients, peers.hosts, peers.workers] == [{}, {}, {}, {}]
