"""Links: the other machines that run workers, and who speaks through which of them.

Theory. A machine has one connection, its *link*, through which its host agent, its workers and what
these call speak (`outpost` is the other end). The broker sees them as any other peer: what it says
to one goes by the link that the peer has spoken through. Beside that, on a connection of its own
that no bulk delays, the link asks four times a lease whether anybody is there, and is answered.

A link that has not asked for the time of its lease is *silent*: the core gives what its hosts run
to others. After the fence, when it has killed what it has, it is lost. Whoever comes back before
that goes on with the stream of messages that it had, in which it is told what is not wanted any
more.

Guarantees: nobody speaks through a link under the id of a peer that is not that link's. A broker
that was itself stopped for a while does not take its hosts' silence for theirs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from kernel_worker.broker.peers import Client, Host
from kernel_worker.core import events
from kernel_worker.errors import ProtocolError
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.loop import Broker
    from kernel_worker.settings import Settings

GUESTS: Final = (b"ho-", b"ta-", b"cl-")
LOOKS: Final = 4
"""How often in a lease it is looked who is silent, and a link asks."""
LATE: Final = 1.1
"""So many times the fence is waited, for clocks that differ and for processes to die."""
_log = logging.getLogger(__name__)


class _Link:
    """One other machine."""

    __slots__ = ("guests", "heard_at", "is_silent", "name")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.heard_at = now
        self.is_silent = False
        self.guests: set[bytes] = set()


class Links:
    """The links of one broker."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        on_lost: Callable[[bytes, str], None],
        drop: Callable[[bytes], None],
    ) -> None:
        """Know none yet.

        Args:
            broker: whose links they are.
            settings: say how long the lease is, and the fence.
            on_lost: told of each peer that is gone with its link.
            drop: told of each link that is gone: its stream ends.
        """
        self._broker = broker
        self._lease_seconds = settings.host_lease_seconds
        # A host that is not silent yet has nothing to kill.
        self._fence_seconds = max(settings.host_fence_seconds, self._lease_seconds)
        self._on_lost = on_lost
        self._drop = drop
        self._links: dict[bytes, _Link] = {}
        self._guests: dict[bytes, bytes] = {}
        self._looked_at = 0.0

    def of(self, peer: bytes) -> bytes:
        """Return the link through which a peer speaks, or nothing."""
        return self._guests.get(peer, b"")

    def meet(self, link: bytes, name: str, way: messages.BulkWay) -> bytes:
        """Note that a link has said Hello; return what to answer."""
        now = self._broker.now()
        if link not in self._links:
            self._links[link] = _Link(name, now)
            self._note_links()
            _log.info("host %s is linked as %s", name, link.decode())
        self.hear(link)
        if len(self._links) == 1:
            self._looked_at = now
            self._expect_look()
        to = self._broker.connection
        welcome = messages.Welcome(
            to.incarnation, to.machine, self._lease_seconds, self._fence_seconds, way
        )
        return messages.encode(welcome)

    def hear(self, link: bytes) -> None:
        """Something was heard of a link."""
        found = self._links[link]
        found.heard_at = self._broker.now()
        if found.is_silent:
            found.is_silent = False
            _log.warning("host %s is heard again", found.name)
            for host in self._hosts(found):
                self._broker.handle(events.HostHeard(host.id))

    def admit(self, link: bytes, peer: bytes) -> None:
        """Note that `peer` speaks through `link`.

        Raises:
            ProtocolError: it must not, as somebody else has that id.
        """
        known = self._guests.get(peer)
        if known == link:
            return
        if known or not peer.startswith(GUESTS) or self._broker.peers.speaking.get(peer):
            text = f"{self._links[link].name} speaks as {peer!r}, who is not there"
            raise ProtocolError(text)
        self._guests[peer] = link
        self._links[link].guests.add(peer)

    def says(self, link: bytes, message: messages.ToBroker) -> None:
        """Do what a link says for itself."""
        if isinstance(message, messages.Draining):
            for host in self._hosts(self._links[link]):
                self._broker.handle(events.HostDraining(host.id))
        else:
            text = f"{type(message).__name__} is nothing for a link to say"
            raise ProtocolError(text)

    def forget(self, peer: bytes) -> None:
        """Drop a peer that is gone."""
        link = self._links.get(self._guests.pop(peer, b""))
        if link is not None:
            link.guests.discard(peer)

    def lose(self, link: bytes, why: str) -> None:
        """A link is gone for good, and all that speak through it."""
        found = self._links.pop(link, None)
        if found is None:
            return
        _log.warning("host %s is lost: %s", found.name, why)
        self._note_links()
        gone = sorted(found.guests, key=lambda peer: not peer.startswith(b"ho-"))
        for peer in gone:
            self._on_lost(peer, "lost")
            self._guests.pop(peer, None)
        self._drop(link)

    def _note_links(self) -> None:
        """Let a broker that follows this one know whom to wait for."""
        self._broker.know_links(tuple(link.decode() for link in self._links))

    def _hosts(self, link: _Link) -> list[Host]:
        speaking = map(self._broker.peers.speaking.get, link.guests)
        return [peer for peer in speaking if isinstance(peer, Host)]

    def why_not(self, link: bytes, hello: messages.Hello) -> str:
        """Return why one who says Hello through a link is refused; empty where it is not."""
        peers = self._broker.peers
        if hello.role == "host":
            return ""
        worker = hello.worker if hello.role == "client" else hello.peer
        known = next((one for one in peers.workers.values() if one.id == worker), None)
        host = None if known is None else peers.hosts.get(known.host)
        if host is None or self.of(host.routing) != link:
            return f"{hello.peer} is of no worker of that machine"
        return ""

    # ---- silence --------------------------------------------------------------------------------

    def _expect_look(self) -> None:
        at = self._broker.now() + self._lease_seconds / LOOKS
        self._broker.timers.set("links", at, self._look)

    def _look(self) -> None:
        now = self._broker.now()
        asleep = now - self._looked_at > self._lease_seconds / 2
        self._looked_at = now
        for link, found in list(self._links.items()):
            if asleep and not found.is_silent:
                found.heard_at = now
            elif now - found.heard_at > LATE * self._fence_seconds + self._lease_seconds:
                self.lose(link, "it has not come back, and has killed what it had by now")
            elif now - found.heard_at > self._lease_seconds and not found.is_silent:
                found.is_silent = True
                _log.warning(
                    "host %s has not been heard for %g s: what it runs is given to others",
                    found.name,
                    self._lease_seconds,
                )
                for host in self._hosts(found):
                    self._broker.handle(events.HostSilent(host.id))
        if self._links:
            self._expect_look()


def is_lost_with_its_link(peer: object, why: str) -> bool:
    """Whether a peer is gone for good because its link is; workers go with their host."""
    return why == "lost" and isinstance(peer, Client | Host)
