import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from kernel_worker import rendezvous, settings
from kernel_worker.errors import ConnectionError as OurConnectionError
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import messages
from notebook_ext import inquiry


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Start a broker of this test's own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "inquiry")
    yield rendezvous.find_or_start(settings.load())
    inquiry.stop()


def test_it_asks_the_broker_that_runs(broker: Connection) -> None:
    status = inquiry.status()
    assert status is not None
    assert status.pid == broker.pid
    assert status.clients == 0, "who asks is not counted"


def test_stop_returns_when_the_broker_is_gone(broker: Connection) -> None:
    assert inquiry.stop() == broker.pid
    assert inquiry.find() is None
    assert inquiry.stop() is None
    assert inquiry.status() is None


def test_calls_are_told_also_where_the_broker_has_left(broker: Connection) -> None:
    wanted = messages.CallFilter(status="succeeded")
    assert inquiry.calls(wanted) == []
    inquiry.stop()
    assert inquiry.calls(wanted) == [], "its journal is there: one is started that reads it"
    again = inquiry.find()
    assert again is not None
    assert again.incarnation != broker.incarnation


def test_where_nobody_made_calls_none_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "nobody")
    assert inquiry.calls(messages.CallFilter()) is None
    assert inquiry.find() is None


def test_a_broker_that_does_not_answer_is_named_in_time(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    address = f"ipc://{tmp_path_factory.getbasetemp()}/mute"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mute:
        mute.setsockopt(zmq.LINGER, 0)
        mute.bind(address)
        nobody = Connection(address, os.getpid(), "i", rendezvous.machine_id(), "")
        with (
            inquiry.Inquiry(nobody, limit_seconds=0.2) as asked,
            pytest.raises(OurConnectionError, match=r"within 0\.2 s"),
        ):
            asked.status()
