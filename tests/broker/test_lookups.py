"""What is asked of calls that the core has forgotten, played against a broker's process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from kernel_worker.broker import lookups as lookups_module
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.lookups import Lookups
from kernel_worker.broker.peers import Client as PeerClient
from kernel_worker.broker.peers import Peers
from kernel_worker.journal.store import Finished, Store
from kernel_worker.journal.thread import Found
from kernel_worker.model import CallId, ClientId, Outcome, ParentInput, WorkerId
from kernel_worker.records import AttachedCallEnded, Record
from kernel_worker.traces import CallTrace
from kernel_worker.wire import failures, messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker
from tests.journal.facts import submitted, succeeded

if TYPE_CHECKING:
    from kernel_worker.broker.loop import Broker


def recent(client: Client, app: str = "", status: str = "", limit: int = 100) -> list[str]:
    client.requests += 1
    wanted = messages.CallFilter(app, status, limit)
    client.say(messages.Ask(client.requests, "calls", filter=wanted))
    reply = client.hear(messages.Reply)
    return [each.call for each in msgspec.msgpack.decode(reply.body, type=list[messages.CallInfo])]


def ended(client: Client, host: Host) -> None:
    """Let a spawned call of two inputs end: the first succeeds, the second fails."""
    client.define()
    client.submit([1, 2], "fc-ended", attached=False)
    client.hear(messages.Accepted)
    worker = host.start_worker()
    first = worker.lease().message
    worker.done(first, [1])
    second = worker.lease().message
    frame = failures.capture(ValueError("x"))
    worker.say(messages.InputEnded(second.lease, 1, Outcome.FAILED, 0.5), [frame])
    client.say(messages.AttachCall(CallId("fc-ended")))
    client.hear(messages.Results)
    client.hear(messages.Failure)


def test_a_call_that_has_ended_is_told_by_the_journal_also_after_a_restart(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    ended(client, host)
    before = client.ask("call", "fc-ended", messages.CallInfo)
    assert (before.status, before.total, before.succeeded, before.failed) == ("failed", 2, 1, 1)
    assert (before.name, before.app, before.closed) == ("f", "app", True)
    assert before.ended_at is not None
    assert before.submitted_at <= before.ended_at
    broker.end(signal.SIGKILL)
    broker.start()
    again = Client(broker, "cl-2")
    speakers.append(again)
    assert again.ask("call", "fc-ended", messages.CallInfo) == before


def test_open_and_ended_calls_are_one_list(client: Client, host: Host) -> None:
    ended(client, host)
    client.submit([1], "fc-attached")
    client.submit([1], "fc-spawned", attached=False)
    client.hear(messages.Accepted)
    assert recent(client) == ["fc-spawned", "fc-attached", "fc-ended"]
    assert recent(client, limit=2) == ["fc-spawned", "fc-attached"]
    assert recent(client, "app", "failed") == ["fc-ended"]
    assert recent(client, "other") == recent(client, status="expired") == []
    assert recent(client, status="ended?") == []
    assert recent(client, limit=-1) == []


def test_what_nobody_knows_is_named(client: Client) -> None:
    client.say(messages.Ask(1, "call", "fc-none"))
    reply = client.hear(messages.Reply)
    assert reply.error == "NotFoundError"
    assert "fc-none" in msgspec.msgpack.decode(reply.body, type=str)


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"pending": 2}, "pending"),
        ({"pending": 1, "running": 1}, "running"),
        ({"pending": 1, "succeeded": 1}, "running"),
        ({"succeeded": 2}, "succeeded"),
        ({"succeeded": 1, "cancelled": 1}, "cancelled"),
        ({"failed": 1, "cancelled": 1}, "failed"),
        ({"succeeded": 2, "expired": True}, "expired"),
    ],
)
def test_the_state_of_a_call_in_one_word(counts: dict[str, int], status: str) -> None:
    given = {"pending": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0, **counts}
    info = messages.CallInfo(
        CallId("fc-1"),
        "f",
        attached=False,
        closed=True,
        total=2,
        **given,  # type: ignore[arg-type]
    )
    assert info.status == status


def graph(client: Client, call: str) -> tuple[messages.Graph, list[CallTrace], list[Any]]:
    """Return what is told of the tree of a call: the body, the traces, the records."""
    client.requests += 1
    client.say(messages.Ask(client.requests, "graph", call))
    heard = client.listen()
    told = msgspec.msgpack.decode(heard.message.body, type=messages.Graph)
    first, *rest = heard.frames
    facts = [one for part in rest for one in msgspec.msgpack.decode(part, type=list[Record])]
    return told, msgspec.msgpack.decode(first, type=list[CallTrace]), facts


def test_a_tree_is_told_by_core_and_journal_and_by_the_journal_alone(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    client.submit([1, 2], "fc-top", attached=False)
    client.hear(messages.Accepted)
    worker = host.start_worker()
    lease = worker.lease().message
    parent = ParentInput(lease.call, 0, 1, WorkerId(worker.peer), lease.lease)
    inner = Client(broker, "cl-in")
    speakers.append(inner)
    inner.define()
    inner.submit([7], "fc-in", parent=parent)
    assert inner.ask("call", "fc-in", messages.CallInfo).total == 1
    told, open_calls, facts = graph(client, "fc-in")
    assert (told.root, [call.call for call in told.calls]) == ("fc-top", ["fc-top"])
    assert {trace.call: trace.parent for trace in open_calls} == {"fc-top": "", "fc-in": "fc-top"}
    inner.say(messages.Blocked(parent, (CallId("fc-in"),)))
    second = host.start_worker()
    second.work(lambda x: x)
    inner.hear(messages.Results)
    _, open_calls, facts = graph(client, "fc-top")
    assert [trace.call for trace in open_calls] == ["fc-top"]
    ended = [one.trace for one in facts if isinstance(one, AttachedCallEnded)]
    assert [(trace.call, trace.parent, trace.parent_index) for trace in ended] == [
        ("fc-in", "fc-top", 0)
    ]
    broker.end(signal.SIGKILL)
    broker.start()
    again = Client(broker, "cl-2")
    speakers.append(again)
    told, open_calls, later = graph(again, "fc-top")
    assert (told.root, later) == ("fc-top", facts)
    assert [(trace.call, trace.total) for trace in open_calls] == [("fc-top", 2)]


def test_an_attached_tree_is_told_by_the_core_alone_and_one_of_nobody_is_not(
    client: Client, host: Host
) -> None:
    client.define()
    client.submit([1])
    host.start_worker().work(lambda x: x)
    client.hear(messages.Results)
    told, known, facts = graph(client, "fc-1")
    assert (told.calls, [(one.call, one.total) for one in known], facts) == ([], [("fc-1", 1)], [])
    client.say(messages.Ask(9, "graph", "fc-none"))
    assert client.hear(messages.Reply).error == "NotFoundError"


def happened(
    client: Client, call: str, after: int = 0
) -> tuple[messages.EventPage, list[CallTrace], list[Any]]:
    """Return what is new of a call: the body, the trace, the records."""
    client.requests += 1
    client.say(messages.Ask(client.requests, "events", call, after=after))
    heard = client.listen()
    page = msgspec.msgpack.decode(heard.message.body, type=messages.EventPage)
    known, facts = heard.frames
    return (
        page,
        msgspec.msgpack.decode(known, type=list[CallTrace]),
        msgspec.msgpack.decode(facts, type=list[Record]),
    )


def test_what_is_new_of_a_spawned_call_also_after_a_restart(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    client.submit([1, 2], "fc-open", attached=False)
    client.hear(messages.Accepted)
    worker = host.start_worker()
    first = worker.lease().message
    page, known, facts = happened(client, "fc-open")
    assert page.is_open
    assert [trace.running[0][1] for trace in known] == [0]
    assert [type(fact).__name__ for fact in facts] == ["InputsAdded", "InputsClosed"]
    worker.done(first, [1])
    worker.done(worker.lease().message, [2])
    client.say(messages.AttachCall(CallId("fc-open")))
    client.hear(messages.Results)
    client.hear(messages.Results)
    broker.end(signal.SIGKILL)
    broker.start()
    again = Client(broker, "cl-2")
    speakers.append(again)
    page, known, facts = happened(again, "fc-open", page.after)
    assert (page.is_open, page.more, known) == (False, False, [])
    assert page.submitted_at > 0
    assert {type(fact).__name__ for fact in facts} >= {"RangeSucceeded"}
    assert happened(again, "fc-open", page.after)[2] == []


def test_what_is_new_of_an_attached_call(client: Client, host: Host) -> None:
    client.define()
    client.submit([1])
    assert happened(client, "fc-1")[0].is_open
    host.start_worker().work(lambda x: x)
    client.hear(messages.Results)
    page, (trace,), facts = happened(client, "fc-1")
    assert (page.is_open, facts, page.after) == (False, [], len(trace.rows))
    client.say(messages.Ask(9, "events", "fc-none"))
    assert client.hear(messages.Reply).error == "NotFoundError"


def test_what_became_of_a_call_expires(tmp_path: Path) -> None:
    broker = Closing()
    lookups = Lookups(cast("Broker", broker))
    store = Store.open(tmp_path / "journal.db")
    call = broker.call.call
    store.write([submitted(call), succeeded(call, 0, b"v"), Finished(call, 100.0)])
    assert store.expire(150.0) == [call]
    lookups.events(broker.client, messages.Ask(1, "events", call))
    lookups.ask_journal()
    number = broker.asked.pop()
    lookups.on_found(Found(number, broker.looks[number](store)))
    assert [reply.error for reply in broker.told] == ["OutputExpiredError"]
    store.close()


def test_long_trees_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups_module, "FACTS_PER_LOOK", 2)
    broker = Closing()
    lookups = Lookups(cast("Broker", broker))
    store = Store.open(tmp_path / "journal.db")
    store.write([submitted("fc-1"), *(succeeded("fc-1", at, b"v") for at in range(5))])
    lookups.graph(broker.client, messages.Ask(1, "graph", "fc-1"))
    while lookups.has_questions:
        lookups.ask_journal()
        number = broker.asked.pop()
        lookups.on_found(Found(number, broker.looks[number](store)))
    parts = broker.frames[1:]
    assert [len(msgspec.msgpack.decode(part)) for part in parts] == [2, 2, 1]
    store.close()


class Closing:
    """What `Lookups` sees of a broker whose core has forgotten a call that it still holds."""

    def __init__(self) -> None:
        self.call = OpenCall(CallId("fc-1"), ClientId(""), attached=False, opened_at=0.0)
        self.calls = {self.call.call: self.call}
        self.ended_calls: dict[CallId, bool] = {}
        self.peers = Peers()
        self.client = PeerClient(ClientId("cl-1"), b"cl-1")
        self.peers.add_client(self.client)
        self.scheduler = self.journal = self
        self.asked: list[int] = []
        self.looks: dict[int, Callable[[Any], Any]] = {}
        self.told: list[Any] = []
        self.frames: list[bytes] = []

    def root_of(self, _: CallId) -> None:
        return None

    def call_tree(self, _: CallId) -> list[bytes]:
        return []

    def call_info(self, _: CallId) -> None:
        return None

    def call_trace(self, _: CallId, after: int, limit: int) -> None:
        return None

    def recent_calls(self) -> list[Any]:
        return []

    def look(self, number: int, look: Callable[[Any], Any]) -> None:
        self.asked.append(number)
        self.looks[number] = look

    def send(self, _: bytes, header: bytes, frames: Any = ()) -> None:
        self.frames = list(frames)
        self.told.append(messages.decode_at_client(header))


def test_a_call_that_closes_is_waited_for(tmp_path: Path) -> None:
    broker = Closing()
    lookups = Lookups(cast("Broker", broker))
    store = Store.open(tmp_path / "journal.db")
    store.write([submitted("fc-1")])

    def let_the_journal_answer() -> None:
        assert lookups.has_questions
        assert broker.asked == [], "the facts of this turn go first"
        lookups.ask_journal()
        assert not lookups.has_questions
        asked, broker.asked = broker.asked, []
        for number in asked:
            lookups.on_found(Found(number, broker.looks[number](store)))

    lookups.one(broker.client, messages.Ask(1, "call", "fc-1"))
    lookups.recent(broker.client, messages.Ask(2, "calls"))
    del broker.calls[broker.call.call]
    broker.ended_calls[broker.call.call] = False
    store.write([Finished(broker.call.call, 2.0, (1, 0, 0, 0, 0, 0))])
    let_the_journal_answer()
    assert broker.told == []
    let_the_journal_answer()
    one, recent_ones = (msgspec.msgpack.decode(reply.body) for reply in broker.told)
    assert recent_ones == [one]
    assert one["succeeded"] == 1
    store.close()


def test_nobody_is_told_who_has_left_and_what_was_forgotten_is_unknown() -> None:
    broker = Closing()
    lookups = Lookups(cast("Broker", broker))
    lookups._tell_ended(broker.client, messages.Ask(1, "call", "fc-2"), None)
    assert [reply.error for reply in broker.told] == ["NotFoundError"]
    broker.peers.remove(broker.client)
    lookups._tell_ended(broker.client, messages.Ask(2, "call", "fc-2"), None)
    assert len(broker.told) == 1
