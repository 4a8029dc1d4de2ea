"""The reader's end of a line for items, with the worker's end as it is."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from kernel_worker.errors import InternalFailure, ProtocolError
from kernel_worker.model import CallId, NoValue, Outcome
from kernel_worker.wire import line as wire_line
from kernel_worker.wire import payload
from kernel_worker.worker.item_line import ItemLine as WorkersEnd
from notebook_ext.generators import CREDIT_ITEMS, AttachedRun, RemoteGenerator
from notebook_ext.item_line import ItemLine
from notebook_ext.submission import Ended
from tests.notebook_ext.talk import inputs, submission, values

CALL = CallId("fc-1")


@pytest.fixture
def line() -> Iterator[ItemLine]:
    made = ItemLine(CALL)
    yield made
    made.hang_up()


def dial(line: ItemLine) -> WorkersEnd:
    end = WorkersEnd.dial(line.name, CALL)
    assert end is not None
    return end


def given(line: ItemLine) -> list[Any]:
    """Return what can be read."""
    found: list[Any] = []
    while (turn := line.read()) is not None:
        reader = payload.BatchReader(turn.frames)
        assert turn.index == len(found)
        found += reader.items(0, len(reader))
    return found


def test_nothing_is_read_where_nobody_dialled(line: ItemLine) -> None:
    assert not line.open()
    assert not line.is_open
    assert line.read() is None
    line.credit(1, 1)
    line.shut()


def test_the_last_worker_that_dialled_gives(line: ItemLine) -> None:
    died = dial(line)
    died.close()
    alive = dial(line)
    assert line.open()
    assert alive.give(0, values("a"))
    alive.close()
    assert given(line) == ["a"]


def test_nobody_dials_once_it_is_open(line: ItemLine) -> None:
    end = dial(line)
    assert line.open()
    assert line.open()
    assert WorkersEnd.dial(line.name, CALL) is None
    end.close()


def test_a_stranger_is_not_heard(line: ItemLine) -> None:
    end = WorkersEnd.dial(line.name, "fc-2")
    assert end is not None
    assert not line.open()
    end.close()


def test_what_was_given_is_there_although_credit_was_not_read(line: ItemLine) -> None:
    """The kernel tells of the loss of what was sent back, before what can be read."""
    end = dial(line)
    assert line.open()
    assert end.give(0, values(0, 1))
    line.credit(1, 10)
    assert end.give(2, values(2))
    end.close()
    line.credit(2, 20)
    assert given(line) == [0, 1, 2]


def test_what_has_come_can_be_read_behind_shut(line: ItemLine) -> None:
    end = dial(line)
    assert line.open()
    assert end.give(0, values(0, 1))
    line.shut()
    assert not end.give(2, values(2))
    end.close()
    assert given(line) == [0, 1]


def test_what_is_no_turn_is_an_error(line: ItemLine) -> None:
    end = wire_line.dial(line.name, CALL)
    assert end is not None
    assert line.open()
    end.send(b"\xff")
    with pytest.raises(ProtocolError):
        line.read()
    end.close()


def test_without_descriptors_there_is_none() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = ItemLine.listening(CALL)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found is None


@pytest.fixture
def all_in_use() -> Iterator[Callable[[], None]]:
    """Call it to have no descriptor left."""
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def use() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))

    yield use
    for each in held:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_was_given_is_read_although_no_descriptor_is_left(
    line: ItemLine, all_in_use: Callable[[], None]
) -> None:
    end = dial(line)
    assert end.give(0, values("a", "b"))
    all_in_use()
    assert line.open()
    end.close()
    assert given(line) == ["a", "b"]


def test_who_cannot_have_what_was_given_is_told_so(
    line: ItemLine, all_in_use: Callable[[], None]
) -> None:
    ends = dial(line), dial(line)  # the first one's worker has died
    all_in_use()
    with pytest.raises(OSError, match="open files"):
        line.open()
    for end in ends:
        end.close()


class FakeSession:
    """Writes down what the run asks of it; its output is silent."""

    is_usable = True
    is_strict = False

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.line = ""

    def output(self, *_: str) -> FakeSession:
        return self

    def after(self, act: Any, *args: Any) -> None:
        act(*args)

    def submit(self, said: Any, *_: Any) -> None:
        self.line = said.line

    def cancel(self, call: CallId) -> None:
        self.asked.append(("cancel", call))

    def credit(self, _: CallId, items: int, __: int) -> None:
        self.asked.append(("credit", items))


class Told:
    """A generator that is iterated here, and what tells it of items on either way."""

    def __init__(self) -> None:
        self.session = FakeSession()
        said = submission("fc-1", None, streams=True)
        self.run = AttachedRun(cast("Any", self.session), said, "f", inputs(1))
        self.items = iter(RemoteGenerator[Any]("f.remote_gen", lambda: self.run))
        end = WorkersEnd.dial(self.session.line, CALL)
        assert end is not None
        self.end = end

    def by_broker(self, start: int, *items: object) -> None:
        self.run.yielded(start, len(items), values(*items))

    def heard(self, start: int, count: int) -> None:
        self.run.yielded(start, count, [])

    def by_line(self, start: int, *items: object) -> None:
        assert self.end.give(start, values(*items))

    def over(self) -> None:
        self.run.succeeded(0, 1, 0, values(NoValue.ITEMS_GIVEN))

    def lost(self) -> None:
        self.run.ended(Ended(0, 1, Outcome.LOST, 1, "f had given 1 item: it died", None, (), 0))


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.end.close()
    made.items.close()


def test_items_of_the_line_come_behind_the_first_batch(told: Told) -> None:
    told.by_broker(0, "a")
    told.by_line(1, "b", "c")
    assert [next(told.items) for _ in range(3)] == ["a", "b", "c"]
    told.by_line(3, "d")
    told.end.close()
    told.heard(1, 3)
    told.over()
    assert list(told.items) == ["d"]
    assert told.session.asked == [("credit", 4)]


def test_the_outcome_may_be_quicker_than_the_line(told: Told) -> None:
    told.by_broker(0, "a")
    told.by_line(1, "b")
    told.heard(1, 1)
    told.end.close()
    told.over()
    assert list(told.items) == ["a", "b"]


def test_of_a_lost_generator_comes_what_it_had_given(told: Told) -> None:
    """The broker has not heard of all of it."""
    told.by_broker(0, "a")
    told.by_line(1, "b", "c")
    assert next(told.items) == "a"
    told.lost()
    assert [next(told.items), next(told.items)] == ["b", "c"]
    with pytest.raises(InternalFailure, match="f had given 3 items: it died"):
        next(told.items)


def test_a_line_that_was_left_is_followed_by_the_broker(told: Told) -> None:
    told.by_broker(0, "a")
    told.by_line(1, "b")
    assert [next(told.items), next(told.items)] == ["a", "b"]
    told.heard(1, 1)
    told.by_broker(2, "c")
    told.end.close()
    told.over()
    assert list(told.items) == ["c"]
    assert told.session.asked == [("credit", 3)], "what went by the line may not have been read"


def test_credit_goes_by_the_line_and_to_a_broker_that_was_told_of_a_wait(told: Told) -> None:
    told.by_broker(0, "a")
    told.by_line(1, *range(CREDIT_ITEMS - 1))
    for _ in range(CREDIT_ITEMS):
        next(told.items)
    told.end.say_paused(0)  # which crossed that credit
    told.by_line(CREDIT_ITEMS, *range(CREDIT_ITEMS))
    next(told.items)
    assert told.end.credit() == (CREDIT_ITEMS, told.run._credited_bytes)
    assert told.session.asked == [("credit", CREDIT_ITEMS)]
    for _ in range(CREDIT_ITEMS - 1):
        next(told.items)
    told.by_line(2 * CREDIT_ITEMS, *range(CREDIT_ITEMS))
    next(told.items)
    assert told.session.asked == [("credit", CREDIT_ITEMS)], "nobody waits"
    told.end.say_paused(2 * CREDIT_ITEMS)
    told.by_line(3 * CREDIT_ITEMS, "more")
    for _ in range(CREDIT_ITEMS):
        next(told.items)
    told.end.close()
    assert told.session.asked[1:] == [("credit", 3 * CREDIT_ITEMS)]


def test_leaving_hangs_up(told: Told) -> None:
    told.by_broker(0, "a")
    told.by_line(1, "b")
    assert [next(told.items), next(told.items)] == ["a", "b"]
    told.run.leave()
    assert told.session.asked == [("cancel", CALL)]
    with pytest.raises(ConnectionError):
        told.end.credit()
    told.lost()


def test_no_line_is_asked_for_where_the_broker_is_not_believed() -> None:
    session = FakeSession()
    session.is_strict = True
    said = submission("fc-1", None, streams=True)
    run = AttachedRun(cast("Any", session), said, "f", inputs(1))
    items = iter(RemoteGenerator[Any]("f.remote_gen", lambda: run))
    assert session.line == ""
    items.close()


def test_the_listener_is_let_go_of_where_nothing_comes(told: Told) -> None:
    told.over()
    assert list(told.items) == []
    told.run.leave()
    assert WorkersEnd.dial(told.session.line, CALL) is None
