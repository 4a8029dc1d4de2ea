"""The local socket, and beside it the door for other machines: TCP, by keys alone.

Theory. The door is a second ROUTER with a context of its own, a CURVE server (CurveZMQ, RFC 26).
Whom it lets in is asked for each connection (ZAP, RFC 27): the client's key must be listed now.
Nobody speaks under an id that another key has. TCP connections are cut, by networks and lids,
while both ends live on; so what goes through is a `resuming.Stream` for each client, and after a
`Hello` on a new connection both ends go on where they were.

A key is listed for a client or for a host. A host's is a *link*, through which all speak that are
there (`links`).

Guarantees: nothing comes through that is not encrypted by a listed key, and there is no way to
configure that. Nobody is by a client's key a host, nor the other way round. A key that is revoked
is cut at once: the door is closed and opened again, which the other clients do not notice but for a
moment. Each refusal is logged. Connections take no more than half of the descriptors that this
process may have: when there are so many, proved or not, the door is closed for a while, and clients
of this machine are served. Not guaranteed: that the broker sees nothing (payloads are in its
memory); anything about rates, or that clients of other machines get in while somebody floods the
door.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import struct
from functools import partial
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

from kernel_worker import rendezvous
from kernel_worker.broker.freight import Freights
from kernel_worker.broker.links import Links
from kernel_worker.broker.sockets import (
    HIGH_WATER_MESSAGES,
    LINGER_MS,
    QUEUE_LIMIT_BYTES,
    Sockets,
    attempt,
    received,
)
from kernel_worker.errors import (
    ConnectionError,  # noqa: A004  ours
    InvalidError,
    ProtocolError,
)
from kernel_worker.keys import Keys
from kernel_worker.wire import messages, resuming
from kernel_worker.wire.bulk import LARGE_BYTES
from kernel_worker.wire.depot import Depot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.broker.freight import Freight
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.sockets import Frame
    from kernel_worker.keys import Role
    from kernel_worker.settings import Settings

_MOST_FRAME_BYTES: Final = resuming.PIECE_BYTES + 4096
"""With what CURVE puts around a piece."""
LINK_LIMIT_BYTES: Final = 8 * QUEUE_LIMIT_BYTES
"""What waits for all that speak through a link; most of it is in this memory anyhow."""
_HEARTBEAT_MS: Final = 5_000
_HEARTBEAT_TIMEOUT_MS: Final = 30_000
_HANDSHAKE_MS: Final = 10_000
_LOOK_SECONDS: Final = 15.0
_CLOSED_SECONDS: Final = 5.0
_ZAP: Final = "inproc://zeromq.zap.01"
_MONITOR: Final = "inproc://door"
# The event HANDSHAKE_FAILED_PROTOCOL is not among them: libzmq 4.3.5 raises it for a bad frame too,
# loses the error by that, and leaves the connection open and deaf.
_WATCHED: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_log = logging.getLogger(__name__)


class _Far:
    """A client of another machine, or a link."""

    __slots__ = ("connection", "depot", "freight", "goes_on", "key", "reachable", "stream")

    def __init__(self, key: str, stream: resuming.Stream) -> None:
        self.key = key
        self.stream = stream
        self.freight: Freight | None = None
        """What goes by a link; a client has none."""
        self.depot = Depot()
        """The objects that a link's other end has."""
        self.connection = b""
        """What the ROUTER calls its connection: each has a name of its own."""
        self.goes_on = False
        self.reachable = True

    @property
    def is_link(self) -> bool:
        return self.freight is not None


class Doors(Sockets):
    """The local socket and the door."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        on_unreachable: Callable[[bytes, str], None],
        local: Sockets | None = None,
    ) -> None:
        """Bind both, with the keys that lie beside the journal.

        Args:
            broker: its connection says where the local socket is.
            settings: `listen` is the door's address; port 0 is any free one.
            on_unreachable: as of `Sockets`; `why` is also `revoked`, or `anew` where a client that
                is known has forgotten what it was told.
            local: the local socket, where it is bound already; it becomes a part of this.

        Raises:
            InvalidError: the address cannot be bound.
        """
        self._keys = Keys(rendezvous.journal_path(settings).parent)
        self._server = self._keys.server()
        self._stop = broker.stop
        self._timers, self._now = broker.timers, broker.now
        self._links = Links(broker, settings, on_unreachable, self.forget)
        path = rendezvous.bulk_path(broker.connection.address)
        self._freights = Freights(path, broker.watches, self._timers, self._now)
        self._far: dict[bytes, _Far] = {}
        self._peers: dict[bytes, bytes] = {}
        """By connection."""
        self._let_in: set[str] = set()
        """The keys that have connected since the door was opened."""
        self._poller: zmq.Poller | None = None
        self._is_turn = False
        self.door = str(settings.listen)
        self._open()
        if local is None:
            super().__init__(broker.connection.address, on_unreachable)
        else:
            vars(self).update(vars(local))

    # ---- the door -------------------------------------------------------------------------------

    def _open(self) -> None:
        if not zmq.has("curve"):
            raise InvalidError("setting listen: this libzmq has no CURVE; `pip install pyzmq` has")
        self._door_context = context = zmq.Context()
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.bind(_ZAP)
        self._far_router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        router = self._far_router
        router.curve_server = True
        router.curve_secretkey = self._server.secret.encode()
        router.zap_domain = b"clients"
        router.ipv6 = "[" in self.door
        if self.door.startswith("ipc:"):
            router.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        router.linger = LINGER_MS
        router.sndhwm = HIGH_WATER_MESSAGES
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, _MOST_FRAME_BYTES)
        router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        router.monitor(_MONITOR, _WATCHED)
        self._unproved = self._connections = 0
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._events.rcvhwm = 0  # where libzmq waits for room in it, `disable_monitor` never ends
        self._events.connect(_MONITOR)
        self._send_far: Callable[..., object] = super(zmq.Socket, router).send
        if self._poller is not None:
            self._register_door(self._poller)
        try:
            router.bind(self.door)
        except zmq.ZMQError as error:
            self._shut()
            raise InvalidError(
                f"setting listen is {self.door!r}, which cannot be bound: {error.strerror}; give "
                "an address of this machine (as a number) and a port that is free"
            ) from error
        self.door = router.getsockopt_string(zmq.LAST_ENDPOINT)

    def _shut(self) -> None:
        if self._far_router.closed:
            return  # it could not be opened again
        sources = (self._far_router, self._zap, self._events)
        self._far_router.disable_monitor()
        for source in sources:
            if self._poller is not None:
                self._poller.unregister(source)
            source.close()
        self._door_context.term()

    def _register_door(self, poller: zmq.Poller) -> None:
        for source in (self._far_router, self._zap, self._events):
            poller.register(source, zmq.POLLIN)

    def _answer(self) -> None:
        """Let in, or not, who dials now: their key is looked up in the list as it is now."""
        while self._zap.poll(0):
            _, request, _, address, _, _, key = self._zap.recv_multipart()[:7]
            public = z85.encode(key).decode()
            role, name = self._listed(public)
            if not name:
                _log.warning(
                    "a connection from %s is refused: its key, %s, is not listed",
                    address.decode(errors="replace"),
                    public,
                )
                answer = (b"400", b"this key is not listed", b"")
            else:
                _log.info("%s %s connects from %s", role, name, address.decode(errors="replace"))
                self._let_in.add(public)
                self._expect_look()
                answer = (b"200", b"OK", public.encode())
            self._zap.send_multipart([b"1.0", request, *answer, b""])

    def _listed(self, public: str) -> tuple[Role, str]:
        """Return what a key is listed for, and under which name; an empty one where it is not."""
        try:
            found = self._keys.listed("host").get(public)
            return ("host", found) if found else ("client", self._keys.listed().get(public, ""))
        except ConnectionError as error:
            _log.error("nobody is let in: %s", error)
            return "client", ""

    def _note_events(self) -> None:
        """Write into the log that somebody was not let in, or that a connection has ended.

        Events do not say of which connection they tell: where some are about to prove a key, one of
        these is taken to be the one that ends. The numbers are right in any case.
        """
        while self._events.poll(0):
            (event, _) = struct.unpack("=hi", self._events.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._unproved += 1
                self._connections += 1
                if self._connections == self._most:
                    self._timers.set("flood", self._now(), self._close_for_a_while)
                continue
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._unproved -= 1
                continue
            self._connections -= 1
            if self._unproved > 0:
                self._unproved -= 1
                _log.warning("a connection to %s is refused: it proves no listed key", self.door)
            else:
                _log.info("a connection to %s has ended", self.door)

    def _close_for_a_while(self) -> None:
        """End all connections: so many would take the descriptors that others need."""
        _log.error(
            "%d connections to %s: it is closed for %g s; clients of other machines wait",
            self._connections,
            self.door,
            _CLOSED_SECONDS,
        )
        self._shut()
        for far in self._far.values():
            far.reachable = False
        self._timers.set("flood", self._now() + _CLOSED_SECONDS, self._open_again)

    def _open_again(self) -> None:
        if self._far_router.closed:
            try:
                self._open()
            except InvalidError as error:
                _log.error("%s; it is tried again", error)
                self._timers.set("flood", self._now() + _CLOSED_SECONDS, self._open_again)

    # ---- what the loop asks ---------------------------------------------------------------------

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wait for both, and for who wants to be let in."""
        super().register(poller)
        self._poller = poller
        self._register_door(poller)

    def brings_messages(self, source: object) -> bool:
        """Whether `source` is where messages come from; do what it asks for where it is not."""
        if source is self._zap:
            self._answer()
        elif source is self._events:
            self._note_events()
        return source is self.router or source is self._far_router

    def is_far(self, peer: bytes) -> bool:
        """Whether `peer` came by the door."""
        return peer in self._far or bool(self._links.of(peer))

    def link_of(self, peer: bytes) -> bytes:
        """Return the link through which `peer` speaks, or nothing."""
        return self._links.of(peer)

    def why_not(self, peer: bytes, hello: messages.Hello) -> str | None:
        """Return why one who came through a link is refused; None where nobody did."""
        link = self._links.of(peer)
        return self._links.why_not(link, hello) if link else None

    def goes_on(self, peer: bytes) -> bool:
        """Whether `peer` came back by the door to the stream that it had."""
        far = self._far.get(peer)
        return far is not None and far.goes_on

    def check_keys(self) -> int:
        """End the connections of those whose keys are not listed any more; return how many.

        Raises:
            ConnectionError: the list cannot be read: whoever is connected stays so.
        """
        listed = self._keys.listed() | self._keys.listed("host")
        gone = [(peer, far) for peer, far in self._far.items() if far.key not in listed]
        for peer, far in gone:
            self._lose_far(peer, far, "revoked")
        if not self._let_in <= listed.keys():
            _log.warning("keys were revoked: their connections end, the others begin again")
            self._let_in.clear()
            self._shut()
            try:
                self._open()
            except InvalidError as error:
                self._stop(str(error))
            for far in self._far.values():
                far.reachable = False
        return len(gone)

    def receive(self) -> list[Frame] | None:
        """Return the frames of the next message, of either socket in turn."""
        self._is_turn = not self._is_turn
        if self._is_turn:
            return self._receive_far() or super().receive()
        return super().receive() or self._receive_far()

    @property
    def is_congested(self) -> bool:
        """Whether a reachable peer has messages waiting."""
        if any(far.reachable and far.stream.is_waiting for far in self._far.values()):
            return True
        return super().is_congested

    def send(self, peer: bytes, header: bytes, frames: Sequence[Frame] = ()) -> None:
        """Send a message to `peer`, now or when it can take it."""
        far = self._far.get(peer)
        if far is not None:
            far.stream.put([header, *frames])
            self._push(peer, far)
        elif link := self._links.of(peer):
            far = self._far[link]
            assert far.freight is not None  # noqa: S101  it is a link
            key = None
            if header[1:14] == _STORE_OBJECT:
                if len(frames) > 1 or len(frames[0]) >= LARGE_BYTES:
                    key = header
                else:
                    frames = _once(far.depot, header, frames)
            far.freight.put([peer, header, *frames], key=key)
        else:
            super().send(peer, header, frames)

    def greet(self, peer: bytes, header: bytes) -> None:
        """Send a message to `peer`, which has just been heard of, and then what waits for it."""
        far = self._far.get(peer)
        if far is None:
            greet = self.send if self._links.of(peer) else super().greet
            greet(peer, header)
            return
        mark = far.stream.greeting(fresh=not far.goes_on)
        attempt(self._send_far, [far.connection, mark, header])
        self._push(peer, far)

    def retry(self) -> None:
        """Send what waits for slow peers as far as they take it now."""
        super().retry()
        for peer, far in list(self._far.items()):
            self._push(peer, far)

    def forget(self, peer: bytes) -> None:
        """Drop what waits for a peer that will not come back."""
        far = self._far.pop(peer, None)
        if far is None:
            through = self._far.get(self._links.of(peer))
            if through is not None and through.freight is not None:
                through.freight.forget(peer)
            self._links.forget(peer)
            super().forget(peer)
            return
        self._peers.pop(far.connection, None)
        if far.freight is not None:
            self._freights.end(far.freight)

    def close(self) -> None:
        """Close both after a short while for what is being sent."""
        self._shut()
        self._freights.close()
        super().close()

    # ---- what comes by the door -----------------------------------------------------------------

    def _receive_far(self) -> list[Frame] | None:
        while not self._far_router.closed:
            message = received(self._far_router.recv)
            if message is None:
                return None
            parts, last = message
            try:
                found = self._taken(bytes(parts[0]), parts[1:], str(last.get("User-Id")))
            except (ProtocolError, zmq.ZMQError) as error:  # the second where there is no key
                _log.warning("something that was said over TCP is dropped: %s", error)
                continue
            if found:
                return found
        return None

    def _taken(self, connection: bytes, parts: list[Frame], key: str) -> list[Frame] | None:
        """Return a message, or None where it is for the stream alone, or comes twice."""
        mark = resuming.decode(parts[0] if parts else b"")
        message = mark.joined(parts[1:])
        if mark.number == resuming.GREETING and message:
            peer = self._greeted(connection, mark, message[0], key)
            return None if self._far[peer].is_link else [peer, *message]
        peer = self._peers.get(connection, b"")
        if not peer and not message and self._answers_pulse(connection, mark, key):
            return None
        far = self._far.get(peer)
        if far is None or far.stream.id != mark.stream:
            text = "nobody has said Hello on that connection"
            raise ProtocolError(text)
        if not far.stream.takes(mark, message):
            return None
        word = far.stream.due_word()
        if word is not None:
            attempt(self._send_far, [connection, word])
        if far.freight is None:
            return [peer, *message]
        return self._through(peer, far.freight, message)

    def _through(self, link: bytes, freight: Freight, message: list[Frame]) -> list[Frame] | None:
        """Return what somebody has said through a link."""
        self._links.hear(link)
        if len(message) == 1:
            said = messages.decode_at_broker(bytes(message[0]))
            if isinstance(said, messages.Bye):
                self._lose_far(link, self._far[link], "it has left")
            else:
                self._links.says(link, said)
            return None
        whole, _ = freight.unpacked(message)
        if whole:
            self._links.admit(link, bytes(whole[0]))
        return whole or None

    def _answers_pulse(self, connection: bytes, mark: resuming.Mark, key: str) -> bool:
        """Answer a link that asks, on its second connection, whether anybody is there."""
        for link, far in self._far.items():
            if far.is_link and far.stream.id == mark.stream and far.key == key:
                far.stream.takes(mark, ())
                self._links.hear(link)
                attempt(self._send_far, [connection, far.stream.word()])
                return True
        return False

    def _greeted(self, connection: bytes, mark: resuming.Mark, header: Frame, key: str) -> bytes:
        """Return who says Hello on a connection; it has that peer's stream from now on."""
        hello = messages.decode_at_broker(bytes(header))
        peer = hello.peer.encode() if isinstance(hello, messages.Hello) else b""
        far = self._far.get(peer)
        role, name = self._listed(key)
        is_link = role == "host"
        if not peer.startswith(b"li-" if is_link else b"cl-") or (
            far is not None and far.key != key
        ):
            text = f"{peer!r} is no {role}'s id, or another key's"
            raise ProtocolError(text)
        if self._peers.setdefault(connection, peer) != peer:
            text = f"{peer!r} dials by a connection of another"
            raise ProtocolError(text)
        if far is not None and far.stream.id == mark.stream:
            if far.connection != connection and self._has_ended(connection, far):
                del self._peers[connection]
                text = f"{peer!r} said Hello on a connection that has ended since"
                raise ProtocolError(text)
            far.stream.greeted(mark)
            far.goes_on = far.reachable = True
        else:
            if far is not None:
                self._lose_far(peer, far, "anew")
            far = self._far[peer] = _Far(key, resuming.Stream(mark.stream))
            if is_link:
                far.freight = self._freights.begin(self.door, partial(self._forward, peer, far))
        if far.connection != connection:
            self._peers.pop(far.connection, None)
        far.connection = connection
        self._peers[connection] = peer
        self._expect_look()
        if far.freight is not None:
            way = self._freights.way(far.freight)
            self.greet(peer, self._links.meet(peer, name, way))
        return peer

    def _forward(self, link: bytes, far: _Far, message: Sequence[Frame]) -> None:
        """Send a message by a link, whose large frames are there."""
        far.stream.put(message)
        self._push(link, far)

    def _lose_far(self, peer: bytes, far: _Far, why: str) -> None:
        """A client or a link is gone for good."""
        if far.is_link:
            self._links.lose(peer, why)
        else:
            if why != "anew":
                self.forget(peer)
            self._on_unreachable(peer, why)

    def _has_ended(self, connection: bytes, far: _Far) -> bool:
        """Whether nobody is there any more; where somebody is, he hears what has arrived.

        What was said before a connection was cut may be read after what is said on the next one.
        """
        return attempt(self._send_far, [connection, far.stream.word()]) == errno.EHOSTUNREACH

    def _push(self, peer: bytes, far: _Far) -> None:
        stream = far.stream
        while far.reachable and (message := stream.next()) is not None:
            problem = attempt(self._send_far, [far.connection, *message])
            if problem == errno.EHOSTUNREACH:
                self._lose_sight(peer, far)
            if problem:
                break
            stream.sent()
        if stream.kept_bytes > (LINK_LIMIT_BYTES if far.is_link else QUEUE_LIMIT_BYTES):
            _log.error("%r reads nothing and %d MB wait for it", peer, stream.kept_bytes // 2**20)
            self._lose_far(peer, far, "full")

    def _lose_sight(self, peer: bytes, far: _Far) -> None:
        far.reachable = False
        if not far.is_link:  # of these it is known how long they may be silent
            self._on_unreachable(peer, "gone")

    def _expect_look(self) -> None:
        self._timers.set_if_earlier("door", self._now() + _LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """See who is still there (whoever is cut off says nothing), and by which keys."""
        try:
            self.check_keys()
        except ConnectionError as error:
            _log.error("whoever is connected stays so: %s", error)
        for peer, far in list(self._far.items()):
            word = [far.connection, far.stream.word()]
            if far.reachable and attempt(self._send_far, word) == errno.EHOSTUNREACH:
                self._lose_sight(peer, far)
        if self._far or self._let_in:
            self._expect_look()


_STORE_OBJECT: Final = b"\xacstore_object"


def _once(depot: Depot, header: bytes, frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames that an object needs: none where it has gone to that machine before."""
    stored = messages.decode_at_host(header)
    if not isinstance(stored, messages.StoreObject):
        return frames
    if depot.has(stored.digest):
        return ()
    depot.put(stored.digest, len(frames[0]))
    return frames
