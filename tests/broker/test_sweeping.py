"""When the broker looks for what clients have left."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kernel_worker.broker.sweeping import Sweeping
from kernel_worker.broker.watches import Timers
from kernel_worker.store import owning
from tests.waiting import wait_until


class Looks:
    """A broker's sweeping, by a clock that stands still."""

    def __init__(self, directory: Path) -> None:
        self.timers = Timers()
        self.now = 100.0
        self.has_clients = True
        self.sweeping = Sweeping(directory, self.timers, lambda: self.now, lambda: self.has_clients)


def orphan(directory: Path) -> Path:
    """Make the store of a client that is gone."""
    store = owning.Store(directory, f"cl-{os.urandom(6).hex()}", 1 << 20)
    os.close(store._lock)
    return store.directory


@pytest.fixture
def looks(tmp_path: Path) -> Looks:
    tmp_path.chmod(0o700)
    return Looks(tmp_path)


def test_it_looks_now_and_in_a_minute(looks: Looks, tmp_path: Path) -> None:
    first = orphan(tmp_path)
    looks.sweeping.look()
    wait_until(lambda: not first.exists(), what="what was left is gone")
    second = orphan(tmp_path) if not first.exists() else first
    looks.now += 61
    looks.timers.run(looks.now)
    wait_until(lambda: not second.exists(), what="what was left is gone")
    assert looks.timers.next_deadline() == looks.now + 60


def test_it_looks_no_more_where_there_is_no_client(looks: Looks) -> None:
    looks.sweeping.look_later()
    looks.has_clients = False
    looks.now += 61
    looks.timers.run(looks.now)
    assert looks.timers.next_deadline() is None


def test_who_goes_during_a_look_is_looked_for_after_it(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, seen = threading.Event(), []

    def waits(directory: Path) -> int:
        seen.append(directory)
        go_on.wait()
        return 0

    monkeypatch.setattr(owning, "sweep", waits)
    looks.sweeping.look()
    looks.sweeping.look()
    assert looks.timers.next_deadline() == looks.now + 1
    go_on.set()
    wait_until(lambda: not looks.sweeping.is_looking, what="the first look is over")
    looks.now += 2
    looks.timers.run(looks.now)
    wait_until(lambda: len(seen) == 2, what="it looked again")


def test_what_cannot_be_removed_is_logged(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Path) -> int:
        raise PermissionError("not yours")

    monkeypatch.setattr(owning, "sweep", fails)
    looks.sweeping.sweep()
    assert "could not be removed: not yours" in caplog.text
