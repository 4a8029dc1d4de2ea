"""What the journal holds and what comes, told without gap or repetition: a fake broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kernel_worker import records
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.peers import Client, Peers
from kernel_worker.broker.replays import Replays
from kernel_worker.journal.store import StoredFact
from kernel_worker.journal.thread import Outcomes
from kernel_worker.model import CallId, ClientId, Outcome
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.loop import Broker

CALL = CallId("fc-1")


class FakeBroker:
    """What `Replays` sees of a broker; its journal is what the test answers."""

    def __init__(self) -> None:
        self.peers = Peers()
        self.client = Client(ClientId("cl-1"), b"cl-1")
        self.peers.add_client(self.client)
        self.calls = {CALL: OpenCall(CALL, ClientId(""), attached=False, opened_at=0.0)}
        self.ended_calls: dict[CallId, bool] = {}
        self.reads: list[tuple[int, CallId, int]] = []
        self.reads_items: list[bool] = []
        self.sent: list[Any] = []
        self.journal = self

    def read_outcomes(self, request: int, call: CallId, after: int, *, items: bool) -> None:
        self.reads.append((request, call, after))
        self.reads_items.append(items)

    def send(self, _: bytes, header: bytes, frames: Any = ()) -> None:
        self.sent.append((messages.decode_at_client(header), list(frames)))


def made() -> tuple[FakeBroker, Replays]:
    broker = FakeBroker()
    return broker, Replays(cast("Broker", broker))


def fact(position: int, start: int) -> StoredFact:
    return StoredFact(position, records.RangeSucceeded(CALL, start, start + 1, start), [b"value"])


def test_a_call_is_listened_to_from_the_last_page_of_the_journal_on() -> None:
    broker, replays = made()
    listeners = broker.calls[CALL].listeners
    replays.attach(broker.client, CALL)
    assert broker.reads == [(1, CALL, 0)]
    replays.on_outcomes(Outcomes(1, [fact(10, 0), fact(12, 1)], last=False))
    assert broker.reads[1:] == [(2, CALL, 12)]
    assert listeners == []
    lost = records.InputEnded(CALL, 2, 1, Outcome.LOST, 3, "it died")
    replays.on_outcomes(Outcomes(2, [StoredFact(13, lost, [])], last=True))
    assert listeners == [broker.client.id]
    assert broker.sent == [
        (messages.Results(CALL, 0, 1, 0), [b"value"]),
        (messages.Results(CALL, 1, 1, 1), [b"value"]),
        (messages.Failure(CALL, 2, 1, Outcome.LOST, 3, "it died"), []),
    ]
    replays.attach(broker.client, CALL)
    assert listeners == [], "it hears everything anew, and what comes meanwhile once"


def test_a_client_that_has_left_or_come_anew_is_told_nothing() -> None:
    broker, replays = made()
    replays.attach(broker.client, CALL)
    broker.peers.add_client(Client(broker.client.id, b"cl-1"))
    replays.on_outcomes(Outcomes(1, [fact(1, 0)], last=True))
    assert (broker.sent, broker.calls[CALL].listeners) == ([], [])


def test_a_call_that_has_ended_is_read_and_one_that_has_expired_is_named() -> None:
    broker, replays = made()
    broker.calls.clear()
    broker.ended_calls = {CALL: False, CallId("fc-old"): True}
    replays.attach(broker.client, CALL)
    assert broker.reads == [(1, CALL, 0)]
    replays.on_outcomes(Outcomes(1, [fact(1, 0)], last=True))
    replays.attach(broker.client, CallId("fc-old"))
    replays.attach(broker.client, CallId("fc-none"))
    errors = [m.error for m, _ in broker.sent if isinstance(m, messages.Rejected)]
    assert errors == ["OutputExpiredError", "NotFoundError"]
    assert len(broker.reads) == 1


def given(position: int, start: int) -> StoredFact:
    return StoredFact(position, records.ItemsYielded(CALL, 0, start, 2), [b"two items"])


def test_items_are_told_to_those_who_asked_for_them() -> None:
    broker, replays = made()
    call = broker.calls[CALL]
    replays.attach(broker.client, CALL, items=7)
    replays.on_outcomes(Outcomes(1, [given(1, 0), given(2, 2)], last=True))
    assert broker.reads_items == [True]
    assert [message for message, _ in broker.sent] == [
        messages.Replaying(CALL, 7),
        messages.Items(CALL, 0, 0, 2),
        messages.Items(CALL, 0, 2, 2),
    ]
    assert call.item_listeners == call.listeners == [broker.client.id]


def test_the_last_wish_counts_and_what_was_read_for_an_earlier_one_is_dropped() -> None:
    broker, replays = made()
    call = broker.calls[CALL]
    replays.attach(broker.client, CALL, items=7)
    replays.attach(broker.client, CALL)
    replays.on_outcomes(Outcomes(1, [given(1, 0)], last=False))
    assert (len(broker.reads), len(broker.sent)) == (2, 1)
    replays.on_outcomes(Outcomes(2, [], last=True))
    assert (call.listeners, call.item_listeners) == ([broker.client.id], [])
    replays.attach(broker.client, CALL, items=7)
    assert (call.listeners, call.item_listeners) == ([], [])
    broker.peers.remove(broker.client)
    replays.on_outcomes(Outcomes(3, [given(1, 0)], last=True))
    assert (call.listeners, len(broker.sent)) == ([], 2)
