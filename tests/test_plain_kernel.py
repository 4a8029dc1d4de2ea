"""The kernel that other tests type into does what a notebook does."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until


def test_a_cell_shows_its_streams_its_result_and_its_displays(kernel: PlainKernel) -> None:
    cell = kernel.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\ndisplay(1)\n6 * 7")
    assert (cell.stdout, cell.stderr, cell.result, cell.error) == ("out\n", "err\n", "42", None)
    assert [bundle["text/plain"] for bundle in cell.displays] == ["1", "42"]


def test_an_exception_is_shown_with_its_cell_line(kernel: PlainKernel) -> None:
    error = kernel.run("x = 1\n1 / 0").error
    assert error is not None
    assert error.name == "ZeroDivisionError"
    assert "Cell In[1], line 2" in error.traceback


def test_the_stop_button_ends_a_running_cell(kernel: PlainKernel) -> None:
    cell = kernel.begin("import time\nprint('started', flush=True)\ntime.sleep(60)")
    wait_until(lambda: kernel.listen(0.1) and cell.stdout, what="the cell has started")
    kernel.interrupt()
    error = kernel.finish(cell, timeout=5).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    assert kernel.run("1 + 1").result == "2"


def test_it_starts_in_the_directory_and_with_the_variables_given(
    start_kernel: KernelStarter, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("a,b")
    kernel = start_kernel(tmp_path, {"NOTEBOOK_EXT_TEST": "yes"})
    assert kernel.run("open('x.csv').read()").result == "'a,b'"
    assert kernel.run("import os; os.environ['NOTEBOOK_EXT_TEST']").result == "'yes'"
