"""A remote failure looks like a local one: the type, the cell, the line; none of our frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.cells import typed
from tests.acceptance.conftest import HEAD
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel

CELL_2 = """\
class MyError(ValueError):
    pass

def helper(x):
    raise MyError(f"no {x}")  # the culprit

@app.function()
def calls_helper(x):
    return helper(x)
"""


@pytest.fixture
def third_cell(start_kernel: KernelStarter, tmp_path: Path) -> PlainKernel:
    """Return a kernel whose cells 1 and 2 have been run, so that the next one is cell 3."""
    kernel = start_kernel(tmp_path)
    typed(kernel, HEAD)
    typed(kernel, CELL_2)
    return kernel


@pytest.fixture(scope="module")
def later_cell(notebook: PlainKernel) -> PlainKernel:
    """Return one kernel for the others, whose second cell is the same."""
    typed(notebook, CELL_2)
    return notebook


def test_a_remote_traceback_shows_the_cells_lines_and_none_of_our_frames(
    third_cell: PlainKernel,
) -> None:
    error = third_cell.run("calls_helper.remote(7)").error
    assert error is not None
    assert (error.name, error.value) == ("MyError", "no 7")
    assert "Cell In[3], line 1" in error.traceback
    assert "Cell In[2], line 9" in error.traceback
    assert "Cell In[2], line 5" in error.traceback
    assert 'raise MyError(f"no {x}")  # the culprit' in error.traceback
    assert "notebook_ext" not in error.traceback
    assert "kernel_worker" not in error.traceback


@pytest.mark.parametrize(
    "call",
    [
        "calls_helper.remote(7)",
        "list(calls_helper.map([7]))",
        "calls_helper.spawn(7).get()",
        "nb.gather(calls_helper.spawn(7))",
        "await calls_helper.remote.aio(7)",
    ],
)
def test_the_original_type_is_caught_by_its_class(later_cell: PlainKernel, call: str) -> None:
    cell = typed(later_cell, f"try:\n    {call}\nexcept MyError as error:\n    print(error)")
    assert cell.stdout == "no 7\n"
    error = later_cell.run(call).error
    assert error is not None
    assert "Cell In[2], line 5" in error.traceback
    assert "notebook_ext" not in error.traceback


@pytest.mark.parametrize(
    "call", ["calls_helper.remote([lock])", "list(calls_helper.map([[lock], [1]]))"]
)
def test_what_cannot_travel_is_named_by_its_path(later_cell: PlainKernel, call: str) -> None:
    error = later_cell.run(f"import threading\nlock = threading.Lock()\n{call}").error
    assert error is not None
    assert error.name == "SerializationError"
    assert "args[0][0]" in error.value
    assert "notebook_ext" not in error.traceback
    assert "kernel_worker" not in error.traceback


OURS = {
    "calls_helper.map(3)": "InvalidError",
    "m = calls_helper.map([]); list(m); list(m)": "InvalidError",
    "nb.config.progress = 'blue'": "InvalidError",
    "calls_helper.spawn(7).get(timeout=0)": "StillPendingError",
    "nb.FunctionCall.from_id('fc-0').get()": "NotFoundError",
    "await nb.FunctionCall.from_id('fc-0').get.aio()": "NotFoundError",
}


@pytest.mark.parametrize("call", OURS)
def test_an_error_of_ours_shows_the_cell_alone(third_cell: PlainKernel, call: str) -> None:
    error = third_cell.run(call).error
    assert error is not None
    assert error.name == OURS[call]
    assert f"----> 1 {call}" in error.traceback
    assert "File " not in error.traceback
    assert error.traceback.rstrip().endswith(error.value)


def test_arguments_that_do_not_fit_show_the_definition(later_cell: PlainKernel) -> None:
    for call in ("calls_helper.remote(1, 2)", "list(calls_helper.map([1], [2]))"):
        error = later_cell.run(call).error
        assert error is not None
        assert error.name == "TypeError"
        assert "Cell In[2], line 7" in error.traceback
        assert "def calls_helper(x):" in error.traceback
        assert "notebook_ext" not in error.traceback


def test_an_iterable_that_raises_shows_its_own_frames(later_cell: PlainKernel) -> None:
    error = later_cell.run("list(calls_helper.map(1 // x for x in [0]))").error
    assert error is not None
    assert error.name == "ZeroDivisionError"
    assert "notebook_ext" not in error.traceback
