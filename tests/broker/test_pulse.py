"""When the broker was heard of last, by a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.broker.pulse import Pulse
from kernel_worker.keys import Keys
from tests.waiting import wait_until

Socket = zmq.Socket[bytes]


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.term()


def server(context: zmq.Context[Socket], keys: Keys, port: int = 0) -> Socket:
    """Return a socket that only answers those who know its key."""
    made = context.socket(zmq.ROUTER)
    made.curve_server = True
    made.curve_secretkey = keys.server().secret.encode()
    made.bind(f"tcp://127.0.0.1:{port}")
    return made


def test_what_counts_is_when_was_asked_what_is_answered(
    tmp_path: Path, context: zmq.Context[Socket]
) -> None:
    keys = Keys(tmp_path)
    router = server(context, keys)
    address = router.getsockopt_string(zmq.LAST_ENDPOINT)
    pulse = Pulse(context, keys.invite("box", address, "host"))
    begun = pulse.answered_at

    def arrives() -> bool:
        pulse.note_changes()
        pulse.ask(b"word")
        return bool(router.poll(50))

    wait_until(arrives, what="it is asked")
    pulse.answered()
    first = pulse.answered_at
    assert begun < first < time.monotonic()
    pulse.answered()
    assert pulse.answered_at == first, "nobody has asked since"

    pulse.ask(b"word")
    asked = time.monotonic()
    pulse.ask(b"word")
    pulse.answered()
    assert first < pulse.answered_at <= asked, "the first of two questions"

    second = pulse.answered_at
    pulse.ask(b"word")
    router.close(linger=0)
    wait_until(lambda: bool(pulse.monitor.poll(50)), what="it is cut")
    router = server(context, keys, int(address.rpartition(":")[2]))
    pulse.redial()
    pulse.answered()
    assert pulse.answered_at == second, "what was asked on the last connection is lost"
    wait_until(arrives, what="it is asked again")
    pulse.answered()
    assert pulse.answered_at > second
    pulse.close()
    router.close(linger=0)
