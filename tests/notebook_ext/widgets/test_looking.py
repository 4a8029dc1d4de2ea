from __future__ import annotations

import threading
import time

import pytest

from notebook_ext.exception import NotFoundError
from notebook_ext.widgets.looking import Looking
from tests.waiting import wait_until


def found(looking: Looking[int], now: float = 0.0) -> int:
    """Poll until there is something."""
    seen: list[int] = []

    def poll() -> bool:
        value = looking.poll(now)
        seen.extend([] if value is None else [value])
        return bool(seen)

    wait_until(poll, what="something is found")
    return seen[0]


def test_a_look_runs_in_another_thread_and_is_told_once() -> None:
    threads: list[threading.Thread] = []

    def look() -> int:
        threads.append(threading.current_thread())
        return 7

    looking = Looking(look, 60.0)
    now = time.monotonic()
    assert looking.poll(now) is None
    assert found(looking, now) == 7
    assert looking.poll(now) is None
    assert threads != [threading.current_thread()]
    assert len(threads) == 1


def test_the_pause_follows_the_cost() -> None:
    started = threading.Semaphore(0)

    def look() -> int:
        started.release()
        while time.thread_time() < 0.05:
            pass  # what it costs
        return 1

    looking = Looking(look, 0.001)
    begun = time.monotonic()
    looking.poll(begun)
    assert found(looking, begun) == 1
    assert looking.poll(begun + 20 * 0.05) is None
    assert started.acquire(blocking=False)
    assert not started.acquire(blocking=False), "one look of 50 ms: not another within a second"
    looking.poll(begun + 3600)
    assert started.acquire(timeout=10)


def test_hurry_makes_the_next_look_due() -> None:
    numbers = iter(range(10))
    looking = Looking(lambda: next(numbers), 3600.0)
    now = time.monotonic()
    looking.poll(now)
    assert found(looking, now) == 0
    looking.hurry()
    assert found(looking, now) == 1


def test_a_problem_is_kept_until_the_next_look() -> None:
    def look() -> int:
        if problems:
            raise problems.pop()
        return 1

    problems = [NotFoundError("nobody\n knows it")]
    looking = Looking(look, 0.0)
    looking.poll(time.monotonic())
    wait_until(lambda: looking.problem)
    assert looking.problem == "nobody knows it"
    assert found(looking, time.monotonic() + 60) == 1
    assert looking.problem == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_breaks_in_a_look_does_not_end_looking() -> None:
    calls: list[int] = []

    def look() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return 2

    looking = Looking(look, 0.0)
    looking.poll(time.monotonic())
    assert found(looking, time.monotonic() + 60) == 2
