"""The extension in a real kernel: `%%remote`, `%remote_status`, the progress display of a map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel


@pytest.fixture
def extended(start_kernel: KernelStarter, tmp_path: Path) -> PlainKernel:
    """Return a kernel with the extension loaded and one remote function, `cube`."""
    kernel = start_kernel(tmp_path)
    typed(kernel, f"%load_ext notebook_ext\n{HEAD}")
    typed(kernel, "%%remote --max-containers 2\ndef cube(x):\n    return x ** 3\n\nready = True")
    return kernel


def test_a_cells_definitions_become_functions(extended: PlainKernel) -> None:
    assert value(extended, "ready, list(cube.map(range(4)))") == (True, [0, 1, 8, 27])


def test_an_unknown_option_is_one_line(extended: PlainKernel) -> None:
    cell = extended.run("%%remote --no-such-option 2\ndef f(x):\n    return x")
    shown = cell.stdout + cell.stderr + (cell.error.traceback if cell.error else "")
    assert "no-such-option" in shown
    assert len(shown.strip().splitlines()) <= 2


def test_cancelling_ends_a_call_and_says_where_there_is_none(extended: PlainKernel) -> None:
    typed(extended, "import time\n@app.function()\ndef nap(): time.sleep(60)")
    call = typed(extended, "nap_call = nap.spawn()\nprint(nap_call.object_id)").stdout.strip()
    cell = typed(extended, f"%remote_cancel {call}")
    assert cell.stdout + cell.stderr == ""
    error = extended.run("nap_call.get()").error
    assert error is not None
    assert error.name == "CallCancelledError"
    cell = extended.run(f"%remote_cancel {call}")
    assert cell.stderr.strip() == f"UsageError: %remote_cancel: the call {call} has ended"


def test_the_status_names_the_pool(extended: PlainKernel) -> None:
    value(extended, "cube.remote(2)")
    cell = typed(extended, "%remote_status")
    assert "cube" in cell.stdout + json.dumps(cell.displays)


def test_a_map_that_takes_a_while_shows_its_progress_and_its_end(extended: PlainKernel) -> None:
    cell = typed(
        extended,
        """
        import time
        @app.function()
        def naps(x): time.sleep(0.02)
        naps.for_each(range(100))
        """,
    )
    shown = json.dumps(cell.displays + cell.updates)
    assert "widget-view" in shown
    assert "naps" in shown
    assert "100" in json.dumps(cell.updates[-1])
