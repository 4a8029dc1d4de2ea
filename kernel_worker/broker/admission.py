"""Who comes and who goes: `Hello`, `Bye`, deaths and silences.

A process of this machine is watched: its end is known at once. Whoever is elsewhere, or lives but
has no connection any more, has a time of grace to come back.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.broker.bounds import check_numbers
from kernel_worker.broker.links import is_lost_with_its_link
from kernel_worker.broker.peers import Client, Host, Peer, Worker
from kernel_worker.broker.watches import ProcessWatch
from kernel_worker.core import events
from kernel_worker.errors import ProtocolError
from kernel_worker.model import PROTOCOL_MAJOR, ClientId, HostId, WorkerId
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.loop import Broker

_log = logging.getLogger(__name__)
_REMEMBERED = 256


class Admission:
    """Lets peers in and notices when they are gone."""

    def __init__(self, broker: Broker, grace_seconds: float) -> None:
        """Serve `broker`; a silent client is given up after `grace_seconds`."""
        self._broker = broker
        self._peers = broker.peers
        self._grace_seconds = grace_seconds
        self._dead: deque[bytes] = deque(maxlen=_REMEMBERED)
        """Whose process ended last."""

    def hello(self, routing: bytes, hello: messages.Hello) -> None:
        """Let a peer in, or say why not."""
        reason = self._why_not(routing, hello)
        if reason:
            self.refuse(routing, reason)
            return
        worker = self._peers.workers.get(WorkerId(hello.peer))
        if worker is not None and hello.number < worker.number:
            return
        broker = self._broker
        if broker.sockets.goes_on(routing) and routing in self._peers.speaking:
            broker.timers.cancel(("grace", routing))
            self._welcome(routing)
            return
        event = self._admit(routing, hello)
        self._welcome(routing)
        self._say_what_stays(routing)
        broker.handle(event)

    def starting(self, routing: bytes, message: messages.ToBroker) -> Worker | None:
        """Return the worker that says, instead of `Hello`, why it could not start."""
        if not isinstance(message, messages.StartFailed) or message.worker.encode() != routing:
            return None
        return self._peers.workers.get(message.worker)

    def ignores(self, routing: bytes) -> bool:
        """Whether nobody hears of this: what was on its way from a process that has ended, mostly.

        A death is seen at once, the last messages (that an input of a killed worker runs on, say)
        come through the socket a moment later.
        """
        return routing in self._dead or self._is_asked_for(routing)

    def rejoin(self, routing: bytes, hello: messages.Hello) -> events.HostRejoined | None:
        """Let a host agent in that has outlived another broker; its workers may speak then."""
        reason = self._why_not(routing, msgspec.structs.replace(hello, survivors=()))
        if not reason:
            try:
                check_numbers(hello.survivors)
            except ProtocolError as error:
                reason = str(error)
        if reason or hello.resources is None:
            self.refuse(routing, reason)
            return None
        self._admit(routing, hello)
        for one in hello.survivors:
            self._peers.expect_worker(one.worker, HostId(hello.peer), one.spec.pool, one.number)
        self._welcome(routing)
        _log.info("host %s is back, with %d workers", hello.peer, len(hello.survivors))
        far = self._broker.sockets.is_far(routing)
        return events.HostRejoined(HostId(hello.peer), hello.resources, hello.survivors, far)

    def _welcome(self, routing: bytes) -> None:
        connection = self._broker.connection
        welcome = messages.Welcome(connection.incarnation, connection.machine)
        self._broker.sockets.greet(routing, messages.encode(welcome))

    def _say_what_stays(self, routing: bytes) -> None:
        """Have the host agent of a broker that has schedules start the one that follows it."""
        host = self._peers.speaking.get(routing)
        if isinstance(host, Host) and self._broker.schedules.is_wanted:
            self._broker.schedules.tell(host)

    def _is_asked_for(self, routing: bytes) -> bool:
        """Whether it is a worker that will say `Hello`.

        One that has outlived a broker may be quicker to say what was on its way; it repeats that.
        """
        try:
            return WorkerId(routing.decode()) in self._peers.workers
        except UnicodeDecodeError:
            return False

    def refuse(self, routing: bytes, reason: str) -> None:
        """Tell somebody who is not let in."""
        _log.warning("%r is refused: %s", routing, reason)
        self._broker.send(routing, messages.encode(messages.Refused(reason)))
        self._broker.sockets.forget(routing)

    def lose(self, peer: Peer) -> None:
        """The peer is gone for good."""
        broker = self._broker
        self._peers.remove(peer)
        broker.sockets.forget(peer.routing)
        broker.timers.cancel(("grace", peer.routing))
        match peer:
            case Client():
                for call in broker.calls.values():
                    for listeners in (call.listeners, call.item_listeners):
                        if peer.id in listeners:
                            listeners.remove(peer.id)
                broker.objects.forget(peer.id)
                broker.client_gone(peer.id)
                broker.handle(events.ClientLost(peer.id))
                broker.release_pools()
            case Host():
                for worker in self._peers.workers_of(peer.id):
                    self._peers.remove(worker)
                    broker.sockets.forget(worker.routing)
                broker.handle(events.HostLost(peer.id))
            case Worker():
                pass  # its host tells how it ended

    def unreachable(self, routing: bytes, why: str) -> None:
        """A message could not be delivered: the connection is gone, or too much waits for it.

        Or the peer must not be here any more, or says itself that it begins anew.
        """
        peer = self._peers.speaking.get(routing)
        if peer is None:
            self._broker.sockets.forget(routing)
        elif why == "anew" or is_lost_with_its_link(peer, why):
            self.lose(peer)
        elif isinstance(peer, Client):
            seconds = self._grace_seconds if why == "gone" else 0.0
            at = self._broker.now() + seconds
            self._broker.timers.set(("grace", routing), at, self._loser(peer))

    def _loser(self, peer: Peer) -> Callable[[], None]:
        def lose_if_there() -> None:
            if self._peers.speaking.get(peer.routing) is peer:
                self.lose(peer)

        return lose_if_there

    def _mourner(self, peer: Peer) -> Callable[[], None]:
        lose = self._loser(peer)

        def note_and_lose() -> None:
            self._dead.append(peer.routing)
            lose()

        return note_and_lose

    def _why_not(self, routing: bytes, hello: messages.Hello) -> str:
        if hello.major != PROTOCOL_MAJOR:
            return (
                f"{hello.peer} speaks protocol {hello.major}.{hello.minor}, this broker"
                f" {PROTOCOL_MAJOR}.{messages.PROTOCOL_MINOR}: use the same version on both sides"
            )
        if hello.peer.encode() != routing:
            return f"{hello.peer!r} dialled as {routing!r}"
        through_link = self._broker.sockets.why_not(routing, hello)
        if through_link:
            return through_link
        if through_link is None and self._broker.sockets.is_far(routing):
            if hello.role != "client":
                return f"{hello.peer} would be a {hello.role}: only clients come over TCP"
            known = self._peers.speaking.get(routing)
            if isinstance(known, Client) and not known.is_far:
                return f"{hello.peer} is a client of this machine"
        if hello.role == "link":
            return f"{hello.peer} would be a link: these come over TCP"
        if hello.role == "worker" and hello.peer not in self._peers.workers:
            return f"nobody asked for worker {hello.peer}"
        if hello.role == "host" and hello.resources is None:
            return f"host {hello.peer} did not say what it has"
        if hello.role == "host" and hello.survivors:
            return f"host {hello.peer} is late: what its workers ran was given to others"
        if hello.role == "host":
            check_numbers(hello.resources)
        return ""

    def _admit(self, routing: bytes, hello: messages.Hello) -> events.Event:
        if hello.role == "worker":
            worker = self._peers.workers[WorkerId(hello.peer)]
            self._peers.worker_spoke(worker)
            return events.WorkerReady(worker.id)
        known = self._peers.speaking.get(routing)
        if isinstance(known, Client | Host) and known.watch is not None:
            known.watch.close()
        self._broker.timers.cancel(("grace", routing))
        far = self._broker.sockets.is_far(routing)
        if hello.role == "host":
            assert hello.resources is not None  # noqa: S101  checked by _why_not
            host = Host(HostId(hello.peer), routing, hello.resources, hello.pid, hello.machine, far)
            self._peers.add_host(host)
            host.watch = None if far else self._watch(hello, host)
            return events.HostJoined(host.id, host.resources, far)
        self._broker.timers.cancel("idle")
        client = Client(ClientId(hello.peer), routing, 0 if far else hello.pid, far)
        self._peers.add_client(client)
        client.watch = None if far else self._watch(hello, client)
        self._broker.sweeping.look_later()
        is_there = self._broker.sockets.why_not(routing, hello) == ""
        return events.ClientConnected(client.id, bool(hello.worker) and (not far or is_there))

    def _watch(self, hello: messages.Hello, peer: Peer) -> ProcessWatch | None:
        if not hello.pid or hello.machine != self._broker.connection.machine:
            return None
        try:
            return ProcessWatch(self._broker.watches, hello.pid, self._mourner(peer))
        except ProcessLookupError:
            self._broker.timers.set(("grace", peer.routing), 0.0, self._mourner(peer))
        except OSError as error:
            _log.warning("the process of %s cannot be watched: %s", peer.id, error)
        return None
