"""The bulk connection of a link: its two threads at either end, who listens and who dials.

Theory. `kernel_worker.wire.bulk` says what goes over it. Here are the sockets: one thread seals and
sends, one receives, opens and writes where it belongs; both wait in the system's calls, and hold
the interpreter for no longer than a chunk takes. What has happened they tell the loop by a
descriptor. Only the broker listens: at a port, and at a socket of its own machine, which is where
ssh leads. A connection that does not prove in time that it knows a link's secret is closed, and
there are few that have yet to.

Guarantees: no message waits for a chunk: what is small goes by CURVE. A chunk is taken from a blob
when the connection takes it, so a slow one costs no memory. A connection that is cut is dialled
again, and blobs go on where they were.
Not guaranteed: that there is one. A firewall may let the port through or not: see `freight`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import ProtocolError
from kernel_worker.store import segments
from kernel_worker.wire import bulk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_worker.wire.bulk import Frame

HANDSHAKE_SECONDS: Final = 10.0
MOST_UNPROVED: Final = 16
DEAD_SECONDS: Final = 20
"""A connection from which nothing is heard for so long, not even by the system, is dead."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_MOST_PAUSE_SECONDS: Final = 5.0
_MEMORY_PART: Final = 2
"""What comes takes no more than this part of the machine's memory."""
_UNREACHED: Final = (
    "large values go slowly: %s, where they belong, cannot be reached (%s); have firewalls let it "
    "through"
)
_log = logging.getLogger(__name__)

UP, DOWN = "up", "down"
News = int | str
"""A blob has arrived at the other end; or the connection is `UP`, or `DOWN`."""


class Exchange:
    """One end of a link's bulk connection, over all connections that there will be."""

    def __init__(self, session: bytes, secret: bytes) -> None:
        """Be ready for the first connection.

        Args:
            session: its name.
            secret: proves, together with it, who may.
        """
        self.session = session
        self.secret = secret
        self._change = threading.Condition()
        self._sending = bulk.Sending()
        memory = segments.memory_bytes()[0] or float("inf")
        self._receiving = bulk.Receiving(memory / _MEMORY_PART)
        self._connection: _Connection | None = None
        self._is_closed = False
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is news."""
        return self._bell

    def news(self) -> list[News]:
        """Return what has happened since it was asked last."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._news.get_nowait())
        return found

    def send(self, blob: int, content: Frame) -> None:
        """Send a blob; `news` says when it is there."""
        with self._change:
            self._sending.add(blob, content)
            self._change.notify_all()

    def drop(self, blob: int) -> None:
        """A blob that no message has named is not wanted any more."""
        with self._change:
            self._sending.drop(blob)
            self._change.notify_all()

    def received(self, blob: int) -> memoryview:
        """Return a blob that a message names.

        Raises:
            ProtocolError: it is not here.
        """
        with self._change:
            return self._receiving.get(blob)

    def let_go(self, blob: int) -> None:
        """No further message will name a blob."""
        with self._change:
            self._receiving.drop(blob)

    def close(self) -> None:
        """End the connection, and have no other one."""
        with self._change:
            if self._is_closed:
                return
            self._is_closed = True
            self._change.notify_all()
        self.cut()
        os.close(self._bell)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def pause(self, seconds: float) -> None:
        """Wait so long, or until it is closed."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed, seconds)

    # ---- connections ----------------------------------------------------------------------------

    def cut(self) -> None:
        """End the connection that there is; its threads have ended then."""
        with self._change:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()

    def run(
        self,
        wire: socket.socket,
        nonces: bytes,
        when_proved: Callable[[], None] = lambda: None,
        *,
        is_dialler: bool,
    ) -> None:
        """Use a connection on which both have greeted, until it ends.

        Args:
            wire: the connection.
            nonces: the random bytes of who dialled, and of who was.
            when_proved: called when the other end has proved that it knows the secret.
            is_dialler: whether this is the end that dialled.

        Raises:
            OSError: it has ended before the other end has proved who it is.
            ProtocolError: the other end does not know the secret, or says what it must not.
        """
        sends, opens = (
            bulk.Seal(self.secret, nonces, up=up) for up in (is_dialler, not is_dialler)
        )
        connection = _Connection(self, wire, sends, opens)
        if is_dialler:
            connection.write(*self._have())
        first, have = connection.read()
        if first.kind != bulk.HAVE:
            raise ProtocolError("it does not say first what it has")
        when_proved()
        if not is_dialler:
            self.cut()  # only now: who has not proved anything cuts nobody off
            connection.write(*self._have())
        wire.settimeout(None)
        there = bulk.had(have)
        with self._change:
            if self._is_closed:
                return
            self._connection = connection
            for blob in self._sending.connected(there):
                self._arrived(blob)
        self._tell(UP)
        try:
            connection.serve()
        finally:
            self._tell(DOWN)  # before the next one, which waits for this end, says that it is up
            connection.has_ended.set()

    def _have(self) -> tuple[int, int, int, bytes]:
        with self._change:
            return bulk.HAVE, 0, 0, self._receiving.have()

    def next_record(self, connection: _Connection) -> tuple[int, int, int, Frame] | None:
        """Return what is to be sent next; wait for that. None: the connection has ended."""
        with self._change:
            while self._connection is connection and not self._is_closed:
                record = self._sending.next()
                if record is not None:
                    return record
                self._change.wait()
        return None

    def place(self, connection: _Connection, head: bulk.Head) -> memoryview | None:
        """Return where a chunk is to be opened into; None: nobody wants it now.

        Only the one connection on which both ends have proved who they are is given a place: who
        has not may say any head, and what does not open is written there all the same.

        Raises:
            ProtocolError: it is not the next one of its blob.
        """
        with self._change:
            return self._receiving.place(head) if self._connection is connection else None

    def take(self, head: bulk.Head) -> None:
        """Do what a record says that was opened.

        Raises:
            ProtocolError: it must not say that.
        """
        with self._change:
            if head.kind == bulk.DATA:
                if self._receiving.filled(head):
                    self._sending.say(bulk.ARRIVED, head.blob)
                    self._change.notify_all()
            elif head.kind == bulk.BEGIN:
                self._receiving.begin(head.blob, head.number)
            elif head.kind == bulk.ARRIVED:
                self._arrived(head.blob)
            elif head.kind == bulk.DROP:
                self._receiving.drop(head.blob)
            else:
                raise ProtocolError(f"a record of kind {head.kind}")

    def lost(self, connection: _Connection) -> None:
        """A connection has ended: nothing more is to be sent by it."""
        with self._change:
            if self._connection is connection:
                self._connection = None
            self._change.notify_all()

    def _arrived(self, blob: int) -> None:
        if self._sending.arrived(blob):
            self._tell(blob)

    def _tell(self, news: News) -> None:
        self._news.put(news)
        with self._change:
            if not self._is_closed:
                os.eventfd_write(self._bell, 1)


class _Connection:
    """One TCP connection: this thread receives, a second one sends."""

    def __init__(
        self, exchange: Exchange, wire: socket.socket, sends: bulk.Seal, opens: bulk.Seal
    ) -> None:
        self._exchange = exchange
        self._wire = wire
        self._sends, self._opens = sends, opens
        self._sealed = memoryview(bytearray(bulk.CHUNK_BYTES + bulk.TAG_BYTES))
        self._opened = memoryview(bytearray(bulk.CHUNK_BYTES + bulk.SLACK_BYTES))
        """For what belongs nowhere else."""
        self.has_ended = threading.Event()
        """Set by whoever uses it, when nothing more comes of it."""

    def serve(self) -> None:
        """Receive until the connection ends, and let the other thread send."""
        sender = threading.Thread(target=self._send, name="bulk: sends", daemon=True)
        sender.start()
        try:
            while True:
                self._exchange.take(self.read()[0])
        finally:
            self._hang_up()
            self._exchange.lost(self)
            sender.join()

    def end(self) -> None:
        """Hang up; both threads have ended then."""
        self._hang_up()
        self._exchange.lost(self)
        self.has_ended.wait(HANDSHAKE_SECONDS)

    def write(self, kind: int, blob: int, number: int, body: Frame) -> None:
        """Send a record."""
        parts: list[bytes | memoryview] = list(self._sends.seal(kind, blob, number, body))
        while parts:
            sent = self._wire.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = memoryview(parts[0])[sent:]

    def read(self) -> tuple[bulk.Head, bytes]:
        """Receive a record; return its body too, where it has no place of its own.

        Raises:
            ProtocolError: it is none that the other end has just sealed.
        """
        said = bytes(_filled(self._wire, self._sealed[: bulk.HEAD_BYTES]))
        head = bulk.head_of(said)
        sealed = _filled(self._wire, self._sealed[: head.size_bytes + bulk.TAG_BYTES])
        place = self._exchange.place(self, head) if head.kind == bulk.DATA else None
        self._opens.open(said, sealed, self._opened if place is None else place)
        return head, b"" if head.kind == bulk.DATA else bytes(self._opened[: head.size_bytes])

    def _send(self) -> None:
        try:
            while (record := self._exchange.next_record(self)) is not None:
                self.write(*record)
        except OSError:
            pass  # the other thread hears of it too
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)


def _filled(wire: socket.socket, room: memoryview) -> memoryview:
    """Return `room`, filled from a connection.

    Raises:
        ConnectionResetError: it has ended.
    """
    rest = room
    while rest:
        count = wire.recv_into(rest, flags=socket.MSG_WAITALL)
        if not count:
            raise ConnectionResetError("the other end has hung up")
        rest = rest[count:]
    return room


def _prepare(wire: socket.socket) -> None:
    """Have the system find out when the other machine is gone; wait a while for who is to prove."""
    wire.settimeout(HANDSHAKE_SECONDS)
    if wire.family == socket.AF_UNIX:
        return  # ssh finds out
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_SECONDS // 2)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_SECONDS // 4)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000)


def place_of(address: str) -> tuple[str, int]:
    """Return host and port of `tcp://HOST:PORT`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


class Listener:
    """Where links dial for their bulk connections: there once the first one is."""

    def __init__(self, door: str, path: Path) -> None:
        """Listen beside the door: at the next port where that is free, else at any.

        Args:
            door: the address that CURVE has; where it is no port, this has none either.
            path: of the socket for those who come from this machine.

        Raises:
            OSError: there is no port at all, or no such socket.
        """
        self._path = path
        self._exchanges: dict[bytes, Exchange] = {}
        self._unproved = threading.BoundedSemaphore(MOST_UNPROVED)
        path.unlink(missing_ok=True)
        self._wires = [socket.socket(socket.AF_UNIX)]
        self._wires[0].bind(str(path))
        self._wires[0].listen()
        self.port = 0
        if door.startswith("tcp:"):
            self._wires.append(_port_beside(door))
            self.port = self._wires[1].getsockname()[1]
            _log.info("large values of hosts go by port %d", self.port)
        for wire in self._wires:
            threading.Thread(
                target=self._accept, args=(wire,), name="bulk: listens", daemon=True
            ).start()

    def add(self, exchange: Exchange) -> None:
        """Let in who knows the secret of `exchange`."""
        self._exchanges[exchange.session] = exchange

    def remove(self, exchange: Exchange) -> None:
        """Let nobody in by it any more."""
        self._exchanges.pop(exchange.session, None)

    def close(self) -> None:
        """Listen no more."""
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, listens: socket.socket) -> None:
        while True:
            try:
                wire, place = listens.accept()
                address = place[0] if place else "this machine, perhaps by ssh,"
            except OSError:
                if listens.fileno() < 0:
                    return
                threading.Event().wait(_FIRST_PAUSE_SECONDS)  # no descriptor is left, for example
                continue
            if not self._unproved.acquire(blocking=False):
                _log.warning(
                    "a bulk connection from %s is refused: too many prove nothing", address
                )
                wire.close()
                continue
            threading.Thread(
                target=self._serve, args=(wire, address), name="bulk: receives", daemon=True
            ).start()

    def _serve(self, wire: socket.socket, address: str) -> None:
        with wire, contextlib.ExitStack() as unproved:
            unproved.callback(self._unproved.release)
            is_proved = threading.Event()
            unproved.callback(is_proved.set)
            try:
                exchange, nonces = self._greeted(wire)
                exchange.run(wire, nonces, unproved.close, is_dialler=False)
            except (OSError, ProtocolError) as error:
                if is_proved.is_set():
                    _log.info("a bulk connection from %s has ended: %s", address, error)
                else:
                    _log.warning("a bulk connection from %s is refused: %s", address, error)

    def _greeted(self, wire: socket.socket) -> tuple[Exchange, bytes]:
        _prepare(wire)
        said = bytes(_filled(wire, memoryview(bytearray(bulk.GREETING_BYTES))))
        session, theirs = bulk.greeted(said)
        exchange = self._exchanges.get(session)
        if exchange is None:
            raise ProtocolError("no link has that session")
        ours = os.urandom(bulk.NONCE_BYTES)
        wire.sendall(ours)
        return exchange, theirs + ours


def _port_beside(door: str) -> socket.socket:
    host, port = place_of(door)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        place = (host, port + 1)
        return socket.create_server(place, family=family)
    except (OSError, OverflowError):
        place = (host, 0)
        return socket.create_server(place, family=family)


def _dialled(place: tuple[str, int] | str) -> socket.socket:
    if not isinstance(place, str):
        return socket.create_connection(place, HANDSHAKE_SECONDS)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(place)
    except OSError:
        made.close()
        raise
    return made


class Dialler:
    """Dials, again and again, for one exchange."""

    def __init__(self, exchange: Exchange, place: tuple[str, int] | str) -> None:
        """Begin to.

        Args:
            exchange: whose connections they are.
            place: host and port, or the path of a socket.
        """
        self._exchange = exchange
        self._place = place
        self._is_noted = False
        threading.Thread(target=self._run, name="bulk: receives", daemon=True).start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        is_told = False
        while not self._exchange.is_closed:
            is_there = False
            try:
                with _dialled(self._place) as wire:
                    nonces = self._greet(wire)
                    is_there, is_told = True, False
                    self._exchange.run(wire, nonces, self._note_way, is_dialler=True)
            except (OSError, ProtocolError) as error:
                if not is_there and not is_told:
                    is_told = True
                    _log.warning(_UNREACHED, self._named(), error)
            pause = _FIRST_PAUSE_SECONDS if is_there else min(2 * pause, _MOST_PAUSE_SECONDS)
            self._exchange.pause(pause)

    def _note_way(self) -> None:
        if not self._is_noted:
            self._is_noted = True
            _log.info("large values go by %s", self._named())

    def _named(self) -> str:
        if isinstance(self._place, str):
            return "the broker's socket for them"
        return f"port {self._place[1]} of {self._place[0]}"

    def _greet(self, wire: socket.socket) -> bytes:
        _prepare(wire)
        ours = os.urandom(bulk.NONCE_BYTES)
        wire.sendall(bulk.greeting(self._exchange.session, ours))
        return ours + bytes(_filled(wire, memoryview(bytearray(bulk.NONCE_BYTES))))
