"""kill -9 of the broker while workers run: they live on, and the next broker takes them over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
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
    with open(path, 'a') as file:
        file.write('through ')
    return 'passed ' + os.path.basename(gate)

@app.function()
def asks(path, gate):
    with open(path, 'a') as file:
        file.write('asked ')
    return notes.remote(os.devnull, gate) + '!'
"""
FIND_AGAIN = """
import notebook_ext as nb
print(nb.FunctionCall.from_id({call!r}).get(timeout=60))
"""


def test_what_a_spawned_call_runs_goes_on_and_ends_once_and_warm_workers_stay(
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
    assert value(kernel, "call.get(timeout=60)") == "passed gate"
    assert marks.read_text().split() == [worker, "through"]
    assert value(kernel, "notes.remote(os.devnull, '/')") == "passed "
    hosts = "from notebook_ext import process\nlen(process.current().status().join().hosts)"
    assert value(kernel, hosts) == 1


def test_what_ended_when_there_was_no_broker_is_not_run_again(
    own_place: Place, run_script: ScriptRunner, tmp_path: Path
) -> None:
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    spawn = f"""{HEAD}{DEFINITIONS}
call = notes.spawn({str(marks)!r}, {str(gate)!r})
while not os.path.exists({str(marks)!r}):
    time.sleep(0.01)
print(call.object_id)
"""
    call = run_script(spawn, own_place.variables).strip()
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    gate.touch()
    wait_until(lambda: "through" in marks.read_text(), what="it ends without a broker")
    assert own_place.broker() is None
    assert run_script(FIND_AGAIN.format(call=call), own_place.variables) == "passed gate\n"
    assert marks.read_text().split()[1:] == ["through"]


def test_an_input_that_waits_for_a_call_of_its_own_waits_on(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    """Also where there is one CPU, which it gives up again: the child is called anew."""
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables | {"NOTEBOOK_EXT_MAX_WORKERS": "1"})
    typed(kernel, HEAD + DEFINITIONS)
    typed(kernel, f"call = asks.spawn({str(marks)!r}, {str(gate)!r})")
    wait_until(marks.exists, what="the input runs")
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    gate.touch()
    assert value(kernel, "call.get(timeout=60)") == "passed gate!"
    assert marks.read_text() == "asked "


def test_workers_that_no_broker_follows_end_and_what_they_ran_runs_again(
    own_place: Place, run_script: ScriptRunner, tmp_path: Path
) -> None:
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    place = own_place.variables | {"NOTEBOOK_EXT_BROKER_GRACE": "0.5"}
    spawn = f"""{HEAD}{DEFINITIONS}
call = notes.spawn({str(marks)!r}, {str(gate)!r})
while not os.path.exists({str(marks)!r}):
    time.sleep(0.01)
print(call.object_id)
"""
    call = run_script(spawn, place).strip()
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    wait_until(lambda: not own_place.processes(), 20, "no orphan after the grace")
    gate.touch()
    assert run_script(FIND_AGAIN.format(call=call), place) == "passed gate\n"
    first, second, through = marks.read_text().split()
    assert first != second
    assert through == "through"
