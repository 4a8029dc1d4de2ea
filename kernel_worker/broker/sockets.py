"""The broker's local socket, a ROUTER that everybody dials, and queues for who cannot take more.

Theory: a send never blocks. What libzmq does not take now waits in a queue of that peer: for a
peer that reads slowly it is tried again after a moment, for one whose connection is gone when it
says `Hello` again. A reconnection under the same id takes the id over.

Guarantees: messages to one peer are delivered in the order of the sends; none is dropped silently:
a peer whose queue is over its limit is given up as a whole, loudly. A process of another user is
refused before it has said anything, also where it got past the modes of the directories. What says
that it is larger than this machine's memory ends its connection, and no memory is spent on what
has not come.
Not guaranteed: what libzmq had taken when a connection broke. On one machine a connection breaks
only with one of its processes; that is why there are no heartbeats on `ipc`, which would cut off a
process that was merely stopped for a while.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.wire import messages

Frame = bytes | memoryview

QUEUE_LIMIT_BYTES = 512 * 1024 * 1024
HIGH_WATER_MESSAGES = 5_000
LINGER_MS = 500
FEW_BYTES = 65_536
_MONITOR = "inproc://refusals"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Plain numbers: combining flags of an enumeration costs more than a system call.
NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

_log = logging.getLogger(__name__)


class _Queue:
    """What waits for one peer."""

    __slots__ = ("messages", "reachable", "size_bytes")

    def __init__(self) -> None:
        self.messages: deque[list[Frame]] = deque()
        self.size_bytes = 0
        self.reachable = True


class Sockets:
    """The ROUTER socket with its queues."""

    def __init__(self, address: str, on_unreachable: Callable[[bytes, str], None]) -> None:
        """Bind `address`. `on_unreachable(peer, why)` is called when a peer's connection is gone.

        Args:
            address: A ZeroMQ address, `ipc://…`.
            on_unreachable: `why` is `gone` or, when the queue is over its limit too, `full`
                (`Doors` has further reasons).
        """
        self._context = zmq.Context()
        self.router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self.router.linger = LINGER_MS
        self.router.sndhwm = HIGH_WATER_MESSAGES
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.router.setsockopt(zmq.MAXMSGSIZE, os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES)
        self.router.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        self.router.monitor(_MONITOR, zmq.EVENT_ACCEPT_FAILED)
        self._monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._monitor.connect(_MONITOR)
        self.router.bind(address)
        # Without the method between, which looks at options of other kinds of sockets.
        self._send_frame: Callable[..., object] = super(zmq.Socket, self.router).send
        self._on_unreachable = on_unreachable
        self._queues: dict[bytes, _Queue] = {}

    def watch_refusals(self) -> int:
        """Return a descriptor that is readable when `note_refusals` has something to say."""
        self.note_refusals()  # libzmq signals only to who has found nothing before
        return int(self._monitor.FD)

    def note_refusals(self) -> None:
        """Write into the log who was not let in."""
        while self._monitor.poll(0):
            self._monitor.recv_multipart()
            _log.warning("a connection is refused: it is not of a process of user %d", os.getuid())

    @property
    def is_congested(self) -> bool:
        """Whether a reachable peer has messages waiting, so that `retry` should be called soon."""
        return any(queue.reachable for queue in self._queues.values()) if self._queues else False

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wait for messages."""
        poller.register(self.router, zmq.POLLIN)

    def brings_messages(self, source: object) -> bool:
        """Whether `source`, of the poller, is where messages come from."""
        return source is self.router

    def is_far(self, peer: bytes) -> bool:  # noqa: ARG002  here nobody is
        """Whether `peer` is on another machine, or passes for it."""
        return False

    def link_of(self, peer: bytes) -> bytes:  # noqa: ARG002  as above
        """Return the link through which `peer` speaks, or nothing."""
        return b""

    def why_not(self, peer: bytes, hello: messages.Hello) -> str | None:  # noqa: ARG002  as above
        """Return why one who came through a link is refused; None where nobody did."""
        return None

    def goes_on(self, peer: bytes) -> bool:  # noqa: ARG002  on one machine nothing does
        """Whether what `peer` was told stays told, although it says `Hello` again."""
        return False

    def check_keys(self) -> int:
        """End the connections of those whose keys are not listed any more; return how many."""
        return 0

    def receive(self) -> list[Frame] | None:
        """Return the frames of the next message, the peer's id first, or None if there is none."""
        found = received(self.router.recv)
        return None if found is None else found[0]

    def send(self, peer: bytes, header: bytes, frames: Sequence[Frame] = ()) -> None:
        """Send a message to `peer`, now or when it can take it."""
        if self._queues and peer in self._queues:
            self._enqueue(peer, [peer, header, *frames])
            return
        message = [peer, header, *frames]
        problem = self._try(message)
        if problem:
            self._queues[peer] = _Queue()
            self._enqueue(peer, message)
            if problem == errno.EHOSTUNREACH:
                self._lose(peer)

    def greet(self, peer: bytes, header: bytes) -> None:
        """Send a message to `peer`, which has just been heard of, and then what waits for it."""
        queue = self._queues.get(peer)
        if queue is None:
            self.send(peer, header)
            return
        queue.messages.appendleft([peer, header])
        queue.size_bytes += len(peer) + len(header)
        queue.reachable = True
        self._drain(peer, queue)

    def retry(self) -> None:
        """Send what waits for slow peers as far as they take it now."""
        for peer, queue in list(self._queues.items()):
            if queue.reachable:
                self._drain(peer, queue)

    def forget(self, peer: bytes) -> None:
        """Drop what waits for a peer that will not come back."""
        self._queues.pop(peer, None)

    def close(self) -> None:
        """Close the socket after a short while for what is being sent."""
        self.router.disable_monitor()
        self._monitor.close(linger=0)
        self.router.close()
        self._context.term()

    def _try(self, message: list[Frame]) -> int:
        return attempt(self._send_frame, message)

    def _enqueue(self, peer: bytes, message: list[Frame]) -> None:
        queue = self._queues[peer]
        queue.messages.append(message)
        queue.size_bytes += sum(map(len, message))
        if queue.size_bytes > QUEUE_LIMIT_BYTES:
            _log.error("%r reads nothing and %d MB wait for it", peer, queue.size_bytes // 2**20)
            self.forget(peer)
            self._on_unreachable(peer, "full")

    def _drain(self, peer: bytes, queue: _Queue) -> None:
        while queue.messages:
            problem = self._try(queue.messages[0])
            if problem == errno.EHOSTUNREACH:
                self._lose(peer)
            if problem:
                return
            queue.size_bytes -= sum(map(len, queue.messages.popleft()))
        del self._queues[peer]

    def _lose(self, peer: bytes) -> None:
        queue = self._queues.get(peer)
        if queue is not None:
            queue.reachable = False
        self._on_unreachable(peer, "gone")


def received(receive: Callable[..., zmq.Frame]) -> tuple[list[Frame], zmq.Frame] | None:
    """Return the frames of the next message, and the last one as it came; None: there is none."""
    try:
        frame = receive(NOBLOCK, False)
    except zmq.Again:
        return None
    parts: list[Frame] = [frame.bytes]
    # A frame knows whether there are more: that is cheaper than to ask the socket.
    while frame.more:
        frame = receive(NOBLOCK, False)
        parts.append(frame.bytes if len(frame) < FEW_BYTES else frame.buffer)
    return parts, frame


def attempt(send: Callable[..., object], message: Sequence[Frame | bytearray]) -> int:
    """Send `message`; return 0, EAGAIN or EHOSTUNREACH. Only the first frame can fail."""
    last = len(message) - 1
    try:
        for frame in message[:last]:
            send(frame, _NOBLOCK_MORE, len(frame) < FEW_BYTES)
        send(message[last], NOBLOCK, len(message[last]) < FEW_BYTES)
    except zmq.Again:
        return errno.EAGAIN
    except zmq.ZMQError as error:
        if error.errno != errno.EHOSTUNREACH:
            raise
        return errno.EHOSTUNREACH
    return 0
