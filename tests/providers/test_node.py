from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kernel_worker.keys import Keys
from kernel_worker.model import PROTOCOL_MAJOR
from kernel_worker.providers.node import HostProcess, ended
from kernel_worker.providers.provider import HostSpec
from tests.providers.engines import free_port
from tests.waiting import wait_until


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files lie, which is empty."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.fixture
def left() -> Iterator[Path]:
    """Where the host has its socket, which a killed one leaves."""
    place = Path(os.environ["NOTEBOOK_EXT_RUNTIME_DIR"], f"host-power-{PROTOCOL_MAJOR}")
    yield place
    shutil.rmtree(place)


def test_a_host_that_loses_its_power_leaves_no_key(
    tmp_path: Path, temporary: Path, left: Path
) -> None:
    invitation = Keys(tmp_path).invite("hosts", f"tcp://127.0.0.1:{free_port()}", "host")
    process = HostProcess(HostSpec("power", 1), msgspec.json.encode(invitation))
    wait_until((left / "connection.json").exists, 20, "it listens to its workers")
    assert process.is_alive()
    secrets = (invitation.client.secret.encode(), invitation.payload.encode())
    for file in [*left.rglob("*"), *temporary.rglob("*")]:
        if file.is_file():
            assert not any(secret in file.read_bytes() for secret in secrets), file
    process.stop(0.0)
    assert process.wait().startswith("exit code 0")
    assert not list(temporary.iterdir())


def test_a_host_that_cannot_start_has_said_why(temporary: Path) -> None:
    process = HostProcess(HostSpec("power", 1), b"{}")
    assert process.wait().startswith("exit code 1: Error: ")
    assert not list(temporary.iterdir())


def test_how_a_process_has_ended_is_said_for_people() -> None:
    assert [ended(3), ended(-9), ended(-250)] == [
        "exit code 3",
        "killed by SIGKILL",
        "killed by signal 250",
    ]
