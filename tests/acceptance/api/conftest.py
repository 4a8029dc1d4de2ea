"""The surfaces on which the lines of API.md are tried; see `surfaces`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import AwaitSurface, CellSurface, Lines, ScriptSurface
from tests.acceptance.conftest import HEAD
from tests.plain_kernel import PlainKernel


@pytest.fixture(scope="session")
def _api_kernel(
    own_directories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlainKernel]:
    kernel = PlainKernel(tmp_path_factory.mktemp("api"))
    yield kernel
    kernel.close()


@pytest.fixture(scope="session")
def _api_script(
    own_directories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptSurface]:
    script = ScriptSurface(tmp_path_factory.mktemp("script"))
    yield script
    script.close()


@pytest.fixture(params=["cell", "aio", "script"])
def lines(request: pytest.FixtureRequest) -> Lines:
    """Return each surface in turn, with `nb` and a fresh `app`."""
    if request.param == "script":
        found = Lines(request.getfixturevalue("_api_script"))
    else:
        kernel = request.getfixturevalue("_api_kernel")
        found = Lines(CellSurface(kernel) if request.param == "cell" else AwaitSurface(kernel))
    found.run(HEAD)
    return found


@pytest.fixture
def cells(_api_kernel: PlainKernel) -> Lines:
    """Return plain cells, for what does not depend on the surface."""
    found = Lines(CellSurface(_api_kernel))
    found.run(HEAD)
    return found
