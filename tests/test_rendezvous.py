"""Finding and starting brokers; real processes, directories of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from kernel_worker import rendezvous, settings
from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.settings import Settings
from tests.waiting import wait_until

Configure = Callable[..., Settings]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Give a function that makes settings in a directory of its own; its brokers end with it."""
    directory = Path(tempfile.mkdtemp(prefix="nx"))
    made: list[Settings] = []

    def make(**overrides: object) -> Settings:
        given = {"runtime_dir": directory / "r", "data_dir": directory / "d", **overrides}
        made.append(settings.load(given, {"HOME": str(directory)}, "/"))
        return made[-1]

    yield make
    for each in made:
        if found := rendezvous.find(each):
            end(found, signal.SIGTERM)
    shutil.rmtree(directory)


def end(connection: rendezvous.Connection, number: int) -> None:
    process = os.pidfd_open(connection.pid)
    os.kill(connection.pid, number)
    poller = zmq.Poller()
    poller.register(process, zmq.POLLIN)
    assert poller.poll(20_000)
    os.close(process)


def test_one_broker_for_many_who_start_at_once(configure: Configure) -> None:
    configured = configure()
    assert rendezvous.find(configured) is None
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: rendezvous.find_or_start(configured), range(6)))
    assert len({each.pid for each in found}) == 1
    assert rendezvous.find(configured) == found[0]
    assert os.getsid(found[0].pid) != os.getsid(0)
    assert Path(f"/proc/{found[0].pid}/cwd").readlink() == Path("/")


def test_profiles_have_brokers_of_their_own(configure: Configure) -> None:
    one, two = configure(profile="one"), configure(profile="two")
    assert rendezvous.find_or_start(one).pid != rendezvous.find_or_start(two).pid


def test_a_stale_connection_file_is_ignored(configure: Configure) -> None:
    configured = configure()
    first = rendezvous.find_or_start(configured)
    end(first, signal.SIGKILL)
    assert Path(first.path).exists()
    assert rendezvous.find(configured) is None
    second = rendezvous.find_or_start(configured)
    assert second.incarnation != first.incarnation


def test_a_broker_that_cannot_start_says_why_in_one_line(configure: Configure) -> None:
    configured = configure()
    configured.data_dir.parent.mkdir(exist_ok=True)
    configured.data_dir.write_text("a file where a directory belongs")
    with pytest.raises(ConnectionError) as raised:
        rendezvous.find_or_start(configured)
    assert str(raised.value) == (
        f"the broker cannot start: {configured.data_dir} is not a directory; remove it, or set "
        "NOTEBOOK_EXT_DATA_DIR to another directory"
    )
    (log,) = configured.runtime_dir.rglob("broker.log")
    assert log.read_text().count("\n") == 1, "and so does its log"
    assert f"{configured.data_dir} is not a directory" in log.read_text()
    left = {path.name for path in configured.runtime_dir.rglob("*") if path.is_file()}
    assert left == {"broker.log", "lock", "start.lock"}
    assert not list(configured.runtime_dir.rglob("*.sock"))


def test_a_device_that_is_not_there_is_named_at_once(configure: Configure) -> None:
    """Its host agent would end, again and again, and whoever calls would wait for a host."""
    with pytest.raises(ConnectionError, match="cannot start: gpus='64': there is no device 64"):
        rendezvous.find_or_start(configure(gpus="64"))


def test_a_broker_that_dies_at_its_start_shows_its_log(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho no such interpreter >&2\nprintf failed >&$6\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(ConnectionError, match=r"died while it started.*broker.log:\nno such inter"):
        rendezvous.find_or_start(configure())


@pytest.mark.parametrize(("killed", "is_found"), [(2, True), (3, False)])
def test_a_broker_that_was_killed_at_its_start_is_started_again(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: int,
    is_found: bool,
) -> None:
    tries, interpreter = tmp_path / "tries", tmp_path / "python"
    interpreter.write_text(
        f"#!/bin/sh\necho >> {tries}\n"
        f'test $(wc -l < {tries}) -le {killed} || exec {sys.executable} "$@"\n'
    )
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    configured = configure()
    if is_found:
        rendezvous.find_or_start(configured)
    else:
        with pytest.raises(ConnectionError, match="died while it started"):
            rendezvous.find_or_start(configured)
    assert len(tries.read_text()) == 3


def test_a_broker_whose_starter_has_gone_serves_others(configure: Configure) -> None:
    configured = configure()
    answer, ready = os.pipe()
    os.close(answer)
    command = [sys.executable, "-m", "kernel_worker.broker", "--ready-fd", str(ready)]
    environment = {**os.environ, **settings.as_environment(configured)}
    subprocess.run(command, env=environment, pass_fds=[ready], check=True)
    os.close(ready)
    found = wait_until(lambda: rendezvous.find(configured), what="the broker listens")
    assert rendezvous.find_or_start(configured) == found


def test_a_second_broker_gives_way(configure: Configure) -> None:
    configured = configure()
    first = rendezvous.find_or_start(configured)
    environment = {**os.environ, **settings.as_environment(configured)}
    command = [sys.executable, "-m", "kernel_worker.broker"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert b"another broker lives" in done.stderr
    assert rendezvous.find(configured) == first


def test_long_paths_get_a_short_socket(configure: Configure) -> None:
    configured = configure()
    deep = configured.runtime_dir / ("d" * 90)
    deep.mkdir(parents=True)
    path = rendezvous.socket_path(deep)
    assert len(os.fsencode(path)) < rendezvous.MAX_SOCKET_PATH_BYTES
    assert path == rendezvous.socket_path(deep)
    path.parent.rmdir()


def test_a_damaged_connection_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("{")
    with pytest.raises(ConnectionError, match="no connection file"):
        rendezvous.read_connection(tmp_path / "connection.json")
    assert rendezvous.read_connection(tmp_path / "nothing") is None


def test_one_agent_lives_beside_a_connection_file(tmp_path: Path) -> None:
    file = str(tmp_path / "connection.json")
    assert rendezvous.living_agent(file) == 0
    lock = rendezvous.claim_agent(file)
    assert lock is not None
    assert rendezvous.claim_agent(file) is None
    assert rendezvous.living_agent(file) == os.getpid()
    os.close(lock)
    assert rendezvous.living_agent(file) == 0


def test_whoever_has_the_lock_is_known_when_it_has_said_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent before it had said is not taken for it: that pid may be anybody's by now."""
    file = str(tmp_path / "connection.json")
    lock = rendezvous.claim_agent(file)
    assert lock is not None
    true = os.pread(lock, 64, 0)
    for untrue in (b"1 1".ljust(64), b"999999999 5".ljust(64), b"", b" " * 64):
        os.truncate(lock, 0)
        os.pwrite(lock, untrue, 0)
        assert rendezvous.living_agent(file) == 0
    monkeypatch.setattr(rendezvous, "_CLAIM_SECONDS", 60.0)
    monkeypatch.setattr(rendezvous, "_PAUSE_SECONDS", 0.0)
    looks = iter([b" " * 64, b"1 1".ljust(64), true])
    monkeypatch.setattr(os, "pread", lambda *_: next(looks))
    assert rendezvous.living_agent(file) == os.getpid()
    os.close(lock)


def test_one_that_was_killed_is_followed_until_somebody_says_stop(configure: Configure) -> None:
    configured = configure()
    directory = rendezvous.prepare_directory(configured)
    assert rendezvous.killed(directory) is None
    here, file = rendezvous.machine_id(), str(directory / "connection.json")
    left = rendezvous.Connection("ipc://s", 1, "i", here, file, door="tcp://127.0.0.1:1")
    rendezvous.publish(left)
    assert rendezvous.killed(directory) == left
    lock = rendezvous.claim(directory)
    assert lock is not None
    rendezvous.forget_killed(configured)
    assert rendezvous.killed(directory) == left, "a broker lives"
    os.close(lock)
    rendezvous.forget_killed(configured)
    assert rendezvous.killed(directory) is None
    rendezvous.publish(rendezvous.Connection("ipc://s", 1, "i", "another boot", file))
    assert rendezvous.killed(directory) is None
    (directory / "connection.json").write_text("{")
    assert rendezvous.killed(directory) is None
