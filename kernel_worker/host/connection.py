"""The host agent's connection to its broker, and to the one that follows it.

Theory. On one machine a connection breaks only with one of its processes. So the end of the
connection is the broker's end, whatever ended it, and all that was said through it and not kept is
void: the next one is a connection of its own, on which `Hello` says how things stand. It waits in
the socket until there is a broker; what is said behind it comes in order.

Guarantees: what the broker had said before it died is heard before its end; `Hello` comes first.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import zmq

from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.model import HostId

_RETRY_MS = 20
_numbers = itertools.count()


class Connection:
    """The socket, and what tells of its end."""

    def __init__(self, host: HostId, address: str) -> None:
        """Dial nobody yet."""
        self._host = host
        self._address = address
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self.is_welcome = False
        """Whether a broker has answered."""

    def dial(self, hello: messages.Hello) -> None:
        """Dial the broker, or the one that will be there, and say `hello`."""
        self.hang_up()
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self._host.encode())
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _RETRY_MS)
        place = f"inproc://ends-{next(_numbers)}"
        socket.monitor(place, zmq.EVENT_DISCONNECTED)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.connect(place)
        socket.connect(self._address)
        self.tell(hello)

    def sources(self) -> list[Any]:
        """Return what to poll: when one of them is readable, `receive` and look at `is_broken`."""
        return [] if self._socket is None else [self._socket, self._monitor]

    def tell(self, message: messages.ToBroker, *frames: bytes) -> None:
        """Say something, now or as soon as there is a broker."""
        if self._socket is not None:
            self._socket.send_multipart([messages.encode(message), *frames])

    def receive(self) -> list[bytes] | None:
        """Return the frames of the next message, or None if there is none."""
        if self._socket is None or not self._socket.poll(0):
            return None
        return self._socket.recv_multipart()

    @property
    def is_broken(self) -> bool:
        """Whether the broker that was dialled is gone."""
        return self._monitor is not None and bool(self._monitor.poll(0))

    def hang_up(self) -> None:
        """Let go of the socket, and of what has not been sent."""
        self.is_welcome = False
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=0)
        self._socket = self._monitor = None

    def close(self) -> None:
        """Hang up for good."""
        self.hang_up()
        self._context.term()
