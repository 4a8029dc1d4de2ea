"""kill -9 of the notebook and of the broker: what ends, what goes on, what can be found again."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.acceptance.cells import begun, typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.acceptance.places import IDLE_EXIT_SECONDS, Place
from tests.conftest import KernelStarter
from tests.waiting import wait_until

DEFINITIONS = """
import os, time

@app.function()
def marks_for_ever(path):
    while True:
        with open(path, 'a') as file:
            file.write('.')
        time.sleep(0.02)

@app.function()
def waits_for(path):
    while not os.path.exists(path):
        time.sleep(0.02)
    return 'found ' + os.path.basename(path)
"""

FIND_AGAIN = """
import sys
import notebook_ext as nb
print(nb.FunctionCall.from_id({call!r}).get(timeout=30))
"""


def test_kill_9_of_the_notebook_ends_what_it_waited_for_and_nothing_else(
    start_kernel: KernelStarter, own_place: Place, run_script: ScriptRunner, tmp_path: Path
) -> None:
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    call = value(kernel, f"call = waits_for.spawn({str(gate)!r})\ncall.object_id")
    kernel.begin(f"marks_for_ever.remote({str(marks)!r})")
    wait_until(marks.exists, what="the attached input runs")
    kernel.kill()
    worker = own_place.processes()
    wait_until(lambda: _rests(marks), 10, "the attached call is cancelled")
    gate.touch()
    found = run_script(FIND_AGAIN.format(call=call), own_place.variables)
    assert found == "found gate\n"
    assert worker
    wait_until(
        lambda: not own_place.processes(), IDLE_EXIT_SECONDS + 10, "no orphan after the idle time"
    )


def _rests(path: Path) -> bool:
    """Return whether nothing was written to `path` for half a second."""
    before = path.stat().st_mtime_ns
    try:
        wait_until(lambda: path.stat().st_mtime_ns != before, 0.5)
    except AssertionError:
        return True
    return False


def test_results_of_spawned_calls_are_found_again_after_kill_9_of_the_broker(
    start_kernel: KernelStarter, own_place: Place, run_script: ScriptRunner, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    finished, running = value(
        kernel,
        f"""
        finished = waits_for.spawn('/')
        finished.get()
        running = waits_for.spawn({str(gate)!r})
        finished.object_id, running.object_id
        """,
    )
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    gate.touch()
    assert run_script(FIND_AGAIN.format(call=finished), own_place.variables) == "found \n"
    assert run_script(FIND_AGAIN.format(call=running), own_place.variables) == "found gate\n"
    # The notebook that was there before reconnects by itself, and its objects work on.
    assert value(kernel, "running.get(timeout=30), finished.get(timeout=30)") == (
        "found gate",
        "found ",
    )
    assert value(kernel, "waits_for.remote('/')") == "found "


@pytest.mark.parametrize("dies", ["the broker", "the broker and the host agent"])
def test_what_must_not_run_twice_does_not_when_the_broker_is_killed(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path, dies: str
) -> None:
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(
        kernel,
        HEAD
        + """
import os, time
@app.function(rerun_on_crash=False)
def once(mark, gate):
    with open(mark, 'a') as file:
        file.write('.')
    while not os.path.exists(gate):
        time.sleep(0.02)
    return 'done'
""",
    )
    spawned, attached = f"{marks}-spawned", f"{marks}-attached"
    typed(kernel, f"spawned = once.spawn({spawned!r}, {str(gate)!r})")
    cell = kernel.begin(
        f"""
        try:
            once.remote({attached!r}, {str(gate)!r})
        except nb.exception.InternalFailure as error:
            print(error)
        """
    )
    wait_until(lambda: Path(spawned).exists() and Path(attached).exists(), what="both run")
    agent = _agent_pid(own_place)
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    if "agent" in dies:
        os.kill(agent, signal.SIGKILL)
    assert "rerun_on_crash=False says that it must not run twice" in kernel.finish(cell).stdout
    gate.touch()
    said = value(
        kernel,
        """
        try:
            said = spawned.get(timeout=30)
        except nb.exception.InternalFailure as error:
            said = str(error)
        said
        """,
    )
    assert "with the broker" in said if "agent" in dies else said == "done"
    assert Path(spawned).read_text() == Path(attached).read_text() == "."
    assert value(kernel, f"once.remote({attached!r}, {str(gate)!r})") == "done"


def test_an_attached_map_survives_kill_9_of_the_broker(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(
        kernel,
        HEAD + "\nimport os, signal, time\n"
        "@app.function()\ndef steady(x):\n    time.sleep(0.01)\n    return x",
    )
    typed(kernel, "steady.remote(0)")
    results = value(
        kernel,
        f"""
        results = []
        for result in steady.map(range(200)):
            results.append(result)
            if len(results) == 50:
                os.kill({own_place.broker_pid()}, signal.SIGKILL)
        results == list(range(200))
        """,
    )
    assert results is True


@pytest.mark.parametrize("what", ["kernel_worker.host", "worker.template"])
def test_a_map_survives_kill_9_of_the_host_agent_and_of_the_templates(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path, what: str
) -> None:
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(
        kernel,
        HEAD + "\nimport time\n@app.function()\ndef steady(x):\n    time.sleep(0.01)\n    return x",
    )
    cell = begun(
        kernel,
        """
        results = []
        for result in steady.map(range(200)):
            results.append(result)
            if len(results) == 50:
                print('started', flush=True)
        results == list(range(200)), steady.spawn(7).get()
        """,
    )
    for pid, command in own_place.processes().items():
        if what in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert kernel.finish(cell).error is None
    assert cell.result == "(True, 7)"


def test_a_worker_that_a_template_was_asked_for_as_it_died_comes_from_another(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(
        kernel,
        HEAD + "\nimport os, time\n"
        "@app.function(max_containers=2)\ndef who(seconds):\n"
        "    time.sleep(seconds)\n    return os.getpid()",
    )
    first = value(kernel, "who.remote(0)")
    templates = [
        pid
        for pid, command in own_place.processes().items()
        if "worker.template" in command or "kernel_worker.host" in command
    ]
    templates = [pid for pid in templates if pid not in (first, _agent_pid(own_place))]
    for pid in templates:
        os.kill(pid, signal.SIGSTOP)
    typed(kernel, "who.update_autoscaler(min_containers=2)\nwho.get_current_stats()")
    for pid in templates:
        os.kill(pid, signal.SIGKILL)
    spread = "len(set(who.map([0.02] * 20)))"
    wait_until(lambda: value(kernel, spread) == 2, 10, "two workers serve")


def _agent_pid(place: Place) -> int:
    """Return the host agent's process id: the broker's child."""
    (agent,) = psutil.Process(place.broker_pid()).children()
    return int(agent.pid)


@pytest.mark.parametrize("argument", ["1", "nb.put(1)"])
def test_a_script_that_ends_leaves_nothing_after_the_idle_time(
    own_place: Place, run_script: ScriptRunner, argument: str
) -> None:
    script = HEAD + f"\n@app.function()\ndef f(x): return x + 1\nprint(f.remote({argument}))"
    assert run_script(script, own_place.variables) == "2\n"
    wait_until(
        lambda: not own_place.processes(), IDLE_EXIT_SECONDS + 10, "no orphan after the idle time"
    )
