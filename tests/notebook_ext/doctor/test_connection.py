"""A broker of another version, one that hangs, clocks that are apart."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from kernel_worker import rendezvous, settings
from kernel_worker.keys import Keys
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


def test_a_broker_that_hangs_is_a_problem(
    running: rendezvous.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry.Inquiry.__init__, "__defaults__", (0.5,))
    with stopped(running.pid):
        (found,) = connection.findings(1.0)
    assert (found.check, found.grade) == ("broker", "problem")
    assert "did not answer within" in found.said
    assert f"end process {running.pid}" in found.remedy


def test_a_broker_elsewhere_that_cannot_be_reached_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "box.json"
    monkeypatch.setenv("NOTEBOOK_EXT_CONNECTION_FILE", str(file))
    (found,) = connection.findings(1.0)
    assert (found.check, found.grade) == ("broker", "problem")
    assert "broker invite" in found.remedy
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given = Keys(tmp_path).invite("me", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        file.write_bytes(msgspec.json.encode(given))
        file.chmod(0o600)
        monkeypatch.setattr(inquiry.Inquiry.__init__, "__defaults__", (0.2,))
        (found,) = connection.findings(1.0)
    assert f"{given.address} did not answer within 0.2 s" in found.said
    assert "whether a firewall" in found.remedy


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
