"""Each request is answered once, whatever becomes of the broker; what nobody wants goes back."""

from __future__ import annotations

from collections.abc import Sequence

from kernel_worker.shelf import Act, Add, Get, Shelf, Take
from kernel_worker.wire import messages
from kernel_worker.wire.frames import Frame
from notebook_ext.conversation import encode_body
from notebook_ext.shelving import Request, Shelving

Q = Shelf("queue", "q")


class Talk:
    """Shelving, and what it said and heard."""

    def __init__(self) -> None:
        self.said: list[tuple[messages.ToBroker, list[Frame]]] = []
        self.heard: list[tuple[messages.Reply, list[bytes]]] = []
        self.parks: list[bool] = []
        self.shelving = Shelving(self.say)
        self.number = 0

    def say(self, message: messages.ToBroker, frames: Sequence[Frame]) -> None:
        self.said.append((message, list(frames)))

    def ask(self, act: Act, *frames: bytes) -> Request:
        self.number += 1
        request = Request(act, frames, lambda *found: self.heard.append(found), self.parks.append)
        self.shelving.ask(request, self.number)
        return request

    def words(self) -> list[messages.ToBroker]:
        said, self.said = self.said, []
        return [message for message, _ in said]


def test_an_answer_is_received_at_once_where_it_took_something() -> None:
    talk = Talk()
    talk.ask(Take(Q))
    talk.ask(Add(Q), b"1")
    assert talk.said[1] == (messages.UseShelf(2, Add(Q)), [b"1"])
    talk.words()
    assert talk.shelving.answered(messages.Reply(1), [b"x"])
    assert talk.words() == [messages.ShelfWord(received=(1,))]
    assert talk.shelving.answered(messages.Reply(2), [])
    assert talk.words() == [], "it is said with the next request"
    talk.ask(Get(Q, b"t"))
    assert talk.words() == [messages.UseShelf(3, Get(Q, b"t"), received=(2,))]
    assert talk.shelving.answered(messages.Reply(3), [])
    assert not talk.shelving.answered(messages.Reply(3), [])
    assert [reply.request for reply, _ in talk.heard] == [1, 2, 3]
    assert talk.shelving.is_idle


def test_what_comes_for_somebody_who_waits_no_more_goes_back() -> None:
    talk = Talk()
    request = talk.ask(Take(Q))
    talk.shelving.withdraw(request)
    talk.shelving.withdraw(request)
    assert talk.words()[1:] == [messages.ShelfWord(withdrawn=(1,))]
    talk.shelving.answered(messages.Reply(1), [b"x"])
    assert talk.words() == [messages.ShelfWord(returned=(1,))]
    talk.shelving.withdraw(request)
    assert talk.words() == []


def test_who_has_to_wait_is_told_when_it_begins_and_ends() -> None:
    talk = Talk()
    talk.ask(Take(Q))
    assert talk.shelving.parked(1)
    assert talk.shelving.parked(1)
    assert not talk.shelving.parked(2)
    assert talk.parks == [True]
    talk.shelving.answered(messages.Reply(1, encode_body("none"), "Empty"), [])
    assert talk.parks == [True, False]


def test_a_new_broker_is_told_what_is_asked_for_and_nothing_else() -> None:
    talk = Talk()
    talk.ask(Add(Q), b"1")
    talk.ask(Take(Q))
    gone = talk.ask(Take(Q))
    talk.shelving.withdraw(gone)
    talk.shelving.answered(messages.Reply(1), [])
    talk.words()
    talk.shelving.begin()
    assert talk.words() == [
        messages.ShelfWord(asks=(2, 3)),
        messages.UseShelf(2, Take(Q)),
        messages.UseShelf(3, Take(Q)),
        messages.ShelfWord(withdrawn=(3,)),
    ]


def test_where_there_is_no_broker_everybody_hears_why() -> None:
    talk = Talk()
    talk.ask(Take(Q))
    talk.shelving.parked(1)
    talk.shelving.fail(encode_body("gone"), "ConnectionError")
    assert [reply.error for reply, _ in talk.heard] == ["ConnectionError"]
    assert talk.parks == [True, False]
    assert talk.shelving.is_idle
