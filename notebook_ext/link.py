"""The I/O thread: one socket to the broker, found or started again when the broker is gone.

Theory. The thread sleeps in one poll over the socket, a wake-up descriptor and the broker's
process. What other threads want is a function on a queue that this thread calls, so that the
conversation needs no lock. Finding or starting a broker may take seconds and runs in a thread of
its own; until there is a welcome, what is wanted only changes the conversation, which then says it.

Guarantees: no user code runs here; an idle link wakes nobody; the broker's death is seen within
milliseconds on its own machine. A broker that says goodbye was stopped by somebody: what is open
fails, and nothing starts another one until it is called again.
Not guaranteed: that messages were received; the conversation says them again to a new broker.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from kernel_worker.appetite import Appetite
from kernel_worker.errors import Error, ProtocolError
from kernel_worker.wire import messages
from kernel_worker.wire.frames import is_stored
from notebook_ext import blobs
from notebook_ext.conversation import Conversation
from notebook_ext.sealed import Seals

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.far import Far
    from kernel_worker.rendezvous import Connection
    from notebook_ext.conversation import Cut

LARGE_BYTES = 64 * 1024
"""Larger frames are sent without a copy."""
_CLOSE_SECONDS = 2.0
_CLOSED = (
    "This process closed its connection to the broker while the call waited. Calls that are waited "
    "for end with it: call again, which connects anew. Spawned calls go on: nb.calls() lists them."
)
_STOPPED = (
    "The broker was stopped on purpose (`notebook-ext broker stop`), and its workers with it. What "
    "was waited for ends with it: call again; on its own machine that starts another one. Spawned "
    "calls go on with the next one: nb.calls() lists them."
)
_NOBLOCK, _SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)
_PAUSE_SECONDS = 0.1


class Link:
    """The thread, its socket and its conversation."""

    def __init__(
        self,
        hello: messages.Hello,
        find: Callable[[], Connection],
        timeout_seconds: float,
        cut: Cut,
    ) -> None:
        """Start looking for the broker.

        Args:
            hello: what is said first on every connection.
            find: returns where the broker listens, after starting one if need be; may block.
            timeout_seconds: how long a connection may take before everything open fails.
            cut: see `Conversation`.
        """
        self.conversation = Conversation(cut)
        self.seals = Seals()
        """Through which payloads go of calls that are sealed."""
        self._hello = hello
        self._find = find
        self._timeout_seconds = timeout_seconds
        self._wanted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._wake = _WakeUp()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._send_frame: Callable[..., object] = _unsent
        self._appetite = Appetite()
        self._poller = zmq.Poller()
        self._poller.register(self._wake.descriptor, zmq.POLLIN)
        self._process: int | None = None
        self._far: Far | None = None
        self._connection: Connection | None = None
        self._finding = False
        self._deadline: float | None = None
        self.is_alive = True
        """Whether the thread takes wishes; its end says no, whatever ends it."""
        self._thread = threading.Thread(target=self._run, name="notebook-ext link", daemon=True)
        self._thread.start()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Let the I/O thread call `function(*args)` soon, and send what it says.

        An interrupt (a signal's exception in the main thread) costs nothing: where it leaves this
        after the wish is on the queue, the thread knows.
        """
        try:
            self._wanted.append((function, args))
            self._wake.up()
        except BaseException:
            self._wake.up()
            raise

    def close(self) -> None:
        """Say goodbye, end the thread and let go of the socket."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._wake.up()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=_CLOSE_SECONDS)

    # ---- the loop -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self.is_alive:
                self._turn(self._poller.poll(self._patience_ms()))
        finally:
            self.is_alive = False  # before anybody hears of it: what is posted now is never done
            self._hang_up(farewell=True)
            self.conversation.fail("ClientClosed", _CLOSED)
            self._wake.close()
            self._context.term()

    def _turn(self, ready: list[tuple[Any, int]]) -> None:
        for source, _ in ready:
            if source is self._socket:
                self._receive()
            elif source == self._wake.descriptor:
                self._wake.clear()
            elif self._far is not None and source is self._far.monitor:
                self._changed(self._far)
            elif source == self._process:
                self._broker_died()
        wanted = self._wanted
        while wanted:
            function, args = wanted.popleft()
            function(*args)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._give_up()
        if self._socket is None and not self.conversation.is_idle:
            self._look()
        if self.conversation.has_words:
            self._send()

    def _patience_ms(self) -> int | None:
        if self._deadline is None:
            return None
        return int(max(0.0, self._deadline - time.monotonic()) * 1000) + 1

    def _send(self) -> None:
        if not self.conversation.online or self._socket is None:
            return
        if self._far is not None:
            for frames in self.conversation.take():
                self._far.send(frames)
            return
        send = self._send_frame
        for frames in self.conversation.take():
            last = len(frames) - 1
            for frame in frames[:last]:
                send(frame, _SNDMORE, len(frame) < LARGE_BYTES)
            send(frames[last], 0, len(frames[last]) < LARGE_BYTES)

    def _receive(self) -> None:
        """Take what is there, as far as the appetite goes."""
        socket = self._socket
        for _ in range(self._appetite.next()):
            if socket is None or socket is not self._socket:
                return
            try:
                frame = socket.recv(_NOBLOCK, False)
            except zmq.Again:
                self._appetite.spoil()
                return
            frames = [frame.bytes]
            while frame.more:  # it knows: to ask the socket is slow
                frame = socket.recv(0, False)
                frames.append(frame.bytes)
            if self._far is not None:
                frames = self._far.taken(frames)
            if frames:
                self._take(frames)

    def _take(self, frames: list[bytes]) -> None:
        try:
            message = messages.decode_at_client(frames[0])
        except ProtocolError:
            self.conversation.dropped_messages += 1
            return
        if isinstance(message, messages.Welcome):
            self._deadline = None
            if self._far is not None and self._far.was_forgotten:
                self.conversation.lost()
            self.conversation.connected(message.incarnation)
        elif isinstance(message, messages.Refused):
            self._hang_up()
            self._fail("VersionError", message.reason)
        elif isinstance(message, messages.Bye):
            self._fail("ConnectionError", _STOPPED)  # before anything asks for another broker
            self._hang_up()
        elif len(frames) > 1 and self.seals.concerns(message, frames[1]):
            for each, opened in self.seals.opened(message, frames[1:]):
                self.conversation.receive(each, opened)
        else:
            payload = frames[1:]
            if len(payload) > 2 and is_stored(payload):  # noqa: PLR2004  header and pickles
                payload = blobs.taken(payload)
            self.conversation.receive(message, payload)

    # ---- finding the broker ---------------------------------------------------------------------

    def _look(self) -> None:
        if self._finding:
            return
        self._finding = True
        pause = 0.0 if self._deadline is None else _PAUSE_SECONDS
        if self._deadline is None:
            self._deadline = time.monotonic() + self._timeout_seconds
        search = threading.Thread(
            target=self._search, args=(pause,), name="notebook-ext search", daemon=True
        )
        search.start()

    def _search(self, pause_seconds: float) -> None:
        """Find the broker, in a thread of its own; not at once again where the last one died."""
        time.sleep(pause_seconds)
        try:
            connection = self._find()
        except BaseException as error:  # noqa: BLE001  told to those who wait
            self.post(self._not_found, error)
        else:
            self.post(self._found, connection)

    def _not_found(self, error: BaseException) -> None:
        self._finding = False
        name = type(error).__name__ if isinstance(error, Error) else "ConnectionError"
        message = str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"
        self._fail(name, message)

    def _found(self, connection: Connection) -> None:
        self._finding = False
        self._connection = connection
        self.seals.use(connection)
        self._hang_up()
        if connection.keys is not None:
            self._dial_far(connection)
            return
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self._hello.peer.encode())
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(connection.address)
        self._socket = socket
        # Without the method between, which looks at options of other kinds of sockets.
        self._send_frame = super(zmq.Socket, socket).send
        self._poller.register(socket, zmq.POLLIN)
        self._watch(connection)
        socket.send(messages.encode(self._hello))

    def _dial_far(self, connection: Connection) -> None:
        from kernel_worker.far import Far  # noqa: PLC0415  only where there is one

        self._far = far = Far(self._context, connection, self._hello)
        self._socket = far.socket
        self._poller.register(far.socket, zmq.POLLIN)
        self._poller.register(far.monitor, zmq.POLLIN)

    def _changed(self, far: Far) -> None:
        """A connection to a broker elsewhere was cut (it dials again by itself), or refused."""
        for change in far.changes():
            if change == "refused":
                self._hang_up()
                self._fail("AuthError", far.refusal)
                return
            if self._deadline is None:
                self._deadline = time.monotonic() + self._timeout_seconds

    def _watch(self, connection: Connection) -> None:
        """Notice the end of the broker's process, where it runs on this machine."""
        if connection.machine != self._hello.machine or not hasattr(os, "pidfd_open"):
            return
        try:
            self._process = os.pidfd_open(connection.pid)
        except ProcessLookupError:
            self.post(self._broker_died)
        except OSError:
            return  # it cannot be watched: no descriptor is left, or the system forbids it
        else:
            self._poller.register(self._process, zmq.POLLIN)

    def _broker_died(self) -> None:
        self._appetite.grow(sys.maxsize)  # what it said before it died counts: maybe outcomes
        self._receive()
        self._appetite.spoil()
        self._hang_up()
        self.conversation.lost()

    def _give_up(self) -> None:
        is_far = self._far is not None
        self._hang_up()
        if is_far and self._connection is not None:
            self._fail(
                "ConnectionError",
                f"The broker at {self._connection.address} did not answer within "
                f"{self._timeout_seconds:g} s (setting connect_timeout). See there whether it runs "
                "(`notebook-ext broker status`), with the keys that it had, and whether a firewall "
                "lets its port be reached from here.",
            )
            return
        self._fail(
            "ConnectionError",
            f"The broker{self._named()} did not answer within {self._timeout_seconds:g} s (setting "
            "connect_timeout). If it hangs, end that process: the next call starts another one, "
            "which knows the spawned calls.",
        )

    def _named(self) -> str:
        found = self._connection
        if found is None:
            return ""
        return f" (process {found.pid}; its log: {Path(found.path).with_name('broker.log')})"

    def _fail(self, error: str, message: str) -> None:
        self._deadline = None
        self.conversation.fail(error, message)

    def _hang_up(self, *, farewell: bool = False) -> None:
        """Let go of the socket."""
        if self._process is not None:
            self._poller.unregister(self._process)
            os.close(self._process)
            self._process = None
        socket, self._socket = self._socket, None
        if socket is None:
            return
        self._poller.unregister(socket)
        if self._far is not None:
            self._close_far(self._far, farewell=farewell)
        elif farewell and self.conversation.online:
            with contextlib.suppress(zmq.ZMQError):
                socket.send(messages.encode(messages.Bye()), zmq.NOBLOCK)
            socket.close(linger=int(_CLOSE_SECONDS * 1000))
        else:
            socket.close(linger=0)
        self.conversation.lost()

    def _close_far(self, far: Far, *, farewell: bool) -> None:
        self._far = None
        self._poller.unregister(far.monitor)
        if farewell and self.conversation.online:
            far.send([messages.encode(messages.Bye())])
        far.close(int(_CLOSE_SECONDS * 1000) if farewell else 0)


def _unsent(*_: object) -> None:
    """Where there is no socket, nothing is sent."""


class _WakeUp:
    """A descriptor that other threads make readable."""

    def __init__(self) -> None:
        self._signalled = False
        self._closed = False
        if hasattr(os, "eventfd"):
            self.descriptor = self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.descriptor, self._end = os.pipe()

    def up(self) -> None:
        # No call between the mark and the write: an interrupt that came there would leave a mark
        # that nobody takes away, and the thread asleep for ever.
        if not self._signalled and not self._closed:
            self._signalled = True
            try:  # noqa: SIM105  see above
                os.write(self._end, b"\1\0\0\0\0\0\0\0")
            except OSError:
                pass  # closed meanwhile

    def clear(self) -> None:
        try:  # noqa: SIM105  on the way of every call
            os.read(self.descriptor, 8)
        except BlockingIOError:
            pass
        self._signalled = False

    def close(self) -> None:
        self._closed = True
        os.close(self.descriptor)
        if self._end != self.descriptor:
            os.close(self._end)
