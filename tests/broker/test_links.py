"""Through a link those speak that are there, and nobody else, by a key that is for that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.broker.bulk import DOWN, UP, Dialler, Exchange
from kernel_worker.far import Far
from kernel_worker.keys import Keys
from kernel_worker.model import HostResources
from kernel_worker.rendezvous import journal_path
from kernel_worker.wire import messages
from tests.broker.far import LIMIT_SECONDS, Listening, to
from tests.broker.speaking import Client
from tests.waiting import wait_until


class LinkSpeaker:
    """The other end of a link, by whatever key."""

    def __init__(self, listening: Listening, name: str, role: str = "host", peer: str = "") -> None:
        known = Keys(journal_path(listening.settings).parent)
        given = known.invite(name, listening.connection.door, role)  # type: ignore[arg-type]
        self._context = zmq.Context()
        self.far = Far(self._context, to(given), messages.Hello("link", peer or f"li-{name}"))

    def say(self, peer: str, message: messages.ToBroker) -> None:
        self.far.send([peer.encode(), messages.encode(message)])

    def hear(self) -> list[bytes]:
        heard = self.far.wait(LIMIT_SECONDS)
        assert heard is not None
        return heard

    def close(self) -> None:
        self.far.close(0)
        self._context.term()


@pytest.fixture
def broker(short_dir: Path) -> Iterator[Listening]:
    made = Listening(
        short_dir, listen="tcp://127.0.0.1:0", host_lease_seconds=1, host_fence_seconds=1
    )
    yield made
    made.end()
    made.close_log()


@pytest.fixture
def link(broker: Listening) -> Iterator[Callable[..., LinkSpeaker]]:
    made: list[LinkSpeaker] = []

    def dial(*args: str) -> LinkSpeaker:
        made.append(LinkSpeaker(broker, *args))
        return made[-1]

    yield dial
    for each in made:
        each.close()


def welcome(speaker: LinkSpeaker) -> messages.Welcome:
    said = messages.decode_at_client(speaker.hear()[0])
    assert isinstance(said, messages.Welcome)
    return said


def host_says(speaker: LinkSpeaker, name: str = "ho-box") -> None:
    speaker.say(name, messages.Hello("host", name, resources=HostResources(2.0, 1000)))
    peer, header = speaker.hear()
    assert peer == name.encode()
    assert isinstance(messages.decode_at_host(header), messages.Welcome)


def hosts(client: Client) -> list[str]:
    return [host.state for host in client.ask("status", "", messages.Status).hosts]


def test_a_host_that_says_nothing_is_silent_and_then_lost(
    broker: Listening, link: Callable[..., LinkSpeaker]
) -> None:
    box, client = link("box"), Client(broker)
    said = welcome(box)
    assert (said.lease_seconds, said.fence_seconds) == (1, 1)
    host_says(box)
    assert hosts(client) == [""]
    wait_until(lambda: hosts(client) == ["silent"], what="it is silent")
    box.far.send([messages.encode(messages.Draining())])
    wait_until(lambda: hosts(client) == ["draining"], what="it is heard, and about to leave")
    wait_until(lambda: not hosts(client), what="it is lost")
    assert "host box is lost: it has not come back" in broker.logged()
    client.close()


def test_a_host_that_is_not_silent_yet_has_nothing_to_kill(short_dir: Path) -> None:
    """A fence below the lease would end what runs between two pulses."""
    made = Listening(
        short_dir, listen="tcp://127.0.0.1:0", host_lease_seconds=20, host_fence_seconds=1
    )
    box = LinkSpeaker(made, "box")
    said = welcome(box)
    box.close()
    made.end()
    made.close_log()
    assert (said.lease_seconds, said.fence_seconds) == (20, 20)


def test_nobody_is_by_a_key_what_it_is_not_for(
    broker: Listening, link: Callable[..., LinkSpeaker]
) -> None:
    client = Client(broker)
    for strange, reason in (
        (link("a", "client"), "b'li-a' is no client's id"),
        (link("b", "host", "cl-b"), "b'cl-b' is no host's id"),
    ):
        wait_until(
            lambda: strange.far.wait(0.01) or reason in broker.logged(),  # noqa: B023
            what="it is refused",
        )
        assert reason in broker.logged()
    assert hosts(client) == []
    client.close()


def test_nobody_speaks_through_a_link_for_somebody_else(
    broker: Listening, link: Callable[..., LinkSpeaker]
) -> None:
    client, box, other = Client(broker), link("box"), link("other")
    welcome(box)
    welcome(other)
    host_says(box)
    for name in (client.peer, "ho-box", "xx"):
        other.say(name, messages.Bye())
        wait_until(
            lambda: f"other speaks as {name.encode()!r}" in broker.logged(),  # noqa: B023
            what="it is refused",
        )
    assert hosts(client) == [""]
    other.say("cl-new", messages.Hello("client", "cl-new"))
    _, header = other.hear()
    said = messages.decode_at_client(header)
    assert isinstance(said, messages.Refused)
    assert "is of no worker of that machine" in said.reason
    other.far.send([messages.encode(messages.DropObjects(()))])
    wait_until(lambda: "DropObjects is nothing for a link" in broker.logged(), what="it is told")
    for speaker in (box, other):
        speaker.far.send([messages.encode(messages.Bye())])
    wait_until(lambda: not hosts(client), what="they have left")
    client.close()


def test_a_revoked_host_is_cut_off_from_bulk_too(
    broker: Listening, link: Callable[..., LinkSpeaker]
) -> None:
    way = welcome(link("box")).bulk
    assert way is not None
    assert repr(way) == f"BulkWay({way.port}, …)"
    assert way.__rich_repr__() == [("port", way.port)]
    exchange = Exchange(way.session, way.secret)
    Dialler(exchange, ("127.0.0.1", way.port))
    wait_until(lambda: UP in exchange.news(), what="it is let in")
    keys, client = Keys(journal_path(broker.settings).parent), Client(broker)
    keys.revoke("box")
    client.ask("keys", "", int)
    wait_until(lambda: DOWN in exchange.news(), what="it is cut off")
    wait_until(lambda: "no link has that session" in broker.logged(), what="it is refused")
    client.close()
    exchange.close()
