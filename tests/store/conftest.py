from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker.store.owning import Store


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """Return a broker's runtime directory."""
    directory = tmp_path / "broker"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def store(broker: Path) -> Iterator[Store]:
    """Return the store of a client, which is this process."""
    made = Store(broker, f"cl-{os.urandom(6).hex()}", 1 << 30)
    yield made
    made.close()


@pytest.fixture
def directory(store: Store) -> str:
    """Return where that store lies."""
    return os.fspath(store.directory)
