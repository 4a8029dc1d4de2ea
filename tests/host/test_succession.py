"""A broker that was killed is followed by another one, where functions are called by themselves."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from kernel_worker import rendezvous
from kernel_worker.host import succession
from kernel_worker.host.succession import DEATHS_SECONDS, MOST_DEATHS, Succession
from kernel_worker.rendezvous import Connection


def test_none_follows_that_nobody_wants_and_one_does_that_somebody_wants() -> None:
    gate, begun = threading.Event(), threading.Event()

    def start() -> None:
        begun.set()
        gate.wait(10)

    followed = Succession(start)
    assert not followed.begin(0.0)
    followed.is_wanted = True
    assert followed.begin(1000.0)
    assert begun.wait(10)
    assert followed.is_under_way
    gate.set()
    assert followed._thread is not None
    followed._thread.join(10)
    assert not followed.is_under_way


def test_none_follows_several_that_died_young() -> None:
    followed = Succession(lambda: None)
    followed.is_wanted = True
    begun = [followed.begin(1000.0 + second) for second in range(MOST_DEATHS + 1)]
    assert begun == [True] * (MOST_DEATHS - 1) + [False, False]
    assert followed.begin(1000.0 + MOST_DEATHS + DEATHS_SECONDS)


def test_what_is_found_may_be_the_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections end a moment before its lock does."""
    alive = [subprocess.Popen(["/bin/sleep", "60"]) for _ in range(2)]
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    dying, follower = (each.pid for each in alive)
    pids = [gone.pid, dying, follower]
    found = [Connection("ipc://x", pid, "i", "m", "/p") for pid in pids]

    def find(_: object) -> Connection:
        if len(found) == 2:
            alive[0].kill()
        return found.pop(0)

    monkeypatch.setattr(rendezvous, "find_or_start", find)
    try:
        succession.start_broker()
    finally:
        for each in alive:
            each.kill()
            each.wait()
    assert found == []


def test_where_none_can_be_started_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_IDLE_EXIT_SECONDS", "soon")
    succession.start_broker()
    assert "no broker follows the one that is gone" in capsys.readouterr().err


def test_what_is_started_is_no_child_of_the_agents() -> None:
    """Or else it would be swept, and waited for, as what a user's function has left behind."""
    leave = "import os, time; os.fork() and os._exit(0); time.sleep(3)"
    program = (
        "import subprocess, sys\n"
        "from kernel_worker.host import orphans\n"
        "def leave():\n"
        f"    subprocess.run([sys.executable, '-c', {leave!r}], stdout=subprocess.DEVNULL)\n"
        "orphans.become_subreaper()\n"
        "with orphans.letting_go():\n"
        "    leave()\n"
        "print(len(orphans.children()))\n"
        "leave()\n"
        "print(len(orphans.children()))\n"
        "orphans.sweep([], {})\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    assert ran.stdout.split() == ["0", "1"]
