"""A worker's connection to the broker: one DEALER socket that two threads share.

The main thread owns the socket and receives from it. It holds the lock whenever it touches the
socket, and also while it is idle and polls: so it notices a message with no other thread's help.
The control thread sends through `post`, or itself (`drain`, `sending`) while the main thread runs
user code. An eventfd gets the main thread out of its poll.

Guaranteed: a multipart message is sent whole (an interrupt is never raised inside of this module,
see `interrupts`); messages of one thread keep their order; what was posted is sent within 50 ms
unless the broker does not read, which makes senders wait (back-pressure).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import zmq

from kernel_worker.model import CallId
from kernel_worker.wire import messages
from kernel_worker.wire.seals import Seals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from kernel_worker.wire.frames import Frame
    from kernel_worker.worker.item_line import ItemLine

_RETRY_SECONDS = 0.05
_LINGER_MS = 2000
_MAX_MESSAGES = 200
_MAX_POSTED = 1000
_LARGE_BYTES = 64 * 1024
"""Larger frames are sent without a copy."""
_NO_CALL = CallId("")
# A plain number: flags of an enumeration are slow.
_MORE = int(zmq.SNDMORE)


class Channel:
    """The socket, its lock and what waits to be sent."""

    def __init__(self, address: str, peer: str, connection_file: str = "") -> None:
        """Dial the broker at `address` as `peer`; its connection file says where keys lie."""
        self.seals = Seals(connection_file)
        """Through which payloads go, either way."""
        self._address = address
        self._peer = peer
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._posted: deque[list[Frame]] = deque()
        self._received: deque[list[bytes]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._number = 0
        self.heard = 0
        """How many brokers were gone for the one whose message `receive` gave last."""
        self._socket: zmq.Socket[bytes]
        self._dial()

    def _dial(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, self._peer.encode())
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, _MAX_MESSAGES)
        self._socket.connect(self._address)
        # Without the method between, which looks at options of other kinds of sockets.
        self._send_frame: Callable[..., object] = super(zmq.Socket, self._socket).send
        self._sources: list[Any] = [(self._socket, zmq.POLLIN), (self._wake, zmq.POLLIN)]

    def send(
        self, message: messages.ToBroker, frames: Sequence[Frame] = (), call: CallId = _NO_CALL
    ) -> None:
        """Send now, after what was posted.

        Args:
            message: what is said.
            frames: its payload; values, items and exceptions are sealed where their call is.
            call: the call whose values, items or exception they are.
        """
        with self._lock:
            self.send_locked(message, frames, call)

    def sending(self) -> AbstractContextManager[bool]:
        """Return what holds the lock, for several sends that belong together."""
        return self._lock

    def send_locked(
        self, message: messages.ToBroker, frames: Sequence[Frame] = (), call: CallId = _NO_CALL
    ) -> None:
        """Do as `send` while the lock is held (see `sending`)."""
        if self._posted:
            self._send_posted()
        if self.seals.is_on:
            frames = self.seals.answer(message, frames, call)
        self._send_frames([messages.encode(message), *frames])

    def post(self, message: messages.ToBroker, frames: Sequence[Frame] = ()) -> None:
        """Send from any thread, whatever the main thread does."""
        self.put(message, frames)
        self.push()

    def put(
        self, message: messages.ToBroker, frames: Sequence[Frame] = (), call: CallId = _NO_CALL
    ) -> None:
        """Have this sent before anything that is sent after now; `push` sees to it."""
        if self.seals.is_on:
            frames = self.seals.answer(message, frames, call)
        self._posted.append([messages.encode(message), *frames])

    def push(self) -> None:
        """Send what was put."""
        while self._posted:
            if self._lock.acquire(blocking=False) or self._wake_and_acquire():
                try:
                    self._send_posted()
                finally:
                    self._lock.release()

    def hand_over(
        self, message: messages.ToBroker, frames: Sequence[Frame] = (), call: CallId = _NO_CALL
    ) -> None:
        """Let the thread that receives send this, where it soon waits; do not wait for that.

        Where too much waits to be sent, this waits as `post` does.
        """
        self.put(message, frames, call)
        if len(self._posted) > _MAX_POSTED:
            self.push()
        else:
            os.eventfd_write(self._wake, 1)

    def try_acquire(self, patience_seconds: float = 0) -> bool:
        """Take the lock unless somebody has it for so long (the main thread while it is idle)."""
        if patience_seconds == 0:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=patience_seconds)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def wake(self) -> None:
        """Let `receive` return None."""
        os.eventfd_write(self._wake, 1)

    def receive(self, timeout_ms: int = -1, beside: ItemLine | None = None) -> list[bytes] | None:
        """Wait for a message of the broker and return its frames.

        None after `wake`, or where none has come in `timeout_ms` (-1: for ever), or where there is
        something to read `beside` it.
        """
        with self._lock:
            self.heard = self._number
            if self._received:
                return self._received.popleft()
            while True:
                if self._posted:
                    self._send_posted()
                sources = self._sources
                if beside is not None:
                    sources = [*sources, (beside.fileno(), zmq.POLLIN)]
                ready = zmq.zmq_poll(sources, timeout_ms)
                if not ready:
                    return None
                if any(source is self._socket for source, _ in ready):
                    return self._receive_frames()
                if any(source == self._wake for source, _ in ready):
                    os.eventfd_read(self._wake)
                if not self._posted:
                    return None

    def acquire(self) -> None:
        """Take the lock, whatever the main thread does; `release` gives it back."""
        while not (self._lock.acquire(blocking=False) or self._wake_and_acquire()):
            pass

    def redial_locked(self, hello: messages.Hello | None, brokers_gone: int) -> None:
        """Let go of a broker that is gone, with all that it said, and dial whoever follows it.

        Another thread than the main one does, while it has the lock. What was sent and has not
        arrived is lost; what is sent from now on waits for the next broker, behind `hello`.
        """
        self._socket.close(linger=0)
        self._received.clear()
        self._number = brokers_gone
        self._dial()
        if hello is not None:
            self._send_frames([messages.encode(hello)])

    def put_back(self, received: list[list[bytes]]) -> None:
        """Let `receive` return these messages first, in their order."""
        if received:
            with self._lock:
                self._received.extendleft(reversed(received))

    def fetch_locked(self) -> deque[list[bytes]]:
        """Take in what has arrived, while the lock is held; return all that is not read yet."""
        while self._socket.poll(0):
            self._received.append(self._receive_frames())
        return self._received

    def close(self) -> None:
        """Send what is left and hang up."""
        with self._lock:
            self._send_posted()
            self._socket.close()
        self._context.term()

    def _send_posted(self) -> None:
        while self._posted:
            self._send_frames(self._posted.popleft())

    def _send_frames(self, frames: Sequence[Frame]) -> None:
        send, last = self._send_frame, len(frames) - 1
        for at in range(last):
            send(frames[at], _MORE, len(frames[at]) < _LARGE_BYTES)
        send(frames[last], 0, len(frames[last]) < _LARGE_BYTES)

    def _receive_frames(self) -> list[bytes]:
        """Receive what is there. A frame knows whether more follow: the socket answers slowly."""
        receive = self._socket.recv
        frame = receive(0, False)
        frames = [frame.bytes]
        while frame.more:
            frame = receive(0, False)
            frames.append(frame.bytes)
        return frames

    def _wake_and_acquire(self) -> bool:
        os.eventfd_write(self._wake, 1)
        return self._lock.acquire(timeout=_RETRY_SECONDS)
