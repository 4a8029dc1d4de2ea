"""A session of the test process itself, with the run's broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import notebook_ext as nb
from notebook_ext import process
from notebook_ext.cli import main
from notebook_ext.config import reload

CommandLine = Callable[..., Result]


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


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """Run the command line with a broker of its own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "cli")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    yield invoke
    assert invoke("broker", "stop").exit_code == 0
