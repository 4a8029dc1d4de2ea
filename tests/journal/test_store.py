"""What the journal keeps: what comes back, and what goes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kernel_worker import records
from kernel_worker.journal import file
from kernel_worker.journal.store import (
    EndedCall,
    Fact,
    Finished,
    Store,
    Written,
)
from kernel_worker.model import CallId, LeaseId, ParentInput, WorkerId
from kernel_worker.traces import CallTrace
from tests.journal.facts import SPEC, added, submitted, succeeded

ONE, TWO = CallId("fc-1"), CallId("fc-2")


def test_facts_come_back_in_order_with_their_frames(path: Path) -> None:
    large = bytes(range(256)) * 1000
    facts = [
        submitted(ONE, code=b"c", environment=b"e"),
        added(ONE, 0, b"head", b"", large),
        submitted(TWO, code=b"c"),
        added(ONE, 1, b"small"),
        succeeded(ONE, 0, b"value", large),
    ]
    first = Store.open(path)
    first.write(facts)
    first.close()
    again = Store.open(path)
    found = list(again.open_facts())
    assert [each.record for each in found] == [fact.record for fact in facts]
    assert [each.frames for each in found] == [list(fact.frames) for fact in facts]
    assert dict(again.objects.needed()) == {"code": b"c", "environment": b"e"}
    again.close()
    assert {each.name for each in path.parent.iterdir()} == {"journal.db", "journal.key"}


def test_frames_longer_than_a_row_may_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PIECE_BYTES", 7_000)
    large = bytes(range(256)) * 100
    store.write([submitted(ONE, code=large), added(ONE, 0, large, b"tail")])
    assert [fact.frames for fact in store.open_facts()] == [[], [large, b"tail"]]
    assert dict(store.objects.needed()) == {"code": large}


def test_a_finished_call_keeps_outcomes_only(store: Store) -> None:
    store.write(
        [submitted(ONE, code=b"c", own=b"1"), added(ONE, 0, b"in"), submitted(TWO, code=b"c")]
    )
    store.write([succeeded(ONE, 0, b"out"), Finished(ONE, 100.0)])
    assert [fact.record.call for fact in store.open_facts()] == [TWO]
    assert dict(store.objects.needed()) == {"code": b"c"}
    assert dict(store.ended_calls()) == {ONE: False}
    outcomes, more = store.outcomes(ONE, 0, 1_000_000)
    assert [fact.frames for fact in outcomes] == [[b"out"]]
    assert not more


def test_outcomes_come_in_parts(store: Store) -> None:
    store.write([submitted(ONE), *(succeeded(ONE, at, bytes(1000)) for at in range(10))])
    got, after, more = [], 0, True
    while more:
        part, more = store.outcomes(ONE, after, 2500)
        got += part
        after = got[-1].position
    assert [fact.record.start for fact in got] == list(range(10))  # type: ignore[union-attr]


def test_ended_calls_are_remembered_newest_first(store: Store) -> None:
    store.write([submitted(ONE), submitted(TWO), submitted("fc-3")])
    assert store.ended_call(ONE) is None
    store.write([Finished(TWO, 90.0, (1, 2, 0, 0, 0, 0)), Finished(ONE, 100.0, (3,))])
    one = EndedCall(ONE, "f", "a", 1.5, 100.0, expired=False, tally=(3,))
    two = EndedCall(TWO, "f", "a", 1.5, 90.0, expired=False, tally=(1, 2, 0, 0, 0, 0))
    assert store.ended_call(ONE) == one
    assert list(store.recent_calls()) == list(store.recent_calls("a")) == [two, one]
    assert list(store.recent_calls("b")) == []
    store.expire(95.0)
    expired = store.ended_call(TWO)
    assert expired is not None
    assert (expired.expired, expired.tally) == (True, two.tally)


def test_a_tree_is_read_in_pages_without_payloads(store: Store) -> None:
    parent = ParentInput(ONE, 3, 1, WorkerId("ta-1"), LeaseId(1))
    child = submitted(TWO)
    assert isinstance(child.record, records.CallSubmitted)
    inner = msgspec.structs.replace(child.record, parent=parent, root=ONE)
    trace = CallTrace(CallId("fc-9"), ONE, 0, "g", "m", 2.0, 1, "ta")
    facts: list[records.Record] = [
        records.AttemptFailed(ONE, 0, 1),
        records.RangeSucceeded(TWO, 0, 1, 0),
        records.AttachedCallEnded(ONE, trace),
    ]
    store.write([submitted(ONE), Fact(inner), added(ONE, 0, b"in"), submitted("fc-3")])
    store.write([Fact(one, [bytes(50_000)]) for one in facts])
    store.write([Finished(TWO, 100.0, (1,)), added("fc-3", 0, b"in")])
    assert store.root_of(TWO) == store.root_of(ONE) == ONE
    assert store.root_of(CallId("fc-none")) is None
    module = SPEC.module
    assert store.tree(ONE) == [(ONE, "", 0, "f", module, 1.5), (TWO, ONE, 3, "f", module, 1.5)]
    first, last = store.tree_facts(ONE, 0, 3)
    rest, end = store.tree_facts(ONE, last, 3)
    assert (len(first), len(rest), end) == (3, 1, 0)
    found = [msgspec.msgpack.decode(one, type=records.Record) for one in (*first, *rest)]
    assert found == [records.InputsAdded(ONE, 0, 1), *facts]


def test_the_facts_of_one_call_are_read_as_they_come(store: Store) -> None:
    store.write([submitted(ONE), added(ONE, 0, b"a"), submitted(TWO), succeeded(TWO, 0, b"v")])
    first, last, more = store.call_facts(ONE, 0, 9)
    assert (len(first), more) == (1, False)
    assert store.call_facts(ONE, last, 9) == ([], last, False)
    store.write([succeeded(ONE, 0, b"v"), succeeded(ONE, 1, b"v")])
    second, later, more = store.call_facts(ONE, last, 1)
    assert (len(second), more) == (1, True)
    third, _, _ = store.call_facts(ONE, later, 9)
    found = [msgspec.msgpack.decode(one, type=records.Record) for one in (*second, *third)]
    assert found == [succeeded(ONE, 0, b"v").record, succeeded(ONE, 1, b"v").record]


def test_what_ended_below_is_kept_as_long_as_its_keeper_and_runs_nothing(store: Store) -> None:
    trace = CallTrace(CallId("fc-9"), ONE, 0, "g", "m", 2.0, 1, "ta")
    below = Fact(records.AttachedCallEnded(ONE, trace))
    store.write([below])
    assert store.tree_facts(ONE, 0, 9) == ([], 0), "nobody knows its keeper"
    store.write([submitted(ONE), below])
    assert [fact.record for fact in store.open_facts()] == [submitted(ONE).record]
    assert len(store.tree_facts(ONE, 0, 9)[0]) == 1
    store.write([Finished(ONE, 100.0)])
    store.expire(150.0)
    store.write([below])
    assert store.tree_facts(ONE, 0, 9) == ([], 0)


def test_results_expire(store: Store) -> None:
    store.write([submitted(ONE), succeeded(ONE, 0, b"x" * 100_000), Finished(ONE, 100.0)])
    store.write([submitted(TWO), Finished(TWO, 200.0)])
    assert store.expire(150.0) == [ONE]
    assert dict(store.ended_calls()) == {ONE: True, TWO: False}
    assert store.outcomes(ONE, 0, 1000) == ([], False)
    assert store.expire(250.0) == [TWO]
    assert store.forget(100.0) == []
    assert store.forget(101.0) == [ONE]
    assert dict(store.ended_calls()) == {TWO: True}


def test_nothing_of_a_failed_write_is_kept(store: Store) -> None:
    bad = submitted(TWO)
    with pytest.raises(AttributeError):
        store.write([submitted(ONE, code=b"c"), bad, None])  # type: ignore[list-item]
    assert list(store.open_facts()) == []
    store.write([submitted(ONE, code=b"c")])
    assert dict(store.objects.needed()) == {"code": b"c"}


def test_logs_are_read_in_parts_and_go_with_their_call(store: Store) -> None:
    store.write([submitted(ONE), Written(ONE, b"1"), Written(TWO, b"2"), Written(ONE, b"34")])
    store.write([Written(ONE, b"5")])
    bodies, after, more = store.logs(ONE, 0, limit_bytes=3)
    assert (bodies, more) == ([b"1", b"34"], True)
    assert store.logs(ONE, after, limit_bytes=3) == ([b"5"], after + 1, False)
    assert store.logs(CallId("fc-nobody"), 0, 3) == ([], 0, False)
    store.write([Finished(ONE, 100.0)])
    assert store.logs(ONE, 0, 99)[0] == [b"1", b"34", b"5"]
    assert store.expire(101.0) == [ONE]
    assert store.logs(ONE, 0, 99)[0] == []
    assert store.logs(TWO, 0, 99)[0] == [b"2"]
