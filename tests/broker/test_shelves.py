"""The broker keeps dicts and queues over its own end and that of clients, and refuses nonsense."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kernel_worker import shelf as words
from kernel_worker.broker.shelves import Shelves
from kernel_worker.journal.shelves import Shelves as Kept
from kernel_worker.model import ClientId
from kernel_worker.shelf import Add, Await, Count, Get, Open, Put, Remove, Shelf, Take
from kernel_worker.wire import messages
from tests.broker.speaking import Client, RunningBroker, Speaker

D = Shelf("dict", "d", creates=True)
Q = Shelf("queue", "q", creates=True)
TOKEN = b"t" * words.TOKEN_BYTES


class User(Client):
    """A client that uses shelves."""

    def use(self, act: words.Act, *frames: bytes, number: int = 0) -> int:
        self.requests += 1
        self.say(messages.UseShelf(number or self.requests, act), frames)
        return number or self.requests

    def answer(self, number: int) -> tuple[object, list[bytes]]:
        """Return the answer, or the word for an error, and the frames."""
        while isinstance((heard := self.listen()).message, messages.Parked):
            pass
        assert isinstance(heard.message, messages.Reply)
        assert heard.message.request == number
        body = heard.message.error or msgspec.msgpack.decode(heard.message.body)
        return body, heard.frames

    def done(self, act: words.Act, *frames: bytes) -> tuple[object, list[bytes]]:
        return self.answer(self.use(act, *frames))

    def parks(self, act: words.Act) -> int:
        number = self.use(act)
        assert self.hear(messages.Parked).request == number
        return number


@pytest.fixture
def user(broker: RunningBroker, speakers: list[Speaker]) -> Callable[..., User]:
    def make(name: str, **fields: Any) -> User:
        speakers.append(made := User(broker, name, **fields))
        return made

    return make


def test_what_was_answered_is_there_after_kill_9_and_done_once(
    broker: RunningBroker, user: Callable[..., User], speakers: list[Speaker]
) -> None:
    one, other = user("cl-1"), user("cl-2")
    assert one.done(Put(D, (TOKEN,), only_new=True), b"k", b"v") == (1, [])
    assert one.done(Add(Q), b"1", b"2", b"3") == (3, [])
    assert one.done(Take(Q)) == (1, [b"1"])
    assert other.done(Take(Q)) == (1, [b"2"])
    other.say(messages.ShelfWord(received=(1,)))
    other.done(Get(D, TOKEN))
    broker.end(signal.SIGKILL)
    while speakers:
        speakers.pop().close()
    broker.start()
    back, new = user("cl-1"), user("cl-9")
    back.say(messages.ShelfWord(asks=(1, 2, 3)))
    assert back.answer(back.use(Put(D, (TOKEN,), only_new=True), b"k", b"w", number=1)) == (1, [])
    assert back.answer(back.use(Add(Q), b"1", b"2", b"3", number=2)) == (3, [])
    assert back.answer(back.use(Take(Q), number=3)) == (1, [b"1"])
    assert new.done(Get(D, TOKEN)) == (True, [b"v"])
    assert new.done(Take(Q, count=9)) == (1, [b"3"])


def test_who_waits_is_woken_in_turn_by_what_others_do(user: Callable[..., User]) -> None:
    first, second, third = user("cl-1"), user("cl-2"), user("cl-3")
    waits = first.parks(Take(Q, patience_seconds=None))
    behind = second.parks(Take(Q, count=5, patience_seconds=None))
    looks = second.parks(Await(Q, patience_seconds=None))
    assert third.done(Add(Q), b"1", b"2") == (2, [])
    assert first.answer(waits) == (1, [b"1"])
    assert second.answer(behind) == (1, [b"2"])
    assert third.done(Add(Q), b"3") == (1, [])
    assert second.answer(looks) == (True, [])
    waits = first.parks(Take(Shelf("queue", "other", creates=True), patience_seconds=None))
    assert third.done(Remove(Shelf("queue", "other"))) == (True, [])
    assert third.done(Take(Shelf("queue", "q"), b"p", patience_seconds=0.01)) == (words.EMPTY, [])


def test_what_nobody_has_is_the_next_ones(user: Callable[..., User]) -> None:
    one, other = user("cl-1"), user("cl-2")
    one.done(Add(Q), b"1", b"2")
    taken = one.use(Take(Q))
    assert one.answer(taken) == (1, [b"1"])
    one.say(messages.ShelfWord(returned=(taken,)))
    waits = one.parks(Take(Q, b"p", patience_seconds=None))
    one.say(messages.ShelfWord(withdrawn=(waits, 77)))
    assert one.answer(waits) == (words.WITHDRAWN, [])
    assert one.done(Add(Q, b"p"), b"for another") == (1, [])
    assert other.done(Take(Q, count=9)) == (2, [b"1", b"2"])
    other.say(messages.Bye())
    waits = one.use(Take(Q, count=9, patience_seconds=None))
    assert one.answer(waits) == (2, [b"1", b"2"])


def test_a_client_that_was_killed_leaves_its_place_and_its_items(
    user: Callable[..., User],
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        doomed, one = user("cl-1", pid=process.pid), user("cl-2")
        own = Shelf("dict", "~own", creates=True)
        doomed.done(Open(own))
        one.done(Add(Q), b"1")
        assert doomed.done(Take(Q)) == (1, [b"1"])
        doomed.parks(Take(Q, patience_seconds=None))
        waits = one.parks(Take(Q, patience_seconds=None))
        process.kill()
        assert one.answer(waits) == (1, [b"1"])
    assert one.done(Get(Shelf("dict", "~own"), TOKEN)) == ("NotFoundError", [])


def test_who_does_not_come_back_to_a_new_broker_is_gone(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(client_grace_seconds=0.1)
    speakers.append(one := User(broker, "cl-1"))
    one.done(Add(Q), b"1")
    one.done(Take(Q))
    broker.end(signal.SIGKILL)
    speakers.pop().close()
    broker.start()
    speakers.append(other := User(broker, "cl-2"))
    waits = other.parks(Take(Q, patience_seconds=None))
    assert other.answer(waits) == (1, [b"1"])


def test_nonsense_is_refused_and_changes_nothing(
    broker: RunningBroker, user: Callable[..., User]
) -> None:
    one = user("cl-1")
    one.done(Add(Q), b"1")
    large = b"x" * (words.VALUE_BYTES + words.SEAL_BYTES + 1)
    unheard = [Take(Q, count=-1), Take(Q, patience_seconds=float("nan"))]
    nonsense: list[tuple[words.Act, *tuple[bytes, ...]]] = [
        (Get(Shelf("dict", ""), TOKEN),),
        (Get(Shelf("dict", "n" * 65), TOKEN),),
        (Get(Q, TOKEN),),
        (Take(D),),
        (Take(Q, count=0),),
        (Take(Q, count=2**40),),
        *((act,) for act in unheard),
        (Add(Q, ttl_seconds=1e9), b"x"),
        (Add(Q),),
        (Add(Q), large),
        (Count(Q, b"p" * 65),),
        (Count(Q), b"beside"),
        (Put(D, (TOKEN,)), b"k"),
        (Put(D, (b"short",)), b"k", b"v"),
        (Put(D, (TOKEN,)), b"k" * (words.KEY_BYTES + 99), b"v"),
        (Put(D, (TOKEN,)), b"k", large),
    ]
    for act, *frames in nonsense:
        number = one.use(act, *frames)
        if act not in unheard:
            assert one.answer(number) == ("InvalidError", [])
    one.use(Count(Q), number=-1)
    one.use(Count(Q), number=2**63)
    one.say(messages.UseShelf(9, Count(Q), received=(2**63,)))
    for field in ("received", "returned", "withdrawn", "asks"):
        one.say(messages.ShelfWord(**{field: (2**63,)}))
    assert one.done(Count(Q)) == (1, [])
    assert broker.is_alive()


class Here:
    """A broker that has nothing but shelves, in this process; `turn` writes what is asked."""

    def __init__(self) -> None:
        self.peers, self.timers = SimpleNamespace(clients={}), SimpleNamespace()
        self.timers.set_if_earlier = self.timers.set = lambda *_: None
        self.now = lambda: 100.0
        self.answered: list[tuple[int, str]] = []
        self.kept = Kept(sqlite3.connect(":memory:", isolation_level=None))
        self.written: list[Any] = []
        self.token = 0
        this: Any = self
        self.shelves = Shelves(this, this, 0.0)
        self.turn()

    def step(self, act: Callable[[Kept], Any]) -> tuple[int, Any]:
        self.written.append(SimpleNamespace(act=act))
        return self.token, self.written[-1]

    def send(self, _routing: bytes, message: bytes, _frames: Any) -> None:
        said = messages.decode_at_client(message)
        if isinstance(said, messages.Reply):
            self.answered.append((said.request, said.error))

    def use(self, number: int, act: words.Act, *frames: bytes, by: str = "cl-1") -> None:
        client: Any = SimpleNamespace(id=ClientId(by), routing=b"")
        self.peers.clients[client.id] = client
        self.shelves.use(client, messages.UseShelf(number, act), frames)
        self.turn()

    def turn(self) -> None:
        while self.written:
            steps, self.written = self.written, []
            for step in steps:
                step.found = step.act(self.kept)
            self.token += 1
            self.shelves.committed(self.token - 1)


def test_room_for_several_lets_several_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SHELF_BYTES", 10)
    here = Here()
    here.use(1, Add(Q), b"0123456789")
    for number in (2, 3, 4):
        here.use(number, Add(Q, patience_seconds=None), b"abcd")
    assert here.answered == [(1, "")]
    here.use(5, Take(Q))
    assert here.answered == [(1, ""), (5, ""), (2, ""), (3, "")]


def test_who_waits_for_more_sees_what_comes_back() -> None:
    here = Here()
    here.use(1, Add(Q), b"a")
    here.use(2, Take(Q))
    here.use(3, Await(Q, patience_seconds=None))
    assert here.answered == [(1, ""), (2, "")]
    client = here.peers.clients["cl-1"]
    here.shelves.hear(client, messages.ShelfWord(returned=(2,)))
    here.turn()
    assert here.answered[2:] == [(3, "")]


def test_who_waits_where_something_ends_with_its_owner_is_told() -> None:
    here = Here()
    own = Shelf("queue", "~own", creates=True)
    here.use(1, Open(own), by="owner")
    here.use(2, Take(Shelf("queue", "~own"), patience_seconds=None))
    here.use(3, Await(Shelf("queue", "~own"), patience_seconds=None))
    assert here.answered == [(1, "")]
    del here.peers.clients["owner"]
    here.shelves.client_gone(ClientId("owner"))
    here.turn()
    assert here.answered[1:] == [(2, "NotFoundError"), (3, "NotFoundError")]


def test_a_number_that_is_used_twice_confuses_nobody(user: Callable[..., User]) -> None:
    one, other = user("cl-1"), user("cl-2")
    number = one.use(Count(Q))
    for _ in range(2):  # and it is said again
        one.use(Take(Q, patience_seconds=None), number=number)
    assert one.answer(number) == (0, [])
    assert one.hear(messages.Parked).request == number
    assert other.done(Add(Q), b"1") == (1, [])
    assert one.answer(number) == (1, [b"1"])
