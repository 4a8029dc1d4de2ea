"""What a worker prints appears live in the cell that made the call."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.cells import begun, typed, until_printed
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE

TALKS = """
import os, sys, time

@app.function()
def talks(gate):
    print('first words')
    while not os.path.exists(gate):
        time.sleep(0.02)
    print('last words')
    return 'said'
"""


def test_prints_appear_live_in_the_calling_cell(notebook: PlainKernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    typed(notebook, TALKS)
    cell = begun(notebook, f"talks.remote({str(gate)!r})", word="first words")
    assert not cell.finished
    assert "last words" not in cell.stdout
    gate.touch()
    notebook.finish(cell)
    assert cell.stdout == "first words\nlast words\n"
    assert cell.result == "'said'"


def test_prints_of_a_spawned_call_appear_in_the_cell_that_spawned_it(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    typed(notebook, TALKS)
    spawning = typed(notebook, f"call = talks.spawn({str(gate)!r})")
    until_printed(notebook, spawning, "first words")
    other = typed(notebook, "print('another cell')")
    gate.touch()
    until_printed(notebook, spawning, "last words")
    waiting = typed(notebook, "call.get()")
    assert other.stdout == "another cell\n"
    assert waiting.stdout == ""


def test_every_way_of_printing_arrives_before_the_result(notebook: PlainKernel) -> None:
    cell = typed(
        notebook,
        """
        import logging, subprocess, sys

        @app.function()
        def every_way(x):
            print('print')
            os.write(1, b'descriptor\\n')
            subprocess.run(['echo', 'child'], check=True)
            print('error', file=sys.stderr)

        import os
        every_way.remote(1)
        print('after')
        """,
    )
    assert sorted(cell.stdout.split()[:-1]) == ["child", "descriptor", "print"]
    assert cell.stdout.endswith("after\n")
    # The kernel sends its two streams one by one: this one may come after the cell's end.
    while cell.stderr != "error\n" and notebook.listen(5 * PATIENCE):
        pass
    assert cell.stderr == "error\n"
