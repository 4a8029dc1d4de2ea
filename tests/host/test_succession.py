"""A broker that was killed is followed by another one, where functions are called by themselves."""

from __future__ import annotations

import threading

import pytest

from kernel_worker.host import succession
from kernel_worker.host.succession import DEATHS_SECONDS, MOST_DEATHS, Succession


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


def test_where_none_can_be_started_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_IDLE_EXIT_SECONDS", "soon")
    succession.start_broker()
    assert "no broker follows the one that is gone" in capsys.readouterr().err
