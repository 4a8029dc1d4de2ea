"""A worker's connection to the broker: which broker said what it received."""

from __future__ import annotations

from pathlib import Path

import zmq

from kernel_worker.wire import messages
from kernel_worker.worker.channel import Channel


def test_what_was_received_before_another_broker_was_dialled_is_known_as_such(
    tmp_path: Path,
) -> None:
    """The main thread may have a lease in hand while the control thread dials anew."""
    address = f"ipc://{tmp_path}/b"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        router.linger = 0
        router.bind(address)
        channel = Channel(address, "ta-1")
        hello = messages.Hello("worker", "ta-1", pid=1, machine="m")
        channel.send(hello)
        routing, _ = router.recv_multipart()
        router.send_multipart([routing, b"old"])
        assert channel.receive() == [b"old"]
        channel.acquire()
        channel.redial_locked(hello, 2)
        channel.release()
        assert channel.heard == 0
        routing, _ = router.recv_multipart()
        router.send_multipart([routing, b"new"])
        assert channel.receive() == [b"new"]
        assert channel.heard == 2
        channel.close()
