"""The stop button: SIGINT to the kernel's process group while a cell waits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.cells import begun, typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until

WAITING = {
    "remote": "naps.remote(0)",
    "map": "list(naps.map(range(100)))",
    "starmap": "list(naps.starmap((x,) for x in range(100)))",
    "for_each": "naps.for_each(range(100))",
    "get": "spawned = naps.spawn(0, seconds=3)\nspawned.get()",
    "gather": "nb.gather(naps.spawn(0, seconds=3), naps.spawn(1, seconds=3))",
    "remote.aio": "await naps.remote.aio(0)",
    "map.aio": "[x async for x in naps.map.aio(range(100))]",
}


@pytest.mark.clock
@pytest.mark.parametrize("how", WAITING)
def test_the_stop_button_is_back_within_a_second_and_the_workers_serve_on(
    notebook: PlainKernel, tmp_path: Path, how: str
) -> None:
    marks = tmp_path / "marks"
    typed(
        notebook,
        f"""
        import os, time
        @app.function(min_containers=2, max_containers=2)
        def naps(x, seconds=30):
            if seconds:
                open({str(marks)!r}, 'a').write('.')
            time.sleep(seconds or 0.005)
            return os.getpid()
        naps.remote(0, seconds=0)
        """,
    )
    read = "list(set(naps.map(range(60), kwargs={'seconds': 0})))"
    # The second worker of the floor may still be on its way.
    before = wait_until(lambda: len(found := set(value(notebook, read))) == 2 and found)
    assert before
    cell = notebook.begin(WAITING[how])
    wait_until(marks.exists, what="an input runs")
    pressed = time.monotonic()
    notebook.interrupt()
    error = notebook.finish(cell, timeout=40).error
    took = time.monotonic() - pressed
    assert error is not None
    assert error.name == ("CancelledError" if ".aio" in how else "KeyboardInterrupt")
    assert took < 1.0 * PATIENCE
    assert "notebook_ext" not in error.traceback
    after = set(value(notebook, read))
    assert after <= before
    typed(notebook, "naps.keep_warm(0)")


def test_a_spawned_call_goes_on_when_the_wait_for_it_is_stopped(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        import time
        @app.function()
        def takes_two_seconds():
            time.sleep(2)
            return 'done'
        goes_on = takes_two_seconds.spawn()
        """,
    )
    cell = begun(notebook, "print('started', flush=True)\ngoes_on.get()")
    notebook.interrupt()
    error = notebook.finish(cell, timeout=5).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    assert value(notebook, "goes_on.get()") == "done"


def test_an_interrupted_map_stops_its_inputs(notebook: PlainKernel, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    typed(
        notebook,
        f"""
        import time
        @app.function()
        def marks(x):
            open({str(marks)!r}, 'a').write('.')
            time.sleep(0.01)
        """,
    )
    cell = notebook.begin("list(marks.map(range(3_000)))")
    wait_until(lambda: marks.exists() and marks.stat().st_size > 20, what="inputs run")
    notebook.interrupt()
    assert notebook.finish(cell, timeout=10).error is not None
    typed(notebook, "list(marks.map(range(20)))")
    count = marks.stat().st_size
    typed(notebook, "list(marks.map(range(40)))")
    assert marks.stat().st_size == count + 40
    assert count < 1_000


@pytest.mark.parametrize(
    "call",
    [
        "nb.gather(*{})",
        "naps.remote(*{})",
        "naps.for_each(*{})",
        "nb.Dict.from_name(*{})",
        "nb.FunctionCall.from_id(*{})",
    ],
)
def test_an_interrupt_in_the_entry_of_a_call_is_one_line(notebook: PlainKernel, call: str) -> None:
    """One that is pending when ours is called is raised in its `def` line, before any `try`."""
    typed(notebook, "import _thread\n@app.function()\ndef naps(x): pass\nnaps.remote(0)")
    cell = notebook.begin(call.format("map(_thread.interrupt_main, [2])"))
    error = notebook.finish(cell, timeout=20).error
    assert error is not None
    assert error.traceback == "KeyboardInterrupt"
