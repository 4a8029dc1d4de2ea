"""A session of the test process itself, with the run's broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import notebook_ext as nb
from notebook_ext import process
from notebook_ext.config import reload


@pytest.fixture(scope="session")
def live(own_directories: Path) -> Iterator[nb.App]:
    """Return an app whose functions run on workers of the run's broker."""
    reload()
    yield nb.App("live")
    process.close()


@pytest.fixture
def add(live: nb.App) -> nb.Function[..., int]:
    """Return a function of two numbers."""

    @live.function
    def add(a: int, b: int = 1) -> int:
        return a + b

    return add


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """Return what runs coroutines."""
    with asyncio.Runner() as runner:
        yield runner
