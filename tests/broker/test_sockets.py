"""The socket never blocks, never reorders and never drops in silence."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.broker import sockets as sockets_module
from kernel_worker.broker.sockets import Sockets
from kernel_worker.rendezvous import journal_path
from kernel_worker.wire import messages
from tests.broker import intruder
from tests.broker.speaking import Client, Host, RunningBroker, Speaker

Losses = list[tuple[bytes, str]]
Dial = Callable[[], "zmq.Socket[bytes]"]
LIMIT_MS = 20_000


@pytest.fixture
def losses() -> Losses:
    return []


@pytest.fixture
def address(short_dir: Path) -> str:
    return f"ipc://{short_dir}/s"


@pytest.fixture
def sockets(address: str, losses: Losses) -> Iterator[Sockets]:
    made = Sockets(address, lambda peer, why: losses.append((peer, why)))
    yield made
    made.close()


@pytest.fixture
def dial(address: str, sockets: Sockets) -> Iterator[Dial]:
    """Give a function that returns a connected peer, `me`, which the broker has heard of."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealers: list[zmq.Socket[bytes]] = []

    def connect() -> zmq.Socket[bytes]:
        dealer = context.socket(zmq.DEALER)
        dealers.append(dealer)
        dealer.routing_id = b"me"
        dealer.rcvhwm = 10
        dealer.connect(address)
        dealer.send(b"hello")
        assert sockets.router.poll(LIMIT_MS)
        assert sockets.receive() == [b"me", b"hello"]
        assert sockets.receive() is None
        return dealer

    yield connect
    for dealer in dealers:
        dealer.close(linger=0)
    context.term()


def test_a_slow_reader_gets_everything_in_order(
    dial: Dial, sockets: Sockets, losses: Losses
) -> None:
    dealer = dial()
    count = 20_000
    for number in range(count):
        sockets.send(b"me", b"%d" % number, [bytes(200)])
    assert sockets.is_congested
    got = 0
    while got < count:
        if not dealer.poll(0):
            sockets.retry()
            assert dealer.poll(LIMIT_MS)
        assert dealer.recv_multipart()[0] == b"%d" % got
        got += 1
    assert not sockets.is_congested
    assert losses == []


def test_large_frames_pass_unchanged(dial: Dial, sockets: Sockets) -> None:
    dealer = dial()
    large = bytes(range(256)) * 40_000
    dealer.send_multipart([b"head", large, b"tail"])
    assert sockets.router.poll(LIMIT_MS)
    parts = sockets.receive()
    assert parts is not None
    sockets.send(b"me", b"back", parts[2:])
    assert dealer.poll(LIMIT_MS)
    assert dealer.recv_multipart() == [b"back", large, b"tail"]


def test_what_was_said_to_somebody_who_was_away_waits(
    dial: Dial, sockets: Sockets, losses: Losses
) -> None:
    sockets.send(b"me", b"one")
    sockets.send(b"me", b"two")
    assert losses == [(b"me", "gone")]
    assert not sockets.is_congested
    dealer = dial()
    sockets.greet(b"me", b"welcome")
    sockets.send(b"me", b"three")
    heard: list[bytes] = []
    while len(heard) < 4:
        assert dealer.poll(LIMIT_MS)
        heard += dealer.recv_multipart()
    assert heard == [b"welcome", b"one", b"two", b"three"]


def test_too_much_for_somebody_who_is_away(
    sockets: Sockets, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "QUEUE_LIMIT_BYTES", 1000)
    for _ in range(3):
        sockets.send(b"me", bytes(400))
    assert losses == [(b"me", "gone"), (b"me", "full")]
    sockets.forget(b"me")


def test_a_reconnection_takes_the_id_over(dial: Dial, sockets: Sockets) -> None:
    dial()
    second = dial()
    sockets.send(b"me", b"for the second")
    assert second.poll(LIMIT_MS)
    assert second.recv() == b"for the second"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_refused_by_the_directories_and_by_the_socket(
    short_dir: Path,
    running: Callable[..., RunningBroker],
    speakers: list[Speaker],
    capfd: pytest.CaptureFixture[str],
) -> None:
    short_dir.chmod(0o711)  # so that nothing but our own modes keeps anybody out
    broker = running()
    client = Client(broker)
    speakers.append(client)
    client.define()
    client.submit([1], attached=False)
    client.hear(messages.Accepted)
    path = Path(broker.connection.address.removeprefix("ipc://"))
    journal = journal_path(broker.settings)
    private = [path, Path(broker.connection.path), path.parent / "lock", journal]
    private += [journal.with_name(name) for name in ("journal.db-wal", "journal.key")]
    private.append(Path(f"/proc/{broker.connection.pid}/environ"))
    assert all(each.exists() for each in private)
    assert {each.stat().st_mode & 0o077 for each in private[1:]} == {0}
    assert set(intruder.tries(private).values()) == {"PermissionError"}
    for directory in (path.parent, path.parent.parent):
        directory.chmod(0o711)
    path.chmod(0o777)
    assert intruder.tries([path]) == {"broker.sock": "b''"}, "not even a greeting"
    assert client.ask("status", "", messages.Status).clients == 1
    path.parent.chmod(0o700)
    path.parent.parent.chmod(0o700)
    log = capfd.readouterr().err
    expected = "a connection is refused: it is not of a process of user 0"
    assert [expected in line for line in log.splitlines() if "refused" in line] == [True]


def greeting(path: str, identity: bytes) -> socket.socket:
    """Return a connection that has said by hand what a DEALER says first (ZMTP 3.0)."""
    door = socket.socket(socket.AF_UNIX)
    door.settimeout(LIMIT_MS / 1000)
    door.connect(path)
    door.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY"
    for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", identity)):
        ready += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    door.sendall(bytes([4, len(ready)]) + ready)
    said = b""
    while b"READY" not in said:
        said += door.recv(256)
    return door


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_length_that_is_announced_costs_nothing(
    broker: RunningBroker, client: Client, host: Host
) -> None:
    path = broker.connection.address.removeprefix("ipc://")
    before = resident_bytes(broker.connection.pid)
    large = [greeting(path, bytes([65 + each])) for each in range(8)]
    for door in large:
        door.sendall(b"\x02" + struct.pack(">Q", 10 * 2**30) + b"the beginning")
    too_large = greeting(path, b"cl-huge")
    too_large.sendall(b"\x02" + struct.pack(">Q", 2**62) + b"the beginning")
    while too_large.recv(256):
        pass  # until it is cut
    client.define()
    client.submit([21])
    host.start_worker().work(lambda value: 2 * value)
    assert client.listen().values == [42], "others are served"
    assert resident_bytes(broker.connection.pid) - before < 64 * 2**20
    for door in (*large, too_large):
        door.close()
    assert client.ask("status", "", messages.Status).clients == 1
