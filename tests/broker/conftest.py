"""A broker's process for each test, and whoever speaks to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker.far import Far
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import messages
from tests.broker.far import Around
from tests.broker.speaking import Client, Host, RunningBroker, Speaker


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """Give a directory whose path is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="nx"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def running(short_dir: Path) -> Iterator[Callable[..., RunningBroker]]:
    """Give a function that starts a broker with settings."""
    started: list[RunningBroker] = []

    def start(**overrides: object) -> RunningBroker:
        started.append(RunningBroker(short_dir, **overrides))
        return started[-1]

    yield start
    for each in started:
        if each.is_alive():
            each.end()


@pytest.fixture
def broker(running: Callable[..., RunningBroker]) -> RunningBroker:
    return running()


@pytest.fixture
def speakers() -> Iterator[list[Speaker]]:
    """Give a list whose speakers are closed in the end."""
    opened: list[Speaker] = []
    yield opened
    for speaker in opened:
        speaker.close()
        if isinstance(speaker, Host):
            for worker in speaker.workers:
                worker.close()


@pytest.fixture
def client(broker: RunningBroker, speakers: list[Speaker]) -> Client:
    made = Client(broker)
    speakers.append(made)
    return made


@pytest.fixture
def host(broker: RunningBroker, speakers: list[Speaker]) -> Host:
    made = Host(broker)
    speakers.append(made)
    return made


@pytest.fixture
def knock() -> Iterator[Callable[..., Far]]:
    """Give a function that returns a socket which says Hello, and does not wait for an answer."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[Far] = []

    def dial(connection: Connection, peer: str) -> Far:
        made.append(Far(context, connection, messages.Hello("client", peer)))
        return made[-1]

    yield dial
    for far in made:
        if not far.socket.closed:
            far.close(0)
    context.term()


@pytest.fixture
def around(short_dir: Path) -> Iterator[Around]:
    made = Around(short_dir)
    yield made
    made.doors.close()
    made.watches.close()
