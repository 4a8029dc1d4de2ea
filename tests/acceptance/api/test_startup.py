"""API.md sections 1 (`startup_timeout`) and 4 (`enter` or an import failed): starts that fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE

HERE_ONLY = "import sys\nif 'IPython' not in sys.modules:\n    {does}\nGOOD = 42\n"
"""A module that the notebook imports well, and a worker does not."""


@pytest.fixture
def kernel_with(start_kernel: KernelStarter, tmp_path: Path) -> PlainKernel:
    """Return a kernel in `tmp_path`, from where it imports modules."""
    kernel = start_kernel(tmp_path)
    typed(kernel, f"{HEAD}\nimport sys\nsys.path.insert(0, {str(tmp_path)!r})")
    return kernel


def define(kernel: PlainKernel, module: str, options: str = "") -> None:
    """Define a function that needs `module` of the working directory."""
    typed(
        kernel,
        f"""
        import {module}
        @app.function({options})
        def uses():
            return {module}.GOOD
        def end(call):
            try:
                return 'value', str(call())
            except BaseException as error:
                import traceback
                return type(error).__name__, ''.join(traceback.format_exception(error))
        """,
    )


def test_an_import_that_fails_shows_its_traceback_and_recovers_when_it_is_mended(
    kernel_with: PlainKernel, tmp_path: Path
) -> None:
    """`enter` or an import failed: the inputs get that exception."""
    module = tmp_path / "licensed.py"
    module.write_text(HERE_ONLY.format(does="raise LookupError('no licence')"))
    define(kernel_with, "licensed")
    kind, text = value(kernel_with, "end(uses.remote)")
    assert kind == "LookupError"
    assert "no licence" in text
    assert "licensed.py" in text, "the user's file and line"
    kinds = "[type(e).__name__ for e in uses.starmap([()] * 3, return_exceptions=True, "
    kinds += "wrap_returned_exceptions=False)]"
    assert value(kernel_with, kinds) == ["LookupError"] * 3
    module.write_text(HERE_ONLY.format(does="pass"))
    assert value(kernel_with, "uses.remote()") == 42


@pytest.mark.clock
def test_a_start_that_takes_too_long_ends_as_a_timeout(
    kernel_with: PlainKernel, tmp_path: Path
) -> None:
    """`startup_timeout`: seconds for imports and `enter`."""
    (tmp_path / "sleepy.py").write_text(HERE_ONLY.format(does="import time; time.sleep(60)"))
    define(kernel_with, "sleepy", "startup_timeout=0.5")
    begun = time.monotonic()
    kind, text = value(kernel_with, "end(uses.remote)")
    assert time.monotonic() - begun < 10 * PATIENCE
    assert kind == "TimeoutError"
    assert "0.5 s" in text
    assert "uses" in text


def test_a_start_that_crashes_is_given_up_with_the_cause(
    kernel_with: PlainKernel, tmp_path: Path
) -> None:
    """No endless crash loop: back-off, then fail; a redefinition starts anew."""
    module = tmp_path / "crashes.py"
    module.write_text(HERE_ONLY.format(does="import os; os._exit(7)"))
    define(kernel_with, "crashes", "min_containers=1")
    kind, text = value(kernel_with, "end(uses.remote)")
    assert kind == "InternalFailure"
    assert "exit code 7" in text
    module.write_text(HERE_ONLY.format(does="pass"))
    assert value(kernel_with, "uses.remote()") == 42
