import contextvars
import threading
import time
from collections.abc import Iterator

import pytest

from notebook_ext import dropping
from notebook_ext.widgets import ticker as ticker_
from notebook_ext.widgets import watched
from notebook_ext.widgets.facts import MapFacts
from notebook_ext.widgets.report import Report
from notebook_ext.widgets.ticker import Ticker
from notebook_ext.widgets.watched import View, Watched
from tests.notebook_ext.widgets.mapped import Mapped
from tests.waiting import wait_until

cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="none")


class Recorded:
    """A view that remembers what it was shown, and in which cell."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.finished = threading.Event()
        self.reports: list[Report] = []
        self.cells: list[str] = []

    def update(self, _facts: MapFacts, report: Report) -> None:
        self.reports.append(report)
        self.cells.append(cell.get())
        self.opened.set()

    def finish(self, facts: MapFacts, report: Report) -> None:
        self.update(facts, report)
        self.finished.set()


class Screen:
    """Opens views and keeps them."""

    def __init__(self) -> None:
        self.views: list[Recorded] = []
        self.opened = threading.Event()

    def open(self, _facts: MapFacts) -> View | None:
        self.views.append(Recorded())
        self.opened.set()
        return self.views[-1]


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def ticker(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticker]:
    monkeypatch.setattr(watched, "SHOWN_AFTER_SECONDS", 0.05)
    made = Ticker()
    yield made
    made.close()


def test_a_running_map_is_shown_and_its_end_too(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(4)
    ticker.show(Watched(facts, screen.open))
    assert screen.opened.wait(10)
    facts.succeed(0, 4)
    facts.end()
    assert screen.views[0].finished.wait(10)
    assert screen.views[0].reports[-1].done == 4
    assert len(screen.views) == 1


def test_a_map_that_ends_at_once_is_never_shown(ticker: Ticker, screen: Screen) -> None:
    quick, slow = Mapped(1), Mapped(1)
    quick.end()
    ticker.show(Watched(quick, screen.open))
    ticker.show(Watched(slow, screen.open))
    assert screen.opened.wait(10)
    slow.end()
    assert screen.views[0].finished.wait(10)
    assert len(screen.views) == 1


def test_it_is_drawn_in_the_context_of_its_caller(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(1)
    cell.set("the cell that called")
    ticker.show(Watched(facts, screen.open))
    cell.set("a later cell")
    facts_of_later = Mapped(1)
    ticker.show(Watched(facts_of_later, screen.open))
    assert screen.opened.wait(10)
    facts.end()
    facts_of_later.end()
    ticker.settle(10)
    assert {name for view in screen.views for name in view.cells} == {
        "the cell that called",
        "a later cell",
    }


def test_settle_returns_when_the_last_state_is_drawn(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(3)
    ticker.show(Watched(facts, screen.open))
    assert screen.opened.wait(10)
    assert screen.views[0].opened.wait(10)
    facts.succeed(0, 3)
    facts.end()
    ticker.settle(10)
    assert screen.views[0].finished.is_set()


@pytest.mark.clock
def test_settle_costs_nothing_where_nothing_is_shown(ticker: Ticker) -> None:
    began = time.perf_counter()
    ticker.settle(10)
    assert time.perf_counter() - began < 1


def test_close_draws_what_is_shown_once_more(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(3)
    ticker.show(Watched(facts, screen.open))
    assert screen.opened.wait(10)
    facts.end("cancelled")
    ticker.close()
    assert screen.views[0].reports[-1].state == "cancelled"


def test_a_view_that_fails_is_dropped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "SHOWN_AFTER_SECONDS", 0.0)
    screen = Screen()

    def open_view(facts: MapFacts) -> View | None:
        if facts.title == "bad":
            raise RuntimeError("no display")
        return screen.open(facts)

    ticker = Ticker()
    ticker.show(Watched(Mapped(title="bad"), open_view))
    good = Mapped()
    ticker.show(Watched(good, open_view))
    assert screen.opened.wait(10)
    good.end()
    assert screen.views[0].finished.wait(10)
    ticker.close()


def test_it_draws_ten_times_a_second_at_most(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped()
    ticker.show(Watched(facts, screen.open))
    assert screen.opened.wait(10)
    began = time.monotonic()
    while len(screen.views[0].reports) < 4:
        assert time.monotonic() < began + 10
        threading.Event().wait(0.01)
    took = time.monotonic() - began
    facts.end()
    assert took > 2 * ticker_.TICK_SECONDS


def test_maps_that_are_over_before_they_are_drawn_cost_no_view(
    ticker: Ticker, screen: Screen
) -> None:
    facts = Mapped()
    facts.end()
    for _ in range(10_000):
        ticker.show(Watched(facts, screen.open))
    ticker.settle(10)
    assert screen.views == []


def test_an_idle_thread_wakes_again(ticker: Ticker, screen: Screen) -> None:
    for round_ in range(2):
        facts = Mapped()
        screen.opened.clear()
        ticker.show(Watched(facts, screen.open))
        assert screen.opened.wait(10)
        facts.end()
        assert screen.views[round_].finished.wait(10)


def test_what_is_posted_runs_in_its_thread_and_a_failure_does_not_end_it(ticker: Ticker) -> None:
    names: list[str] = []
    heard = threading.Event()

    def hear() -> None:
        names.append(threading.current_thread().name)
        heard.set()

    ticker.post(lambda: 1 / 0)
    ticker.post(hear)
    assert heard.wait(10)
    assert names == ["notebook-ext-ui"]


def test_who_shows_on_purpose_waits_for_the_first_drawing(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped()
    ticker.show(Watched(facts, screen.open, after_seconds=0), wait_seconds=10)
    assert len(screen.views[0].reports) == 1
    facts.end()


def test_the_thread_ends_when_nothing_is_shown_and_starts_again(
    ticker: Ticker, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker_, "LINGER_SECONDS", 0.05)
    assert not ticker.runs
    for _ in range(2):
        facts = Mapped()
        ticker.show(Watched(facts, screen.open, after_seconds=0), wait_seconds=10)
        assert ticker.runs
        facts.end()
        wait_until(lambda: not ticker.runs, 10)
    assert [view.finished.is_set() for view in screen.views] == [True, True]


def test_no_interrupt_breaks_it(
    ticker: Ticker, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupt breaks is entered by Python code: a `Condition`, and so an `Event`.

    The first map of a process starts a thread in the caller's, which `dropping` can stand.
    """
    dropping.aside(lambda: None)
    enter = threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if threading.get_ident() == threading.main_thread().ident:
            raise KeyboardInterrupt  # with its lock taken
        return entered

    facts = Mapped()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "__enter__", interrupted)
        ticker.show(Watched(facts, screen.open, after_seconds=0), wait_seconds=10)
        assert len(screen.views) == 1
        facts.end()
        ticker.settle(10)
        assert screen.views[0].reports[-1].state == "done"
        ticker.post(lambda: None)
