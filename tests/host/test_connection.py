"""The agent's connection: `Hello` first, and the end of the other side is seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.host.connection import Connection
from kernel_worker.model import HostId
from kernel_worker.wire import messages
from tests.waiting import wait_until

HELLO = messages.Hello("host", "ho-1")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


def listening(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(address)
    return router


def heard(router: zmq.Socket[bytes]) -> messages.ToBroker:
    assert router.poll(10_000)
    routing, header = router.recv_multipart()
    assert routing == b"ho-1"
    return messages.decode_at_broker(header)


def test_each_broker_hears_hello_first_and_then_what_came_behind_it(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    address = f"ipc://{tmp_path}/b"
    connection = Connection(HostId("ho-1"), address)
    assert connection.sources() == []
    assert connection.receive() is None
    assert not connection.is_broken
    connection.tell(messages.Bye())  # nobody is dialled
    for _ in range(2):
        connection.dial(HELLO)
        connection.tell(messages.Bye())
        router = listening(context, address)
        assert heard(router) == HELLO
        assert heard(router) == messages.Bye()
        assert not connection.is_broken
        router.send_multipart([b"ho-1", b"the last word"])
        assert zmq.zmq_poll([(connection.sources()[0], zmq.POLLIN)], 10_000)
        router.close()
        wait_until(lambda: connection.is_broken)
        assert connection.receive() == [b"the last word"]
        assert connection.receive() is None
    connection.close()
    assert connection.sources() == []
