"""What the acceptance tests share: a kernel per file, places with a broker of their own, scripts.

These tests assert what the README promises, with real kernels, real scripts and real processes,
and know the public API only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cells import typed
from tests.acceptance.places import Place
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE

HEAD = "import notebook_ext as nb\napp = nb.App('acceptance')"

ScriptRunner = Callable[..., str]


@pytest.fixture(scope="module")
def notebook(
    own_directories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlainKernel]:
    """Return one kernel for the file's tests, in which `nb` and `app` are there."""
    kernel = PlainKernel(tmp_path_factory.mktemp("notebook"))
    try:
        typed(kernel, HEAD)
        yield kernel
    finally:
        kernel.close()


@pytest.fixture
def own_place(tmp_path: Path) -> Iterator[Place]:
    """Return a place with a broker of its own, for tests that kill it or wait for its end."""
    place = Place(tmp_path / "p")
    yield place
    place.end()


@pytest.fixture
def run_script(tmp_path: Path) -> ScriptRunner:
    """Run Python text as a script: `run_script(text, variables, interpreter)` → its stdout."""

    def run(
        text: str,
        variables: dict[str, str] | None = None,
        interpreter: tuple[str, ...] = (sys.executable,),
    ) -> str:
        path = tmp_path / "script.py"
        path.write_text(text)
        ended = subprocess.run(
            [*interpreter, str(path)],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | (variables or {}),
            timeout=60 * PATIENCE,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run
