"""The local socket, and beside it the door for other machines: TCP, by keys alone.

Theory. The `door` is a second ROUTER, which lets in by keys. Nobody speaks under an id that another
key has. TCP connections are cut, by networks and lids, while both ends live on; so what goes
through is a `resuming.Stream` for each client, and after a `Hello` on a new connection both ends go
on where they were.

A key is listed for a client or for a host. A host's is a *link*, through which all speak that are
there (`links`).

Guarantees: nobody is by a client's key a host, nor the other way round. A key that is revoked is
cut at once: the door is closed and opened again, which the other clients do not notice but for a
moment. Clients of this machine are served while the door is closed. Not guaranteed: that the broker
sees nothing (payloads are in its memory); anything about rates, or that clients of other machines
get in while somebody floods the door.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import zmq

from kernel_worker import rendezvous
from kernel_worker.broker.door import Door
from kernel_worker.broker.freight import Freights
from kernel_worker.broker.links import Links
from kernel_worker.broker.sockets import (
    QUEUE_LIMIT_BYTES,
    Sockets,
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
    from kernel_worker.settings import Settings

LINK_LIMIT_BYTES: Final = 8 * QUEUE_LIMIT_BYTES
"""What waits for all that speak through a link; most of it is in this memory anyhow."""
_LOOK_SECONDS: Final = 15.0
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
        self._stop = broker.stop
        self._timers, self._now = broker.timers, broker.now
        self._links = Links(broker, settings, on_unreachable, self.forget)
        path = rendezvous.bulk_path(broker.connection.address)
        self._freights = Freights(path, broker.watches, self._timers, self._now)
        self._far: dict[bytes, _Far] = {}
        self._peers: dict[bytes, bytes] = {}
        """By connection."""
        self._is_turn = False
        self._door = Door(
            str(settings.listen),
            self._keys,
            self._timers,
            self._now,
            on_let_in=self._expect_look,
            on_cut=self._lose_all_sight,
        )
        if local is None:
            super().__init__(broker.connection.address, on_unreachable)
        else:
            vars(self).update(vars(local))

    # ---- what the loop asks ---------------------------------------------------------------------

    @property
    def door(self) -> str:
        """Where other machines get in."""
        return self._door.address

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wait for both, and for who wants to be let in."""
        super().register(poller)
        self._door.register(poller)

    def brings_messages(self, source: object) -> bool:
        """Whether `source` is where messages come from; do what it asks for where it is not."""
        return source is self.router or self._door.brings_messages(source)

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
        if self._door.has_let_in_others(listed):
            _log.warning("keys were revoked: their connections end, the others begin again")
            try:
                self._door.begin_anew()
            except InvalidError as error:
                self._stop(str(error))
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
        self._door.send([far.connection, mark, header])
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
        self._door.shut()
        self._freights.close()
        super().close()

    # ---- what comes by the door -----------------------------------------------------------------

    def _receive_far(self) -> list[Frame] | None:
        while (message := self._door.receive()) is not None:
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
            self._door.send([connection, word])
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
                self._door.send([connection, far.stream.word()])
                return True
        return False

    def _greeted(self, connection: bytes, mark: resuming.Mark, header: Frame, key: str) -> bytes:
        """Return who says Hello on a connection; it has that peer's stream from now on."""
        hello = messages.decode_at_broker(bytes(header))
        peer = hello.peer.encode() if isinstance(hello, messages.Hello) else b""
        far = self._far.get(peer)
        role, name = self._door.role_of(key)
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
        return self._door.send([connection, far.stream.word()]) == errno.EHOSTUNREACH

    def _push(self, peer: bytes, far: _Far) -> None:
        stream = far.stream
        while far.reachable and (message := stream.next()) is not None:
            problem = self._door.send([far.connection, *message])
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

    def _lose_all_sight(self) -> None:
        for far in self._far.values():
            far.reachable = False

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
            if far.reachable and self._door.send(word) == errno.EHOSTUNREACH:
                self._lose_sight(peer, far)
        if self._far or self._door.has_let_in:
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
