"""Acts become rows: done once, counted right, and put back where nobody has them."""

from __future__ import annotations

import sqlite3

import pytest

from kernel_worker import shelf as words
from kernel_worker.journal.shelves import Shelves
from kernel_worker.shelf import (
    Add,
    Answer,
    Await,
    Clear,
    Count,
    Get,
    Has,
    List,
    Open,
    Page,
    Pop,
    Put,
    Remove,
    Shelf,
    ShelfInfo,
    Take,
)

D = Shelf("dict", "d", creates=True)
Q = Shelf("queue", "q", creates=True)
A, B = b"a" * 24, b"b" * 24


class Kept:
    """Shelves whose acts get numbers by themselves."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute("BEGIN")
        self.shelves = Shelves(self.db)
        self.number = 0
        self.now = 100.0

    def do(self, act: words.Act, *frames: bytes, client: str = "cl-1", number: int = 0) -> Answer:
        self.number += 1
        return self.shelves.do(act, frames, client, number or self.number, self.now)

    def body(self, act: words.Act, *frames: bytes) -> object:
        return self.do(act, *frames).body

    def rows(self, table: str) -> int:
        (count,) = self.db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  a test's
        return int(count)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_entries_are_set_read_and_removed(kept: Kept) -> None:
    assert kept.body(Put(D, (A, B)), b"ka", b"1", b"kb", b"2") == 2
    assert kept.body(Put(D, (A,)), b"other ka", b"11") == 0
    assert kept.do(Get(D, A)) == Answer(True, (b"11",))
    assert kept.do(Page(D, keys=True)).frames == (b"ka", b"11", b"kb", b"2")
    assert kept.do(Page(D, keys=True, values=False)).frames == (b"ka", b"kb")
    assert kept.body(Put(D, (A,), only_new=True), b"ka", b"0") == 0
    assert kept.do(Pop(D, A)) == Answer(True, (b"11",))
    assert kept.do(Pop(D, A)) == Answer(False)
    assert (kept.body(Has(D, A)), kept.body(Has(D, B)), kept.body(Count(D))) == (False, True, 1)
    assert kept.body(List("dict")) == [ShelfInfo("d", 100.0, False, 1, 3)]
    assert kept.body(Clear(D)) == 1
    assert kept.body(List("dict")) == [ShelfInfo("d", 100.0, False, 0, 0)]


def test_a_page_holds_so_much_and_the_next_one_goes_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "PAGE_ROWS", 2)
    kept.do(Add(Q), *[b"%d" % at for at in range(5)])
    first = kept.do(Page(Q))
    assert isinstance(first.body, tuple)
    after, more = first.body
    assert (first.frames, more) == ((b"0", b"1"), True)
    assert kept.do(Page(Q, after=after)).frames == (b"2", b"3")
    monkeypatch.setattr(words, "PAGE_BYTES", 0)
    assert kept.do(Page(Q)).frames == (b"0",)


def test_an_act_that_is_said_again_is_not_done_again(kept: Kept) -> None:
    won = kept.do(Put(D, (A,), only_new=True), b"k", b"v", number=7)
    assert kept.do(Put(D, (A,), only_new=True), b"k", b"v", number=7) == won == Answer(1)
    popped = kept.do(Pop(D, A), number=8)
    assert kept.do(Pop(D, A), number=8) == popped == Answer(True, (b"v",))
    for _ in range(2):
        kept.do(Add(Q), b"1", b"2", b"3", number=9)
    assert kept.body(Count(Q)) == 3
    assert kept.do(Take(Q, count=2), number=10) == kept.do(Take(Q, count=2), number=10)
    assert kept.body(Count(Q)) == 1
    kept.shelves.received("cl-1", [7, 8, 9, 10])
    assert (kept.rows("answers"), kept.rows("items")) == (0, 1)


def test_items_come_out_in_order_and_each_once(kept: Kept) -> None:
    kept.do(Add(Q), b"1", b"2")
    kept.do(Add(Q, b"p", 60.0), b"of p")
    assert kept.do(Take(Q), client="cl-1").frames == (b"1",)
    assert kept.do(Take(Q, count=5), client="cl-2").frames == (b"2",)
    assert kept.do(Take(Q)).error == words.EMPTY
    assert (kept.body(Count(Q)), kept.body(Count(Q, b"p")), kept.body(Count(Q, every=True))) == (
        0,
        1,
        1,
    )
    assert kept.do(Page(Q, b"p")).frames == (b"of p",)


def test_what_nobody_has_is_where_it_was(kept: Kept) -> None:
    kept.do(Add(Q), b"1", b"2", b"3", b"4")
    kept.do(Take(Q), client="cl-1", number=1)
    kept.do(Take(Q), client="cl-2", number=1)
    kept.do(Take(Q), client="cl-2", number=2)
    kept.shelves.received("cl-2", [2])
    assert kept.shelves.clients() == {"cl-1", "cl-2"}
    assert kept.shelves.gone("cl-2") == ([("q", b"", 1)], [])
    assert kept.shelves.returned("cl-1", [1, 5]) == [("q", b"", 1)]
    assert kept.do(Page(Q)).frames == (b"1", b"2", b"4")
    assert kept.shelves.clients() == {"cl-1"}, "what it was answered to Add"


def test_who_comes_back_says_what_it_still_asks_for(kept: Kept) -> None:
    kept.do(Add(Q), b"1", b"2", b"3", number=1)
    kept.do(Take(Q), number=2)
    kept.do(Take(Q), number=3)
    kept.shelves.still_asks("cl-1", [3])
    assert kept.do(Take(Q), number=3).frames == (b"2",)
    assert kept.shelves.gone("cl-1") == ([("q", b"", 1)], [])
    assert kept.do(Page(Q)).frames == (b"2", b"3")


def test_what_was_taken_of_a_queue_that_was_cleared_does_not_come_back(kept: Kept) -> None:
    kept.do(Add(Q, b"p"), b"1", b"2")
    kept.do(Take(Q, b"p"), number=5)
    assert kept.body(Clear(Q, b"p")) == 1
    assert kept.body(Clear(Q, b"p")) == 0
    kept.do(Add(Q, b"p"), b"3")
    assert kept.shelves.returned("cl-1", [5]) == []
    assert kept.do(Page(Q, b"p")).frames == (b"3",)
    kept.do(Add(Q), b"4")
    assert kept.body(Clear(Q, every=True)) == 2
    assert (kept.rows("items"), kept.rows("partitions")) == (0, 0)


def test_a_partition_is_empty_when_nothing_was_put_in_for_its_time(kept: Kept) -> None:
    kept.do(Add(Q, b"p", 10.0), b"1")
    kept.now += 9
    kept.do(Add(Q, b"p", 10.0), b"2")
    kept.now += 9
    assert kept.body(Count(Q, b"p")) == 2
    kept.now += 1
    assert kept.body(Count(Q, every=True)) == 0
    kept.do(Add(Q, b"p", 10.0), b"3")
    kept.now += 10
    assert kept.do(Take(Q, b"p")).error == words.EMPTY
    kept.do(Add(Q, b"o", 10.0), b"4")
    kept.now += 10
    kept.do(Add(Q, b"q"), b"5")
    assert kept.rows("partitions") == 1


def test_what_has_expired_takes_no_room(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SHELF_BYTES", 10)
    kept.do(Add(Q, b"old", ttl_seconds=5.0), b"12345678")
    kept.do(Add(Q, b"p"), b"1")
    assert kept.do(Add(Q, b"p"), b"22").error == words.FULL
    kept.now += 5
    assert kept.body(Add(Q, b"p"), b"22") == 1
    assert (kept.body(Count(Q, every=True)), kept.rows("partitions")) == (2, 1)


def test_waiting_for_more_than_one_has_seen(kept: Kept) -> None:
    assert kept.do(Await(Q)).error == words.EMPTY
    kept.do(Add(Q), b"1")
    assert kept.body(Await(Q)) is True
    assert kept.do(Await(Q, after=1)).error == words.EMPTY


def test_limits_refuse_and_change_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "DICT_ENTRIES", 1)
    refused = kept.do(Put(D, (A, B)), b"a", b"1", b"b", b"2")
    assert refused.error == "RequestSizeError"
    assert "may hold 1 entries" in str(refused.body)
    assert kept.body(Count(D)) == 0
    monkeypatch.setattr(words, "PARTITION_ITEMS", 2)
    kept.do(Add(Q), b"1")
    assert kept.do(Add(Q), b"2", b"3").error == words.FULL
    assert kept.body(Add(Q), b"2") == 1
    monkeypatch.setattr(words, "SHELF_BYTES", 3)
    assert kept.do(Add(Q, b"p"), b"22").error == words.FULL
    monkeypatch.setattr(words, "PARTITIONS", 1)
    assert kept.do(Add(Q, b"p"), b"2").error == "RequestSizeError"
    monkeypatch.setattr(words, "ACT_BYTES", 1)
    assert kept.do(Take(Q, count=9)).frames == (b"1",)


def test_a_shelf_is_made_only_where_that_is_asked_for(kept: Kept) -> None:
    there = Shelf("dict", "d")
    assert kept.do(Get(there, A)).error == "NotFoundError"
    assert kept.do(Open(D)).error == ""
    assert kept.do(Open(D, is_new=True)).error == "InvalidError"
    assert kept.do(Get(there, A)) == Answer(False)
    assert kept.do(Get(Shelf("dict", "d", sealed=True), A)).error == words.SEALED
    assert kept.do(Put(Shelf("dict", "s", creates=True, sealed=True), (A,)), b"k", b"v").body == 1
    assert kept.do(Get(Shelf("dict", "s"), A)).error == words.SEALED
    assert (kept.body(Remove(there)), kept.body(Remove(there))) == (True, False)


def test_an_ephemeral_one_ends_with_its_owner_and_is_not_listed(kept: Kept) -> None:
    own = Shelf("queue", "~1", creates=True)
    kept.do(Open(own), client="cl-7")
    kept.do(Add(Shelf("queue", "~1")), b"1", client="cl-8")
    assert kept.body(List("queue")) == []
    assert "cl-7" in kept.shelves.clients()
    assert kept.shelves.gone("cl-7") == ([], ["~1"])
    found = kept.do(Count(Shelf("queue", "~1")))
    assert (found.error, kept.rows("items")) == ("NotFoundError", 0)
    assert "has ended with its owner" in str(found.body)
