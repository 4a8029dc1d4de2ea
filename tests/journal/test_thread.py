"""The journal's thread: order, group commit, what an earlier one left."""

from __future__ import annotations

import contextlib
import select
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.journal import thread
from kernel_worker.journal.store import Entry, Finished, Store
from kernel_worker.journal.thread import Committed, Completion, Delayed, Expired, Journal, Outcomes
from kernel_worker.model import CallId
from tests.journal.facts import added, submitted, succeeded

ONE = CallId("fc-1")
Open = Callable[..., Journal]


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[Open]:
    opened: list[Journal] = []

    def make(ttl_seconds: float = 1000.0) -> Journal:
        opened.append(Journal(tmp_path / "journal.db", ttl_seconds))
        return opened[-1]

    yield make
    for journal in opened:
        if journal.fileno() >= 0:
            journal.close()


def collect(journal: Journal, kind: type[Completion]) -> list[Completion]:
    """Return what is done, up to the first of `kind`."""
    found: list[Completion] = []
    while not any(isinstance(each, kind) for each in found):
        assert select.select([journal], [], [], 20)[0]
        found += journal.collect()
    return found


def test_reads_see_what_was_submitted_before(open_journal: Open) -> None:
    journal = open_journal()
    assert journal.restored().facts == []
    tokens = [journal.submit([submitted(ONE)]), journal.submit([succeeded(ONE, 0, b"v")])]
    journal.read_outcomes(7, ONE)
    assert journal.next_token == 3
    journal.submit([succeeded(ONE, 1, b"w")])
    *before, outcomes = collect(journal, Outcomes)[: len(tokens) + 1]
    assert isinstance(outcomes, Outcomes)
    assert max(each.token for each in before if isinstance(each, Committed)) == tokens[-1]
    assert (outcomes.request, outcomes.last) == (7, True)
    assert [fact.frames for fact in outcomes.facts] == [[b"v"]]


def test_what_was_submitted_is_there_after_a_restart(open_journal: Open) -> None:
    first = open_journal()
    first.restored()
    first.submit([submitted(ONE, code=b"c"), added(ONE, 0, b"in")])
    first.submit([submitted("fc-2"), Finished(CallId("fc-2"), time.time())])
    first.close()
    restored = open_journal().restored()
    assert [fact.record.call for fact in restored.facts] == [ONE, ONE]
    assert restored.objects == {"code": b"c"}
    assert restored.ended == {"fc-2": False}


def test_long_outcomes_come_in_parts(open_journal: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "OUTCOME_BYTES", 100)
    journal = open_journal()
    journal.restored()
    journal.submit([submitted(ONE), *(succeeded(ONE, at, bytes(80)) for at in range(5))])
    journal.read_outcomes(1, ONE)
    part = next(each for each in collect(journal, Outcomes) if isinstance(each, Outcomes))
    assert not part.last
    assert 0 < len(part.facts) < 5


def test_old_results_expire_at_the_start(open_journal: Open) -> None:
    first = open_journal()
    first.restored()
    first.submit([submitted(ONE), succeeded(ONE, 0, b"v"), Finished(ONE, time.time() - 5000)])
    first.close()
    assert open_journal().restored().ended == {ONE: True}


def test_old_results_expire_while_it_runs(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "EXPIRY_SECONDS", 0.01)
    journal = open_journal()
    journal.restored()
    journal.submit([submitted(ONE), Finished(ONE, time.time() - 5000)])
    expired = next(each for each in collect(journal, Expired) if isinstance(each, Expired))
    assert expired.calls == [ONE]


def test_a_journal_in_use_says_so(open_journal: Open) -> None:
    first = open_journal()
    first.restored()
    with pytest.raises(ConnectionError, match="locked"):
        open_journal().restored()


def test_what_ends_the_thread_is_raised_to_whoever_collects(open_journal: Open) -> None:
    journal = open_journal()
    journal.restored()
    journal.submit([None])  # type: ignore[list-item]
    assert select.select([journal], [], [], 20)[0]
    with pytest.raises(AttributeError):
        journal.collect()


def test_what_ends_the_thread_is_raised_after_what_was_done_before_it(open_journal: Open) -> None:
    """Both may be there at the first look: nobody would look again."""
    journal = open_journal()
    journal.restored()
    token = journal.submit([submitted(ONE)])
    assert select.select([journal], [], [], 20)[0]
    journal.submit([None])  # type: ignore[list-item]
    journal._thread.join(20)
    assert journal.collect() == [Committed(token)]
    assert select.select([journal], [], [], 0)[0]
    with pytest.raises(AttributeError):
        journal.collect()


def disk_is_full() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("PRAGMA max_page_count = 1")
        db.execute("CREATE TABLE more_than_a_page (x)")


def test_a_disk_without_room_for_dropping_what_has_expired_ends_nothing(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_journal()
    first.restored()
    first.submit([submitted(ONE), Finished(ONE, 1.0)])
    first.close()
    expire = Store.expire
    tried: list[float] = []

    def find_no_room(store: Store, before: float) -> list[CallId]:
        tried.append(before)
        if len(tried) <= 2:
            disk_is_full()
        return expire(store, before)

    monkeypatch.setattr(Store, "expire", find_no_room)
    second = open_journal(ttl_seconds=1.0)
    assert second.restored().ended == {ONE: False}
    assert collect(second, Expired) == [Expired([ONE], [ONE])]


def test_what_expired_long_ago_is_forgotten_and_that_is_told(open_journal: Open) -> None:
    """Or else a broker would know the names of all calls that there ever were."""
    journal = open_journal(ttl_seconds=0.01)
    journal.restored()
    journal.submit([submitted(ONE), Finished(ONE, time.time())])
    expired: list[CallId] = []
    forgotten: list[CallId] = []
    while not forgotten:
        for one in collect(journal, Expired):
            if isinstance(one, Expired):
                expired += one.calls
                forgotten += one.forgotten
    assert expired == forgotten == [ONE]


def test_a_write_waits_for_room_on_the_disk(
    open_journal: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(thread, "_RETRY_SECONDS", 0.01)
    write = Store.write
    tried: list[Iterable[Entry]] = []

    def find_no_room(store: Store, entries: Iterable[Entry]) -> None:
        tried.append(entries)
        if len(tried) <= 2:
            disk_is_full()
        write(store, entries)

    monkeypatch.setattr(Store, "write", find_no_room)
    journal = open_journal()
    journal.restored()
    token = journal.submit([submitted(ONE)])
    *delays, last = collect(journal, Committed)
    assert last == Committed(token)
    assert [type(each) for each in delays] == [Delayed, Delayed]
    why = f"{tmp_path} cannot be written (database or disk is full): make room there"
    assert {each.why for each in delays if isinstance(each, Delayed)} == {why}
    assert len(tried) == 3
    assert [record.message for record in caplog.records] == [f"spawned calls wait: {why}"], "once"
