"""kill -9 of the broker while workers run: they live on, and the next broker takes them over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.waiting import wait_until

DEFINITIONS = """
import os, time

@app.function(min_containers=1, max_containers=2)
def pid():
    return os.getpid()

@app.function()
def notes(path, gate):
    with open(path, 'a') as file:
        file.write(f'{os.getpid()} ')
    while not os.path.exists(gate):
        time.sleep(0.02)
    return 'passed ' + os.path.basename(gate)
"""


def test_what_a_spawned_call_runs_goes_on_and_ends_once(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    warm = value(kernel, "pid.remote()")
    typed(kernel, f"call = notes.spawn({str(marks)!r}, {str(gate)!r})")
    wait_until(marks.exists, what="the input runs")
    for _ in range(2):
        first = own_place.broker_pid()
        os.kill(first, signal.SIGKILL)
        assert value(kernel, "pid.remote()") == warm, "a warm worker stays warm"
        assert own_place.broker_pid() != first
    (worker,) = marks.read_text().split()
    gate.touch()
    assert value(kernel, "call.get(timeout=20)") == "passed gate"
    assert marks.read_text().split() == [worker]
    assert value(kernel, "notes.remote(os.devnull, '/')") == "passed "
