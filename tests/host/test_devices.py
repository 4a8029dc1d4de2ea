"""A device has one live owner, whichever brokers of the machine offer it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker.host.devices import LOOK_SECONDS, Devices, Lookout
from kernel_worker.host.timers import Timers
from kernel_worker.model import WorkerId
from kernel_worker.wire import messages


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "not" / "made"


@pytest.fixture
def worker(locks: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has device 0 as a worker does, from an agent that has gone."""
    agent = Devices(locks)
    assert agent.take([0])
    (file,) = agent.files([0])
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file]
    ) as process:
        agent.give_back([0])
        yield process


def test_what_one_has_is_held_for_the_other_until_the_last_worker_is_through(locks: Path) -> None:
    one, other = Devices(locks), Devices(locks)
    assert one.take([0])
    assert one.take([0]), "they share it: that is the core's business"
    assert not other.take([1, 0])
    assert other.held == {0}
    assert one.take([1]), "who cannot have all has none"
    one.give_back([1])
    one.give_back([0])
    assert not other.look()
    one.give_back([0])
    assert other.look()
    assert not other.held
    assert other.take([0, 1])
    assert not one.take([0])
    other.give_back([0, 1])
    assert one.take([0]), "it need not have looked"
    assert not one.held
    one.give_back([0])


def test_the_broker_is_told_what_others_have_until_they_do_not(locks: Path) -> None:
    one, other, timers = Devices(locks), Devices(locks), Timers()
    told: list[messages.ToBroker] = []
    lookout = Lookout(other, timers, told.append)
    assert one.take([0, 1])
    for worker in (WorkerId("ta-1"), WorkerId("ta-2")):
        assert not other.take([0, 1])
        lookout.turn_away(worker)
        assert told.pop() == messages.DevicesHeld((0, 1), worker)

    def look() -> list[messages.ToBroker]:
        due = timers.next_at()
        assert due is not None
        timers.run(due)
        heard = told[:]
        told.clear()
        return heard

    assert look() == []
    one.give_back([0])
    assert look() == [messages.DevicesHeld((1,))]
    one.give_back([1])
    assert look() == [messages.DevicesHeld(())]
    assert timers.next_at() is None, "there is nothing to look at any more"
    assert one.take([0])
    assert not other.take([0])
    began = time.monotonic()
    lookout.turn_away(WorkerId("ta-3"))
    due = timers.next_at()
    assert due is not None
    assert 0 <= due - began - LOOK_SECONDS < LOOK_SECONDS
    one.give_back([0])


def test_a_device_is_one_whatever_it_is_counted_as(locks: Path) -> None:
    one, other = Devices(locks, {0: "GPU-aaaa"}), Devices(locks, {0: "GPU-bbbb", 1: "GPU-aaaa"})
    assert one.take([0])
    assert other.take([0]), "in a job of a cluster each counts from 0"
    assert not other.take([1])
    for agent in one, other:
        agent.give_back([0])


def test_a_device_is_held_as_long_as_a_worker_lives(
    locks: Path, worker: subprocess.Popen[bytes]
) -> None:
    other = Devices(locks)
    assert not other.take([0])
    worker.kill()
    worker.wait()
    assert other.look()
    assert other.take([0])
    other.give_back([0])


def test_every_user_can_lock_what_another_one_has_made(locks: Path) -> None:
    before = os.umask(0o077)
    try:
        one = Devices(locks)
        assert one.take([0])
    finally:
        os.umask(before)
    one.give_back([0])
    (made,) = locks.iterdir()
    assert made.stat().st_mode & 0o777 == 0o644
    made.chmod(0o444)
    assert one.take([0]), "who may only read it can lock it"
    one.give_back([0])


def test_without_the_directory_devices_can_be_used_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    one = Devices(tmp_path / "file" / "locks")
    assert one.take([0])
    assert one.take([0, 1])
    assert one.files([0, 1]) == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "other brokers of this machine are not told of devices in use: " in said[0]
