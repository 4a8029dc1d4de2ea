"""Objects go to a machine once, whoever asks for them there, and whoever of these dies."""

from __future__ import annotations

import pytest

from kernel_worker.broker.deliveries import Deliveries
from kernel_worker.errors import ProtocolError
from kernel_worker.model import Digest
from kernel_worker.wire import messages

BIG = bytes(10_000)
STORE = messages.encode(messages.StoreObject(Digest("d")))
FIRST, SECOND = b"cl-1", b"cl-2"


def ask(number: int = 1, what: str = "object") -> bytes:
    return messages.encode(messages.Ask(number, what, "d"))  # type: ignore[arg-type]


def reply(number: int = 1, error: str = "") -> bytes:
    return messages.encode(messages.Reply(number, error=error))


def test_an_object_that_was_there_before_comes_by_its_name() -> None:
    made = Deliveries()
    assert made.arrived(b"ho-1", STORE, [BIG]) == [(b"ho-1", STORE, [BIG])]
    assert made.arrived(b"ta-1", STORE, []) == [(b"ta-1", STORE, (BIG,))]
    made.forget()
    with pytest.raises(ProtocolError, match="is not here"):
        made.arrived(b"ta-1", STORE, [])


def test_what_several_ask_for_is_asked_for_once() -> None:
    made = Deliveries()
    assert made.asked(FIRST, ask(1, "status")) is None
    assert made.asked(FIRST, messages.encode(messages.Bye())) is None
    assert made.asked(FIRST, ask(1)) is None
    assert made.asked(SECOND, ask(7)) == []
    other = reply(2)
    assert made.arrived(FIRST, other, []) == [(FIRST, other, [])], "the answer to something else"
    assert made.arrived(FIRST, reply(1), [BIG]) == [
        (FIRST, reply(1), [BIG]),
        (SECOND, reply(7), [BIG]),
    ]
    assert made.asked(SECOND, ask(8)) == [(SECOND, reply(8), (BIG,))]


def test_all_hear_that_there_is_no_such_object() -> None:
    made = Deliveries()
    assert [made.asked(FIRST, ask(1)), made.asked(SECOND, ask(2))] == [None, []]
    heard = made.arrived(FIRST, reply(1, "NotFoundError"), [])
    assert heard[1] == (SECOND, reply(2, "NotFoundError"), [])
    assert made.asked(SECOND, ask(3)) is None, "it is asked for again"


def test_who_dies_while_others_wait_is_followed_by_the_next() -> None:
    made = Deliveries()
    assert [made.asked(FIRST, ask(1)), made.asked(SECOND, ask(2))] == [None, []]
    assert made.gone(b"cl-3") == []
    assert made.gone(FIRST) == [(SECOND, ask(2), ())]
    assert made.gone(SECOND) == []
    assert made.asked(FIRST, ask(1)) is None
