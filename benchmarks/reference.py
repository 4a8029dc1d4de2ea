"""The yardstick: a bare round trip through three processes over ZMQ, with a Poller in each.

Client, broker and worker do nothing but pass eight bytes on. It is measured between the blocks of
every system, in the same seconds, because a machine's speed drifts by more than the systems
differ; a latency is therefore quoted as a multiple of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import zmq

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

PAYLOAD = b"12345678"


class Reference:
    """The client of the three; the other two are its children and end with their stdin."""

    def __init__(self, directory: Path) -> None:
        """Start broker and worker on a socket in `directory` (a short path)."""
        address = f"ipc://{directory}/reference.sock"
        self._children = [self._start(role, address) for role in ("broker", "worker")]
        self._context = zmq.Context()
        self._socket = _dealer(self._context, b"client", address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._wait_until_it_runs()
        self.measure(100)

    def _wait_until_it_runs(self) -> None:
        """Send until an answer comes: the broker drops what comes before the worker has dialled."""
        for _ in range(1_000):
            self._socket.send(PAYLOAD)
            if self._poller.poll(20):
                break
        while self._poller.poll(50):
            self._socket.recv()

    @staticmethod
    def _start(role: str, address: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.reference", role, address]
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def pids(self) -> set[int]:
        """The processes that belong to the yardstick."""
        return {child.pid for child in self._children}

    def measure(self, count: int) -> list[float]:
        """Return the seconds of each of `count` round trips."""
        durations = []
        for _ in range(count):
            begun = time.perf_counter()
            self._socket.send(PAYLOAD)
            if not self._poller.poll(10_000):
                raise TimeoutError("the reference round trip got no answer within 10 s")
            self._socket.recv()
            durations.append(time.perf_counter() - begun)
        return durations

    def close(self) -> None:
        """End broker and worker."""
        self._context.destroy(linger=0)
        for child in self._children:
            if child.stdin:
                child.stdin.close()
            child.wait(timeout=10)

    def __enter__(self) -> Self:
        """Return itself: `close` is called on leaving."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _dealer(
    context: zmq.Context[zmq.Socket[bytes]], name: bytes, address: str
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name)
    socket.connect(address)
    return socket


def _serve(role: str, address: str) -> None:
    """Pass messages on until standard input ends."""
    context = zmq.Context()
    poller = zmq.Poller()
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    if role == "broker":
        socket = context.socket(zmq.ROUTER)
        socket.bind(address)
        turn = _broker_turn
    else:
        socket = _dealer(context, b"worker", address)
        turn = _worker_turn
    poller.register(socket, zmq.POLLIN)
    while sys.stdin.fileno() not in dict(poller.poll()):
        turn(socket)
    context.destroy(linger=0)


def _broker_turn(socket: zmq.Socket[bytes]) -> None:
    sender, body = socket.recv_multipart()
    receiver = b"client" if sender == b"worker" else b"worker"
    socket.send_multipart([receiver, body])


def _worker_turn(socket: zmq.Socket[bytes]) -> None:
    socket.send(socket.recv())


if __name__ == "__main__":
    _serve(*sys.argv[1:3])
