import contextvars
import threading
import time
from collections.abc import Iterator

import pytest

from notebook_ext.widgets import ticker as ticker_
from notebook_ext.widgets.facts import MapFacts
from notebook_ext.widgets.report import Report
from notebook_ext.widgets.ticker import Ticker, View
from tests.notebook_ext.widgets.mapped import Mapped

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
    monkeypatch.setattr(ticker_, "SHOWN_AFTER_SECONDS", 0.05)
    made = Ticker(screen.open)
    yield made
    made.close()


def test_a_running_map_is_shown_and_its_end_too(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(4)
    ticker.watch(facts)
    assert screen.opened.wait(10)
    facts.succeed(0, 4)
    facts.end()
    assert screen.views[0].finished.wait(10)
    assert screen.views[0].reports[-1].done == 4
    assert len(screen.views) == 1


def test_a_map_that_ends_at_once_is_never_shown(ticker: Ticker, screen: Screen) -> None:
    quick, slow = Mapped(1), Mapped(1)
    quick.end()
    ticker.watch(quick)
    ticker.watch(slow)
    assert screen.opened.wait(10)
    slow.end()
    assert screen.views[0].finished.wait(10)
    assert len(screen.views) == 1


def test_it_is_drawn_in_the_context_of_its_caller(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(1)
    cell.set("the cell that called")
    ticker.watch(facts)
    cell.set("a later cell")
    facts_of_later = Mapped(1)
    ticker.watch(facts_of_later)
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
    ticker.watch(facts)
    assert screen.opened.wait(10)
    assert screen.views[0].opened.wait(10)
    facts.succeed(0, 3)
    facts.end()
    ticker.settle(10)
    assert screen.views[0].finished.is_set()


def test_settle_costs_nothing_where_nothing_is_shown(ticker: Ticker) -> None:
    began = time.perf_counter()
    ticker.settle(10)
    assert time.perf_counter() - began < 1


def test_close_draws_what_is_shown_once_more(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped(3)
    ticker.watch(facts)
    assert screen.opened.wait(10)
    facts.end("cancelled")
    ticker.close()
    assert screen.views[0].reports[-1].state == "cancelled"


def test_a_view_that_fails_is_dropped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker_, "SHOWN_AFTER_SECONDS", 0.0)
    screen = Screen()

    def open_view(facts: MapFacts) -> View | None:
        if facts.title == "bad":
            raise RuntimeError("no display")
        return screen.open(facts)

    ticker = Ticker(open_view)
    ticker.watch(Mapped(title="bad"))
    good = Mapped()
    ticker.watch(good)
    assert screen.opened.wait(10)
    good.end()
    assert screen.views[0].finished.wait(10)
    ticker.close()


def test_it_draws_ten_times_a_second_at_most(ticker: Ticker, screen: Screen) -> None:
    facts = Mapped()
    ticker.watch(facts)
    assert screen.opened.wait(10)
    began = time.monotonic()
    while len(screen.views[0].reports) < 4:
        assert time.monotonic() < began + 10
        threading.Event().wait(0.01)
    took = time.monotonic() - began
    facts.end()
    assert took > 2 * ticker_.TICK_SECONDS


def test_watching_many_quick_maps_is_cheap(ticker: Ticker) -> None:
    facts = Mapped()
    facts.end()
    ticker.watch(facts)
    began = time.process_time()
    for _ in range(10_000):
        ticker.watch(facts)
    assert (time.process_time() - began) / 10_000 < 50e-6


def test_an_idle_thread_wakes_again(ticker: Ticker, screen: Screen) -> None:
    for round_ in range(2):
        facts = Mapped()
        screen.opened.clear()
        ticker.watch(facts)
        assert screen.opened.wait(10)
        facts.end()
        assert screen.views[round_].finished.wait(10)
