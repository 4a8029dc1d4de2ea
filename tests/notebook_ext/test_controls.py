"""What the buttons of a map's progress do, in a real map on real workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext import widgets
from notebook_ext.controls import MapControls
from notebook_ext.exception import CallCancelledError
from notebook_ext.facts import MapFacts
from tests.waiting import wait_until

Seen = tuple[MapFacts, MapControls]
Watched = Callable[[], Seen]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Return what gives the facts and the controls of the map that was made last."""
    seen: list[Seen] = []
    monkeypatch.setattr(widgets, "watch", lambda facts, controls: seen.append((facts, controls)))

    def last() -> Seen:
        wait_until(lambda: seen)
        return seen[-1]

    return last


class Collected:
    """A thread that iterates."""

    def __init__(self, results: Iterator[Any]) -> None:
        self.values: list[Any] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(results,), daemon=True)
        self.thread.start()

    def _run(self, results: Iterator[Any]) -> None:
        try:
            for value in results:
                self.values.append(value)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def join(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def gated(live: nb.App, tmp_path: Path) -> Iterator[nb.Function[..., Any]]:
    """Return a function whose inputs below 10 wait for the file `go`; 3 fails without `mended`."""

    @live.function
    def gated(x: int) -> int:
        import time

        (tmp_path / f"started-{x}").touch()
        while x < 10 and not (tmp_path / "go").exists():
            time.sleep(0.01)
        if x % 10 == 3 and not (tmp_path / "mended").exists():
            raise ValueError(x)
        return x

    yield gated
    (tmp_path / "go").touch()  # what a test that failed left running ends


def started(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("started-*")))


def test_pause_lets_what_runs_end_and_starts_nothing_more(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "mended").touch()
    alone = gated.with_options(max_containers=1)
    collected = Collected(iter(alone.map(range(40))))
    wait_until(lambda: started(tmp_path))
    facts, controls = watched()
    controls.pause(paused=True)
    assert facts.paused
    wait_until(lambda: alone.get_current_stats().backlog == 0, 10, "nothing of it waits its turn")
    (tmp_path / "go").touch()
    wait_until(lambda: facts.done == 1, 10, "what ran ends")
    other = gated.with_options(max_containers=1, name="gated")
    assert other.remote(50) == 50, "others have the CPUs; nothing more of it starts"
    assert started(tmp_path) == 2
    controls.pause(paused=False)
    collected.join()
    assert collected.values == list(range(40))
    assert (facts.state, facts.paused) == ("done", False)


def test_cancel_ends_the_map_where_it_is(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    collected = Collected(iter(gated.map(range(40))))
    wait_until(lambda: started(tmp_path))
    facts, controls = watched()
    controls.cancel()
    collected.join()
    assert isinstance(collected.error, CallCancelledError)
    assert facts.state == "cancelled"
    controls.cancel()
    controls.pause(paused=True)
    controls.retry_failed()
    assert not facts.paused


def test_a_cancelled_map_that_returns_exceptions_gives_what_it_has(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    results = gated.map([20, 21, 0, 1], return_exceptions=True, wrap_returned_exceptions=False)
    collected = Collected(iter(results))
    wait_until(lambda: watched()[0].done == 2 and started(tmp_path) > 2)
    watched()[1].cancel()
    collected.join()
    assert collected.error is None
    assert collected.values[:2] == [20, 21]
    assert [type(each) for each in collected.values[2:]] == [CallCancelledError] * 2
    assert watched()[0].state == "cancelled"


def test_a_cancelled_map_over_an_endless_iterable_says_that_it_is_cut(
    gated: nb.Function[..., Any], watched: Watched
) -> None:
    stop = threading.Event()

    def numbers() -> Iterator[int]:
        yield from (20, 21)
        stop.wait(30)
        yield 22

    collected = Collected(iter(gated.map(numbers(), return_exceptions=True)))
    wait_until(lambda: len(collected.values) == 2)
    watched()[1].cancel()
    collected.join()
    stop.set()
    assert isinstance(collected.error, CallCancelledError), "not a short list, in silence"


def test_failures_that_nobody_has_taken_run_again(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    results = gated.map([0, 13, 23, 14], return_exceptions=True)
    collected = Collected(iter(results))
    facts, controls = watched()
    wait_until(lambda: facts.failed == 2, 10, "the first one still runs")
    assert controls.retryable == 2
    assert facts.first_error == (1, "ValueError: 13")
    (tmp_path / "mended").touch()
    controls.retry_failed()
    wait_until(lambda: facts.done == 3)
    assert (facts.failed, facts.again) == (0, 2)
    assert facts.first_error is None, "of those that are left"
    (tmp_path / "go").touch()
    collected.join()
    assert collected.values == [0, 13, 23, 14]
    assert controls.retryable == 0


def test_failures_that_the_loop_has_had_are_its_own(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    results = gated.map([13, 0], return_exceptions=True, order_outputs=False)
    collected = Collected(iter(results))
    facts, controls = watched()
    wait_until(lambda: len(collected.values) == 1)
    assert (facts.failed, controls.retryable) == (1, 0)
    controls.retry_failed()
    (tmp_path / "go").touch()
    collected.join()
    assert facts.failed == 1


def test_a_map_for_its_side_effects_retries_any_failure_and_fails_again(
    gated: nb.Function[..., Any], watched: Watched, tmp_path: Path
) -> None:
    thread = threading.Thread(
        target=lambda: gated.for_each([13, 0, 23], ignore_exceptions=True), daemon=True
    )
    thread.start()
    facts, controls = watched()
    wait_until(lambda: facts.failed == 2)
    controls.pause(paused=True)
    controls.retry_failed()
    wait_until(lambda: facts.failed == 0)
    controls.pause(paused=False)
    wait_until(lambda: facts.failed == 2, 10, "they fail again")
    (tmp_path / "mended").touch()
    controls.retry_failed()
    wait_until(lambda: facts.done == 2)
    (tmp_path / "go").touch()
    thread.join(30)
    assert not thread.is_alive()
    assert (facts.state, facts.done, facts.again) == ("done", 3, 4)
