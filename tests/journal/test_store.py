"""The journal's file: what comes back, what goes, and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kernel_worker import records
from kernel_worker.errors import ConnectionError, VersionError  # noqa: A004  ours
from kernel_worker.journal import store as store_module
from kernel_worker.journal.migrations import SCHEMA_VERSION
from kernel_worker.journal.store import (
    KEPT_DEPLOYMENTS,
    Deployed,
    EndedCall,
    Fact,
    Finished,
    Store,
    Undeployed,
    Written,
)
from kernel_worker.model import CallId, Digest, LeaseId, ParentInput, WorkerId
from kernel_worker.traces import CallTrace
from tests.journal.facts import SPEC, added, submitted, succeeded

ONE, TWO = CallId("fc-1"), CallId("fc-2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


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
    assert dict(again.open_objects()) == {"code": b"c", "environment": b"e"}
    again.close()
    assert {each.name for each in path.parent.iterdir()} == {"journal.db", "journal.key"}


def test_nobody_else_can_read_a_journal(store: Store, path: Path) -> None:
    store.write([submitted(ONE, code=b"c")])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_a_journal_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionError, match=r"journal .*file/deep/journal\.db cannot be opened"):
        Store.open(tmp_path / "file" / "deep" / "journal.db")


def test_frames_longer_than_a_row_may_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PIECE_BYTES", 7_000)
    large = bytes(range(256)) * 100
    store.write([submitted(ONE, code=large), added(ONE, 0, large, b"tail")])
    assert [fact.frames for fact in store.open_facts()] == [[], [large, b"tail"]]
    assert dict(store.open_objects()) == {"code": large}


def test_a_finished_call_keeps_outcomes_only(store: Store) -> None:
    store.write(
        [submitted(ONE, code=b"c", own=b"1"), added(ONE, 0, b"in"), submitted(TWO, code=b"c")]
    )
    store.write([succeeded(ONE, 0, b"out"), Finished(ONE, 100.0)])
    assert [fact.record.call for fact in store.open_facts()] == [TWO]
    assert dict(store.open_objects()) == {"code": b"c"}
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
    assert dict(store.open_objects()) == {"code": b"c"}


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store.open(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(VersionError, match=f"schema {SCHEMA_VERSION + 1}.*{SCHEMA_VERSION}"):
        Store.open(path)


def test_a_damaged_file_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)
    Store.open(path).close()
    aside = next(path.parent.glob("journal.damaged-*"))
    assert aside.read_bytes() == b"this is no database" * 1000
    assert str(aside) in caplog.text


def test_another_programs_file_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    Store.open(path).close()
    assert len(list(path.parent.glob("journal.damaged-*"))) == 1


def test_one_process_at_a_time(store: Store, path: Path) -> None:
    store.write([submitted(ONE)])
    with pytest.raises(ConnectionError, match="locked"):
        Store.open(path)


def deployed(version: int, **objects: bytes) -> Deployed:
    deployment = records.Deployment("shop", version, 10.0 * version, ())
    return Deployed(deployment, {Digest(name): content for name, content in objects.items()})


def test_deployments_are_kept_with_the_objects_of_the_version_in_force(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store = Store.open(path)
    store.write([deployed(1, code=b"1", shared=b"s"), deployed(2, code2=b"2", shared=b"s")])
    store.write([submitted("fc-1", code2=b"2")])
    store.close()
    store = Store.open(path)
    assert [(d.version, ended) for d, ended in store.deployments()] == [(1, 20.0), (2, None)]
    assert dict(store.open_objects()) == {"code2": b"2", "shared": b"s"}
    store.write([deployed(2)])  # again, with other settings: its objects stay
    assert dict(store.open_objects()) == {"code2": b"2", "shared": b"s"}
    store.write([Undeployed("shop", 30.0), Undeployed("other", 31.0)])
    assert [ended for _, ended in store.deployments()] == [20.0, 30.0]
    assert dict(store.open_objects()) == {"code2": b"2"}, "a call needs it"
    store.write([deployed(2 + KEPT_DEPLOYMENTS)])
    assert [d.version for d, _ in store.deployments()] == [2 + KEPT_DEPLOYMENTS]
    store.close()


def test_settings_that_cross_a_new_version_do_not_end_it(store: Store) -> None:
    store.write([deployed(1, code=b"1")])
    store.write([deployed(2, code2=b"2"), deployed(1)])
    assert [(d.version, ended) for d, ended in store.deployments()] == [(1, 20.0), (2, None)]
    assert dict(store.open_objects()) == {"code2": b"2"}


def test_settings_bring_the_objects_of_a_new_instance_unless_their_version_has_ended(
    store: Store,
) -> None:
    store.write([deployed(1, code=b"1")])
    store.write([deployed(1, instance=b"x")])
    assert dict(store.open_objects()) == {"code": b"1", "instance": b"x"}
    store.write([deployed(2, code2=b"2"), deployed(1, late=b"y")])
    assert dict(store.open_objects()) == {"code2": b"2"}


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
