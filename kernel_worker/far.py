"""A socket to a broker on another machine: by its keys, and as if it were never cut.

Theory. CURVE proves both ends to each other and encrypts what is said. When the connection is cut,
libzmq dials again, and what was on its way is lost: so messages are numbered and kept until they
have arrived (`kernel_worker.wire.resuming`). On each new connection a greeting is said, the
`Hello`; when it is answered, what has not arrived is said again. What the socket has kept from the
last connection may come before it: the other end drops that, since nobody has said Hello there.

What depends on one machine is not said: the process's id and the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import zmq

from kernel_worker.errors import AuthError, ProtocolError
from kernel_worker.wire import messages, resuming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kernel_worker.keys import Invitation
    from kernel_worker.rendezvous import Connection
    from kernel_worker.wire.frames import Frame

_HANDSHAKE_MS: Final = 10_000
_HEARTBEAT_MS: Final = 5_000
_HEARTBEAT_TIMEOUT_MS: Final = 30_000
_PAUSE_MS: Final = 100
_MOST_PAUSE_MS: Final = 2_000
_FEW_BYTES: Final = 64 * 1024
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_WATCHED: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
)

Change = Literal["cut", "refused"]
_numbers = itertools.count()


def dialler(
    context: zmq.Context[zmq.Socket[bytes]], keys: Invitation, *, keeps_nothing: bool = False
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Return a socket that has keys, and what tells of its connections; it has dialled nobody.

    Args:
        context: where they are made.
        keys: whose address they are for.
        keeps_nothing: a connection that is cut takes along what it had, and where there is none
            nothing is said. Only for messages of one frame: where libzmq finds that a connection
            is cut while one of several is read, it ends the process (fq.cpp, `!_more`).
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 0
    socket.ipv6 = "[" in keys.address
    socket.curve_serverkey = keys.server.encode()
    socket.curve_publickey = keys.client.public.encode()
    socket.curve_secretkey = keys.client.secret.encode()
    socket.setsockopt(zmq.IMMEDIATE, keeps_nothing)
    socket.setsockopt(zmq.RECONNECT_IVL, _PAUSE_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _MOST_PAUSE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    name = f"inproc://far-{next(_numbers)}"
    socket.monitor(name, _WATCHED)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.connect(name)
    return socket, monitor


class Far:
    """A connection to a broker elsewhere."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], to: Connection, hello: messages.Hello
    ) -> None:
        """Dial `to`, which has keys; `hello` is said first on every connection."""
        assert to.keys is not None  # noqa: S101  whoever calls this has looked
        said = msgspec.structs.replace(hello, pid=0, machine="")
        self._hello = messages.encode(said)
        self._stream = resuming.Stream(int.from_bytes(os.urandom(8), "little"))
        self._is_greeted = self._was_greeted = False
        self.was_forgotten = False
        """Whether the broker that has just greeted knows nothing more of what it was told."""
        self.refusal = (
            f"the broker at {to.address} does not let the key of {to.keys.name!r} in: it is not "
            "listed there, or was revoked; `notebook-ext broker invite` on that machine makes "
            "another one"
        )
        self._address = to.address
        self.socket, self.monitor = dialler(context, to.keys)
        self.socket.connect(to.address)

    @property
    def kept_bytes(self) -> int:
        """How much was said that may not have arrived."""
        return self._stream.kept_bytes

    def hear_word(self, frames: Sequence[bytes]) -> bool:
        """Note what an answer to `word` says has arrived; False where it is none to this."""
        try:
            mark = resuming.decode(frames[0])
        except ProtocolError:
            return False
        if mark.stream != self._stream.id:
            return False
        self._stream.takes(mark, ())
        return True

    def word(self) -> bytes:
        """Return what asks the broker, on another connection, whether it is there."""
        return self._stream.word()

    def redial(self) -> None:
        """Dial anew: nothing comes from there, and the system may take minutes to find out."""
        self._is_greeted = False
        with contextlib.suppress(zmq.ZMQError):  # there is no connection
            self.socket.disconnect(self._address)
        self.socket.connect(self._address)

    def close(self, linger_ms: int) -> None:
        """Hang up, after so long for what is being sent."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)

    def send(self, message: Sequence[Frame]) -> None:
        """Send a message, as soon as there is a connection."""
        self._stream.put(message)
        self._push()

    def changes(self) -> Iterator[Change]:
        """Tell what has become of the connection, and greet on one that is new."""
        while self.monitor.poll(0):
            (event, _) = struct.unpack("=hi", self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.socket.getsockopt(zmq.EVENTS)  # now it knows of the connection too
                self._say([self._stream.greeting(), self._hello])
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                yield "refused"
            elif self._is_greeted:
                self._is_greeted = False
                yield "cut"

    def taken(self, frames: list[bytes]) -> list[bytes]:
        """Return the message in what the socket gave; empty where there is none that is new."""
        try:
            mark = resuming.decode(frames[0])
            message: list[Any] = mark.joined(frames[1:])
        except ProtocolError:
            return []  # from no broker of ours, then
        if mark.number in {resuming.GREETING, resuming.FRESH} and message:
            return self._answered(mark, message)
        if not self._stream.takes(mark, message):
            return []
        word = self._stream.due_word()
        if word is not None:
            self._say([word])
        return message

    def wait(self, seconds: float) -> list[bytes] | None:
        """Return the next message, or None where none comes in time.

        Raises:
            AuthError: the broker does not let this key in.
        """
        deadline = time.monotonic() + seconds
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.monitor, zmq.POLLIN)
        while ready := poller.poll(max(0, round(1000 * (deadline - time.monotonic())))):
            for source, _ in ready:
                if source is self.monitor:
                    if "refused" in self.changes():
                        raise AuthError(self.refusal)
                elif message := self.taken(self.socket.recv_multipart(zmq.NOBLOCK)):
                    return message
        return None

    def _answered(self, mark: resuming.Mark, message: list[bytes]) -> list[bytes]:
        self.was_forgotten = mark.number == resuming.FRESH and self._was_greeted
        if self.was_forgotten:
            self._stream = resuming.Stream(self._stream.id)
        else:
            self._stream.greeted(mark)
        self._is_greeted = self._was_greeted = True
        self._push()
        return message

    def _push(self) -> None:
        while self._is_greeted and (message := self._stream.next()) is not None:
            if not self._say(message):
                return
            self._stream.sent()

    def _say(self, frames: Sequence[Frame]) -> bool:
        """Send; False where there is no connection, of whose end we have yet to hear."""
        send, last = self.socket.send, len(frames) - 1
        try:
            for frame in frames[:last]:
                send(frame, _NOBLOCK_MORE, len(frame) < _FEW_BYTES)
            send(frames[last], _NOBLOCK, len(frames[last]) < _FEW_BYTES)
        except zmq.Again:
            return False
        return True
