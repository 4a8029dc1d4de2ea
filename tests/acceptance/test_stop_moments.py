"""The stop button at any moment: random presses in endless loops, in a kernel and in a script.

An interrupt that comes while an object is being dropped, a thread is being started or a result is
being unpickled must stop the loop as any other. The moments are drawn from a seed that a failure
names. A few presses are part of every run, some hundreds of `make chaos`.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_ext import inquiry
from notebook_ext.widgets.status import StatusReport
from tests.acceptance.cells import begun, typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.clock

LOOPS = {
    "endless map": "list(same.map(iter(int, 1)))",
    "remote": "while True: same.remote(1)",
    "spawn": "while True: same.spawn(1)",
    "gather": "while True: nb.gather(*[same.spawn(x) for x in range(20)])",
    "for_each": "while True: same.for_each(range(100))",
    "break": "while True:\n    for x in same.map(range(50)):\n        if x: break",
    "starmap": "while True: list(same.starmap((x,) for x in range(50)))",
}
SPAN_SECONDS = 0.1
SOON_SECONDS = 5.0

few = pytest.mark.parametrize("presses", [2])
many = pytest.mark.parametrize("presses", [60])


def moments(presses: int) -> Iterator[tuple[int, str, float]]:
    """Yield (number, loop, seconds after its start): each loop so many times, in random order."""
    seed = random.randrange(2**32)
    print(f"moments of seed {seed}")  # noqa: T201  shown where the test fails
    drawn = random.Random(seed)
    loops = list(LOOPS.values()) * presses
    drawn.shuffle(loops)
    for number, loop in enumerate(loops):
        yield number, loop, drawn.random() * SPAN_SECONDS


def press_in_a_kernel(notebook: PlainKernel, presses: int) -> None:
    typed(
        notebook,
        """
        import sys
        swallowed = []
        sys.unraisablehook = swallowed.append
        @app.function(min_containers=2)
        def same(x): return x
        same.remote(0)
        """,
    )
    for number, loop, seconds in moments(presses):
        cell = begun(notebook, f"print('started', flush=True)\n{loop}")
        notebook.listen(seconds)
        notebook.interrupt()
        error = notebook.finish(cell, SOON_SECONDS).error
        assert error is not None, (number, loop)
        assert error.name == "KeyboardInterrupt", (number, loop, error)
        assert value(notebook, "list(same.map(range(20)))") == list(range(20))
    assert value(notebook, "repr(swallowed)") == "[]"
    typed(notebook, "same.keep_warm(0)")


SCRIPT = """
import faulthandler, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
faulthandler.register(signal.SIGUSR1)
import notebook_ext as nb
app = nb.App('moments')
@app.function(min_containers=2)
def same(x): return x
same.remote(0)
print('ready', flush=True)
while loop := sys.stdin.readline():
    code = compile(eval(loop), 'loop', 'exec')
    try:
        print('started', flush=True)
        exec(code)
    except KeyboardInterrupt:
        print('stopped', list(same.map(range(5))), flush=True)
same.keep_warm(0)
"""


class Script:
    """A plain Python process that runs the loops it is told, one after the other."""

    def __init__(self, directory: Path) -> None:
        file = directory / "moments.py"
        file.write_text(SCRIPT)
        self.errors = directory / "stderr"
        with self.errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"NOTEBOOK_EXT_PROGRESS": "off"},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)

    def heard(self, seconds: float) -> str:
        """Return the next line, or nothing where none comes in time."""
        if not self._selector.select(seconds * PATIENCE):
            return ""
        return self._from.readline().decode().rstrip()

    def wait(self, seconds: float) -> None:
        """Let it run on, unless it says something."""
        self._selector.select(seconds)

    def tell(self, loop: str) -> None:
        self._to.write(f"{loop!r}\n".encode())
        self._to.flush()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def state(self) -> str:
        """Return where its threads are, and what the broker knows of its calls."""
        self._process.send_signal(signal.SIGUSR1)
        wait_until(self.errors.read_text, what="it shows its stacks")
        return f"{self.errors.read_text()}\n{StatusReport(inquiry.status())!r}"

    def end(self) -> int:
        self._to.close()
        self._selector.close()
        try:
            return self._process.wait(20 * PATIENCE)
        finally:
            self._process.kill()
            self._from.close()


def press_in_a_script(directory: Path, presses: int) -> None:
    script = Script(directory)
    try:
        assert script.heard(30) == "ready", script.errors.read_text()
        for number, loop, seconds in moments(presses):
            script.tell(loop)
            assert script.heard(20) == "started"
            script.wait(seconds)
            script.interrupt()
            said = script.heard(SOON_SECONDS)
            assert said == "stopped [0, 1, 2, 3, 4]", (number, loop, said, script.state())
    finally:
        code = script.end()
    assert code == 0
    assert "ignored" not in script.errors.read_text()


@few
def test_it_stops_a_cell_at_any_moment(notebook: PlainKernel, presses: int) -> None:
    press_in_a_kernel(notebook, presses)


@few
def test_it_stops_a_script_at_any_moment(tmp_path: Path, presses: int) -> None:
    press_in_a_script(tmp_path, presses)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@many
def test_it_stops_a_cell_at_some_hundred_moments(notebook: PlainKernel, presses: int) -> None:
    press_in_a_kernel(notebook, presses)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@many
def test_it_stops_a_script_at_some_hundred_moments(tmp_path: Path, presses: int) -> None:
    press_in_a_script(tmp_path, presses)
