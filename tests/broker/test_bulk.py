"""Blobs over real connections: cut, by strangers, by who has been sent away."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker.broker import bulk as lines
from kernel_worker.broker.bulk import DOWN, UP, Dialler, Exchange, Listener, News, place_of
from kernel_worker.errors import ProtocolError
from kernel_worker.wire import bulk
from tests.relay import Relay
from tests.waiting import PATIENCE, wait_until

SESSION, SECRET = bytes(16), bytes(range(32))
BIG = os.urandom(1 << 20) * 8


class Ends:
    """The exchange that is dialled, and the one that dials."""

    def __init__(self, port: int, listener: Listener) -> None:
        self.near, self.far = Exchange(SESSION, SECRET), Exchange(SESSION, SECRET)
        self._news: dict[Exchange, list[News]] = {self.near: [], self.far: []}
        listener.add(self.near)
        self.dials(port)

    def dials(self, port: int) -> None:
        Dialler(self.far, ("127.0.0.1", port))

    def hears(self, exchange: Exchange, news: News) -> None:
        """Wait for news, and what came before it."""
        heard = self._news[exchange]
        while news not in heard:
            assert select.select([exchange.fileno()], [], [], 20 * PATIENCE)[0], heard
            heard += exchange.news()
        del heard[: heard.index(news) + 1]

    def close(self) -> None:
        self.far.close()
        self.near.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener("tcp://127.0.0.1:0", tmp_path / "bulk.sock")
    yield made
    made.close()


@pytest.fixture
def relay(listener: Listener) -> Iterator[Relay]:
    with Relay(f"tcp://127.0.0.1:{listener.port}") as made:
        yield made


@pytest.fixture
def ends(listener: Listener, relay: Relay) -> Iterator[Ends]:
    made = Ends(place_of(relay.address)[1], listener)
    for each in (made.near, made.far):
        made.hears(each, UP)
    yield made
    made.close()


def test_blobs_go_both_ways_and_nothing_of_them_shows(ends: Ends, relay: Relay) -> None:
    ends.near.send(1, BIG)
    ends.far.send(1, BIG[::-1])
    ends.hears(ends.near, 1)
    ends.hears(ends.far, 1)
    assert ends.far.received(1) == BIG
    assert ends.near.received(1) == BIG[::-1]
    assert not any(BIG[::-1][:64] in said for said in relay.said)
    ends.far.let_go(1)
    ends.near.send(2, b"once more")
    ends.hears(ends.near, 2)
    assert bytes(ends.far.received(2)) == b"once more"


def test_a_blob_goes_on_where_it_was_cut(ends: Ends, relay: Relay) -> None:
    for blob in range(1, 4):
        before = relay.passed_bytes
        ends.near.send(blob, BIG)
        filled = ends.far._receiving._filled
        wait_until(lambda: filled.get(blob, 0) > len(BIG) // 2, what="half of it is there")  # noqa: B023
        relay.cut()
        ends.hears(ends.near, blob)
        assert ends.far.received(blob) == BIG
        passed = relay.passed_bytes - before
        assert passed < 1.75 * len(BIG), "it did not begin anew"


def test_what_was_dropped_does_not_come(ends: Ends, relay: Relay) -> None:
    relay.close()
    ends.hears(ends.near, DOWN)
    ends.near.send(1, BIG)
    ends.near.send(2, BIG)
    ends.near.drop(1)
    relay.open()
    ends.hears(ends.near, 2)
    with pytest.raises(ProtocolError, match="is not here"):
        ends.far.received(1)


def test_what_is_tampered_with_ends_the_connection_and_comes_by_the_next(
    ends: Ends, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", lines.__name__)
    relay.inject(bytes(16) + bytes(100))
    ends.hears(ends.near, DOWN)
    ends.hears(ends.near, UP)
    ends.near.send(1, BIG)
    ends.hears(ends.near, 1)
    assert "a record of 0 bytes" in caplog.text


def says(said: bytes, port: int) -> None:
    """Be a stranger, until hung up on."""
    place = ("127.0.0.1", port)
    with (
        contextlib.suppress(ConnectionResetError),
        socket.create_connection(place, 20 * PATIENCE) as wire,
    ):
        wire.sendall(said)
        while wire.recv(1 << 16):
            pass


def test_who_proves_nothing_is_refused_and_cuts_nobody_off(
    ends: Ends, listener: Listener, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = bytes(relay.said[0])
    greeting = bulk.greeting(SESSION, bytes(32))
    for said, why in (
        (b"GET / HTTP/1.1\r\n" + bytes(100), "no greeting"),
        (bulk.greeting(b"x" * 16, bytes(32)), "no link has that session"),
        (greeting + bytes(4) + bytes(17), "a record of 0 bytes"),
        (greeting + (16).to_bytes(4, "little") + bytes(17 + 16), "changed on its way"),
        (recorded, "changed on its way"),
    ):
        says(said, listener.port)
        wait_until(lambda: why in caplog.text, what=why)  # noqa: B023
        caplog.clear()
    ends.near.send(1, BIG)
    ends.hears(ends.near, 1)


def test_who_proves_nothing_writes_nowhere(
    ends: Ends, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not open is written all the same: but not where a blob is coming."""
    size = bulk.CHUNK_BYTES
    ends.near._receiving.begin(1, size)
    head = bulk.Seal(SECRET, bytes(64), up=True).seal(bulk.DATA, 1, 0, bytes(size))[0]
    forged = head + os.urandom(size + bulk.TAG_BYTES)
    says(bulk.greeting(SESSION, bytes(32)) + forged, listener.port)
    wait_until(lambda: "changed on its way" in caplog.text, what="it is refused")
    assert not any(ends.near._receiving._rooms[1])
    assert ends.near._receiving._filled == {1: 0}


def test_many_who_prove_nothing_are_few(
    ends: Ends, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    place = ("127.0.0.1", listener.port)
    held = [socket.create_connection(place) for _ in range(lines.MOST_UNPROVED + 3)]
    wait_until(lambda: caplog.text.count("too many prove nothing") == 3, what="they are refused")
    for each in held:
        each.close()
    ends.near.send(1, BIG)
    ends.hears(ends.near, 1)


def test_who_was_sent_away_does_not_come_back(
    ends: Ends, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.remove(ends.near)
    ends.near.close()
    ends.near.close()
    ends.hears(ends.far, DOWN)
    wait_until(lambda: "no link has that session" in caplog.text, what="it is refused")


def test_a_port_that_cannot_be_reached_is_told_once(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    port = listener.port
    listener.close()
    exchange = Exchange(SESSION, SECRET)
    Dialler(exchange, ("127.0.0.1", port))
    wait_until(lambda: "have firewalls let it through" in caplog.text, what="it is told")
    exchange.close()
    assert exchange.is_closed
    assert caplog.text.count("firewalls") == 1


def test_who_comes_from_this_machine_comes_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "bulk.sock"
    path.touch()  # of a broker that was killed
    made = Listener("ipc:///nowhere/door.sock", path)
    assert made.port == 0
    near, far = Exchange(SESSION, SECRET), Exchange(SESSION, SECRET)
    made.add(near)
    Dialler(far, str(path))
    for each in (near, far):
        wait_until(lambda: UP in each.news(), what="it is up")  # noqa: B023
    far.send(1, BIG)
    wait_until(lambda: 1 in far.news(), what="it is there")
    assert near.received(1) == BIG
    for end in (near, far, made):
        end.close()
    assert not path.exists()


def test_a_socket_that_is_not_there_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange(SESSION, SECRET)
    Dialler(exchange, str(tmp_path / "bulk.sock"))
    wait_until(lambda: "the broker's socket for them" in caplog.text, what="it is told")
    exchange.close()


def test_the_port_is_the_next_one_where_that_is_free(listener: Listener, tmp_path: Path) -> None:
    other = Listener(f"tcp://127.0.0.1:{listener.port - 1}", tmp_path / "other.sock")
    other.close()
    assert other.port != listener.port

    def is_next() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as door:
            port: int = door.getsockname()[1]
            made = Listener(f"tcp://127.0.0.1:{port}", tmp_path / "next.sock")
            made.close()
            return made.port == port + 1

    wait_until(is_next, what="nobody has the next one")
