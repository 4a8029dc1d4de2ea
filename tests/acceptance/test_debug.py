"""Looking at a remote input from a cell: at a breakpoint, after a failure, and again at home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel

FUNCTIONS = """
%load_ext notebook_ext
import notebook_ext as nb
app = nb.App()

@app.function(max_containers=1)
def stops(x):
    y = x + 1
    breakpoint()
    return y

@app.function(max_containers=1)
def nests(x):
    return stops.remote(x)

@app.function()
def fails(x):
    kept = [x]
    return kept[x]

def failed(call):
    try:
        call()
    except IndexError as error:
        return error
"""


@pytest.fixture
def cells(start_kernel: KernelStarter, tmp_path: Path) -> PlainKernel:
    kernel = start_kernel(tmp_path)
    typed(kernel, FUNCTIONS)
    return kernel


def test_a_breakpoint_opens_in_the_cell_that_waits(cells: PlainKernel) -> None:
    for source, result in (
        ("stops.remote(1)", "2"),
        ("nests.remote(2)", "3"),
        ("list(stops.map([3]))", "[4]"),
    ):
        cell = cells.begin(source, with_input=True)
        assert cells.answer("p y", "c") == ["(Pdb) ", "(Pdb) "]
        cells.finish(cell, 30)
        assert cell.result == result
        assert "is at a breakpoint" in cell.stdout
        assert "-> return y" in cell.stdout
        assert result.strip("[]") in cell.stdout.splitlines(), "what p shows"


def test_two_inputs_of_a_map_stop_one_after_the_other(cells: PlainKernel) -> None:
    typed(cells, "two = stops.with_options(max_containers=2)")
    cell = cells.begin("list(two.map([1, 2, 3]))", with_input=True)
    assert cells.answer("c", "c", "c") == ["(Pdb) "] * 3
    cells.finish(cell, 30)
    assert cell.result == "[2, 3, 4]"


def test_the_stop_button_at_a_breakpoint_cancels_the_call(cells: PlainKernel) -> None:
    cell = cells.begin("stops.remote(1)", with_input=True)
    cells.answer("p y")
    assert cells.asked() == "(Pdb) "
    cells.interrupt()
    cells.finish(cell, 10)
    assert cell.error is not None
    assert cell.error.name == "KeyboardInterrupt"
    cell = cells.begin("stops.remote(5)", with_input=True)
    cells.answer("c")
    assert cells.finish(cell, 30).result == "6"


def test_without_input_it_says_so_and_goes_on(cells: PlainKernel) -> None:
    cell = typed(cells, "stops.remote(1), stops.spawn(2).get()")
    assert cell.result == "(2, 3)"
    assert "breakpoint() in stops goes on: this front end takes no input" in cell.stderr
    assert "goes on: nobody waits for it: it, or a call above it, was spawned" in cell.stderr
    cell = cells.begin("await stops.remote.aio(1)", with_input=True)
    assert cells.finish(cell, 30).result == "2"
    assert "is awaited" in cell.stderr


def test_a_failure_is_looked_at_in_the_worker_that_kept_it(cells: PlainKernel) -> None:
    typed(cells, "nb.config.keep_failed_seconds = 300\nerror = failed(lambda: fails.remote(7))")
    assert "parked" in (typed(cells, "%remote_status").result or "")
    cell = cells.begin("%remote_debug", with_input=True)
    assert cells.answer("p kept, x", "locals", "u", "q") == ["(Pdb) "] * 4
    cells.finish(cell, 30)
    assert cell.error is None, cell.error.traceback
    assert "-> return kept[x]" in cell.stdout
    assert "([7], 7)" in cell.stdout
    assert "kept = [7]" in cell.stdout
    assert "parked" not in (typed(cells, "%remote_status").result or ""), "released at once"
    cell = cells.run("%remote_debug")
    assert "takes no input" in cell.stderr
    cell = cells.begin("%remote_debug", with_input=True)
    cells.finish(cell, 30)
    assert cell.stderr.startswith("UsageError: %remote_debug: no frames are kept: those of fc-")
    assert "were let go when the console was left" in cell.stderr
    assert "keep_failed_seconds =" not in cell.stderr, "it was set"


def test_what_failed_fails_at_home_and_percent_debug_works(cells: PlainKernel) -> None:
    typed(cells, "error = failed(lambda: fails.remote(7))")
    cell = cells.run("error.rerun_local()")
    assert cell.error is not None
    assert cell.error.name == "IndexError"
    assert "return kept[x]" in cell.error.traceback
    cell = cells.begin("%debug", with_input=True)
    cells.answer("p kept", "q")
    cells.finish(cell, 30)
    assert "[7]" in cell.stdout
    assert value(cells, "fails.local(0)") == 0
