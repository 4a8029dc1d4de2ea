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
from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from kernel_worker.settings import Settings

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


def test_a_broker_that_dies_at_its_start_shows_its_log(configure: Configure) -> None:
    configured = configure()
    configured.data_dir.parent.mkdir(exist_ok=True)
    configured.data_dir.write_text("a file where a directory belongs")
    with pytest.raises(ConnectionError, match=r"(?s)died while it started.*d/default") as raised:
        rendezvous.find_or_start(configured)
    assert "broker.log" in str(raised.value)
    assert "Traceback" not in str(raised.value), "one line says it"
    left = {path.name for path in configured.runtime_dir.rglob("*") if path.is_file()}
    assert left == {"broker.log", "lock", "start.lock"}
    assert not list(configured.runtime_dir.rglob("*.sock"))


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


def test_a_second_broker_gives_way(configure: Configure) -> None:
    configured = configure()
    first = rendezvous.find_or_start(configured)
    environment = {**os.environ, **settings.as_environment(configured)}
    command = [sys.executable, "-m", "kernel_worker.broker"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert b"another broker lives" in done.stderr
    assert rendezvous.find(configured) == first


def test_directories_that_others_can_enter_are_refused(configure: Configure) -> None:
    configured = configure()
    directory = rendezvous.prepare_directory(configured)
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(InvalidError, match="0755"):
        rendezvous.prepare_directory(configured)
    directory.rmdir()
    (configured.runtime_dir / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(configured.runtime_dir / "elsewhere")
    with pytest.raises(InvalidError, match="symbolic link"):
        rendezvous.prepare_directory(configured)
    directory.unlink()
    configured.runtime_dir.chmod(0o777)
    with pytest.raises(InvalidError, match="written by others"):
        rendezvous.prepare_directory(configured)
    configured.runtime_dir.chmod(0o700)


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
