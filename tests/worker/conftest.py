"""A host agent of its own for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.harness import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    directory = tempfile.TemporaryDirectory(prefix="nbx-b-", dir="/tmp")
    with directory as path, Broker(Path(path)) as broker:
        yield broker
