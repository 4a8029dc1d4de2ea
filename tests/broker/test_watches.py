"""Descriptors, deaths and moments."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kernel_worker.broker.watches import ProcessWatch, Timers, Watches


@pytest.fixture
def watches() -> Iterator[Watches]:
    made = Watches()
    yield made
    made.close()


def test_readable_descriptors_make_their_calls(watches: Watches) -> None:
    calls: list[str] = []
    (one, say_one), (two, say_two) = os.pipe(), os.pipe()

    def first() -> None:
        calls.append("first")
        watches.remove(two)

    watches.add(one, first)
    watches.add(two, lambda: calls.append("second"))
    watches.dispatch()
    assert calls == []
    os.write(say_one, b"!")
    os.write(say_two, b"!")
    assert select.select([watches], [], [], 20)[0]
    watches.dispatch()
    assert calls in (["first"], ["second", "first"])  # not: first, then what it has removed
    for descriptor in (one, say_one, two, say_two):
        os.close(descriptor)


def test_a_death_is_told_once(watches: Watches) -> None:
    deaths: list[int] = []
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        watch = ProcessWatch(watches, process.pid, lambda: deaths.append(process.pid))
        process.kill()
        assert select.select([watches], [], [], 20)[0]
        watches.dispatch()
        watches.dispatch()
        watch.close()
    assert deaths == [process.pid]
    with pytest.raises(ProcessLookupError):
        ProcessWatch(watches, process.pid, lambda: None)


def test_timers_fire_once_and_can_be_moved() -> None:
    timers = Timers()
    fired: list[str] = []
    assert timers.next_deadline() is None
    timers.set("a", 1.0, lambda: fired.append("a"))
    timers.set("b", 2.0, lambda: fired.append("b"))
    timers.set("a", 3.0, lambda: fired.append("a again"))
    assert timers.next_deadline() == 2.0
    timers.run(1.5)
    assert fired == []
    timers.run(2.0)
    assert fired == ["b"]
    assert "a" in timers
    assert "b" not in timers
    timers.cancel("b")
    timers.set("c", 2.5, lambda: timers.set("d", 9.0, lambda: fired.append("d")))
    timers.run(4.0)
    assert fired == ["b", "a again"]
    assert timers.next_deadline() == 9.0
    timers.cancel("d")
    assert timers.next_deadline() is None
