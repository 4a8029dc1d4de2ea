"""A broker of another version, one that hangs, clocks that are apart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernel_worker import rendezvous, settings
from notebook_ext import inquiry
from notebook_ext.doctor import connection


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[rendezvous.Connection]:
    """Start a broker of its own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "doctor")
    yield rendezvous.find_or_start(settings.load())
    inquiry.stop()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_broker_of_another_version_is_to_be_started_anew(
    running: rendezvous.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.broker().grade == "ok"
    monkeypatch.setattr(connection, "version", lambda _: "99.0")
    found = connection.broker()
    assert found.grade == "warning"
    assert f"pid {running.pid}" in found.said
    assert found.said.endswith("and this is 99.0")
    assert "notebook-ext broker stop" in found.remedy


def test_a_broker_that_hangs_is_a_problem(running: rendezvous.Connection) -> None:
    with stopped(running.pid):
        (found,) = connection.findings(1.0)
    assert (found.check, found.grade) == ("broker", "problem")
    assert "did not answer within" in found.said


@pytest.mark.parametrize(
    ("ahead", "grade", "said"),
    [
        (3600.4, "warning", "3600 s ahead: "),
        (-7.0, "warning", "7 s behind: "),
        (0.3, "ok", "the same time"),
    ],
)
def test_clocks_that_are_apart_are_a_warning(ahead: float, grade: str, said: str) -> None:
    found = connection.clock("broker", ahead)
    assert (found.grade, said in found.said) == (grade, True), found
