"""Partial results: what a failed or stopped map leaves, as a notebook user gets at it."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.api.surfaces import Lines
from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

DEFINE = """
import os
@app.function(max_containers=2)
def fragile(x, mended=''):
    if x == 3 and not os.path.exists(mended):
        raise ValueError(f'bad {x}')
    return 10 * x
"""


def test_a_failed_map_is_resumed(lines: Lines, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    lines.run(DEFINE)
    lines.run(
        f"""
try:
    found = list(fragile.map(range(6), kwargs={{'mended': {str(mended)!r}}}))
except ValueError as found:
    error = found
"""
    )
    assert lines.value("[error.results[at] for at in range(3)]") == [0, 10, 20]
    assert lines.value("{at: str(failed) for at, failed in error.failed.items()}") == {3: "bad 3"}
    assert lines.value("len(error.results) + len(error.failed) + len(error.remaining)") == 6
    mended.touch()
    lines.run("resumed = error.resume()\nfound = list(resumed)")
    assert lines.value("found") == [0, 10, 20, 30, 40, 50]


def test_a_stopped_cell_is_resumed_from_the_next_one(notebook: PlainKernel, tmp_path: Path) -> None:
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    typed(
        notebook,
        f"""
        import os, sys, time
        @app.function(max_containers=1)
        def waits(x):
            open({str(marks)!r}, 'a').write(f'{{x}} ')
            while x >= 5 and not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
            return x
        """,
    )
    cell = notebook.begin("list(waits.map(range(40)))")
    wait_until(lambda: marks.exists() and "5 " in marks.read_text(), what="the sixth input runs")
    notebook.interrupt()
    error = notebook.finish(cell, timeout=20).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    assert value(notebook, "dict(sys.last_value.results)") == {at: at for at in range(5)}
    assert value(notebook, "list(sys.last_value.remaining)") == list(range(5, 40))
    assert "5 succeeded, 35 remain" in typed(notebook, "print(nb.last_map())").stdout
    gate.touch()
    marks.unlink()
    assert value(notebook, "list(nb.last_map().resume())") == list(range(40))
    assert marks.read_text().split() == [str(at) for at in range(5, 40)]
