"""What follows the end of an object, and that no interrupt is lost in it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial

import pytest

from notebook_ext import dropping
from tests.waiting import PATIENCE, wait_until


class Thing:
    """Something that can be dropped."""


def test_it_happens_once_in_another_thread_when_the_object_has_gone() -> None:
    seen: list[str] = []
    thing = Thing()
    dropping.when_dropped(thing, lambda: seen.append(threading.current_thread().name))
    dropping.aside(partial(seen.append, "aside"))
    wait_until(lambda: seen == ["aside"])
    del thing
    wait_until(lambda: seen == ["aside", "notebook-ext dropped"])


def test_nothing_happens_once_it_was_released() -> None:
    seen: list[str] = []
    thing, other = Thing(), Thing()
    tie = dropping.when_dropped(thing, partial(seen.append, "released"))
    dropping.when_dropped(other, partial(seen.append, "other"))
    dropping.release(tie)
    del thing, tie, other
    wait_until(lambda: seen)
    assert seen == ["other"]


def test_what_fails_is_logged_and_the_thread_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    with caplog.at_level(logging.ERROR, "notebook_ext"):
        dropping.aside(lambda: 1 / 0)
        dropping.aside(partial(seen.append, "next"))
        wait_until(lambda: seen)
    assert "ZeroDivisionError" in caplog.text


def test_an_interrupt_as_its_thread_starts_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop button in the first map: the next one would wait for ever."""
    dropped = dropping._Dropped()
    done = threading.Event()

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dropped.start()
    dropped.put(done.set)
    dropped.start()
    assert done.wait(10 * PATIENCE)


def test_at_exit_it_still_happens() -> None:
    script = (
        "from notebook_ext import dropping\n"
        "class Thing: pass\n"
        "things = [Thing() for _ in range(50)]\n"
        "for thing in things: dropping.when_dropped(thing, lambda: print('gone'))\n"
        "del thing, things\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30 * PATIENCE
    )
    assert ended.stdout.split() == ["gone"] * 50
