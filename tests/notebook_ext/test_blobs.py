"""The store of this process: there is one while there is a session with a broker that is here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kernel_worker import context, settings
from kernel_worker.store import owning
from kernel_worker.wire import frames, payload
from kernel_worker.wire.frames import FORM_VALUE
from notebook_ext import blobs
from notebook_ext.blobs import here

ARRAY = np.arange(100_000)


def session(*, is_far: bool = False, client: str = "cl-0a1b") -> Any:
    return SimpleNamespace(is_far=is_far, client=client, settings=settings.load())


@pytest.fixture(autouse=True)
def _ended() -> Any:
    blobs.end()
    yield
    blobs.end()


def test_it_is_there_from_the_beginning_to_the_end_of_a_session() -> None:
    assert (here.directory, here.keep) == ("", None)
    blobs.begin(session())
    directory = Path(here.directory)
    assert directory.is_dir()
    parts = payload.encode_batch([ARRAY], FORM_VALUE, here.keep)
    assert frames.is_stored(parts)
    named = [bytes(part) for part in parts]
    found = payload.loads(blobs.taken(named))
    blobs.end()
    assert not directory.exists()
    assert (found == ARRAY).all()
    assert here.directory == ""
    assert blobs.taken(named) is named


def test_there_is_none_for_a_broker_elsewhere() -> None:
    blobs.begin(session(is_far=True))
    assert here.directory == ""


def test_there_is_none_for_calls_that_are_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of a worker that runs what came sealed: here it would lie in clear."""
    monkeypatch.setattr(context, "seals", True)
    blobs.begin(session())
    assert here.directory == ""


def test_where_it_cannot_be_made_values_go_with_the_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(owning, "Store", refuses)
    blobs.begin(session())
    assert (here.directory, here.keep) == ("", None)


def test_in_a_worker_it_lies_where_those_of_its_broker_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    identity = SimpleNamespace(connection_file=str(tmp_path / "connection.json"))
    monkeypatch.setattr(context, "worker_identity", identity)
    monkeypatch.setattr(owning, "MEMORY", tmp_path / "nowhere")
    blobs.begin(session())
    assert Path(here.directory) == tmp_path / "store" / "cl-0a1b"
