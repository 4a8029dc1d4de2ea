"""The socket never blocks, never reorders and never drops in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.broker import sockets as sockets_module
from kernel_worker.broker.sockets import Sockets

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
