"""The door: who is let in, and what becomes of too many."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable

import pytest

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.far import Far
from tests.broker.far import LIMIT_SECONDS, Around, port, to
from tests.waiting import wait_until


def test_a_list_of_keys_that_cannot_be_read_revokes_nobody(
    around: Around, knock: Callable[..., Far], caplog: pytest.LogCaptureFixture
) -> None:
    """As where a flood, or who is on this machine, has taken all descriptors."""
    around.meets(knock(to(around.invitation), "cl-far"))
    stranger = around.keys.invite("another", around.doors.door)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        around.timers.run(around.now() + 20)
        with pytest.raises(ConnectionError, match="Too many open files"):
            around.doors.check_keys()
        assert around.doors._door.role_of(stranger.client.public) == ("client", "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert around.losses == []
    assert "whoever is connected stays so" in caplog.text
    assert "nobody is let in" in caplog.text


def test_a_door_that_was_flooded_is_closed_and_who_had_come_goes_on(
    around: Around, knock: Callable[..., Far]
) -> None:
    far = knock(to(around.invitation), "cl-far")
    around.meets(far)
    around.doors._door._most = 10
    place = "127.0.0.1", port(around.doors.door)
    flood = [socket.create_connection(place, LIMIT_SECONDS) for _ in range(10)]
    wait_until(lambda: around.turn() or "flood" in around.timers, what="it is too much")
    around.timers.run(around.now())
    for each in flood:
        with contextlib.suppress(ConnectionResetError):
            while each.recv(256):
                pass  # until it is cut
        each.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, LIMIT_SECONDS)
    around.doors.send(b"cl-far", b"meanwhile")
    with socket.create_server(place):
        around.timers.run(around.now() + 5)
        assert around.stopped == [], "another program has the port for now"
    around.timers.run(around.now() + 10)
    heard: list[list[bytes]] = []

    def is_back() -> bool:
        around.turn()
        heard.extend(filter(None, [far.wait(0.0)]))
        return len(heard) == 2

    wait_until(is_back, what="it is back")
    assert heard == [[b"welcome"], [b"meanwhile"]]


def test_a_flood_that_nobody_has_looked_at_does_not_keep_the_door_from_closing(
    around: Around,
) -> None:
    """A thousand connections may come and go within one turn of the loop."""
    place = "127.0.0.1", port(around.doors.door)
    for _ in range(1500):
        socket.create_connection(place, LIMIT_SECONDS).close()
    around.doors._door._let_in.add("of somebody whose key was revoked")
    assert around.doors.check_keys() == 0
    socket.create_connection(place, LIMIT_SECONDS).close()


def test_a_door_that_cannot_be_opened_again_ends_the_broker(
    around: Around, knock: Callable[..., Far]
) -> None:
    around.meets(knock(to(around.invitation), "cl-far"))
    around.keys.revoke("laptop")
    around.doors._door.address = "tcp://192.0.2.1:1"
    assert around.doors.check_keys() == 1
    assert around.doors.receive() is None
    assert "cannot be bound" in around.stopped[0]
