"""API.md sections 1 and 8: `schedule=`, `Cron` and `Period`: called while it is deployed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place
from tests.waiting import wait_until

TICKING = """
import notebook_ext as nb

app = nb.App("ticking")

@app.function(schedule=nb.Period(seconds=1))
def tick():
    with open({marks!r}, "a") as file:
        file.write(nb.current_function_call_id() + "\\n")
    return os.getcwd()

@app.function(schedule=nb.Cron("0 9 * * MON-FRI", timezone="Europe/Berlin"))
def daily(times=1):
    return times

import os
print(app.deploy().schedules[1].schedule)
"""


def command(place: Place, *words: str) -> str:
    """Run the command line in a place."""
    ran = subprocess.run(
        [sys.executable, "-m", "notebook_ext", *words],
        env=os.environ | place.variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout


def test_it_is_called_without_anybody_there_whoever_kills_the_broker_until_it_is_stopped(
    own_place: Place, run_script: ScriptRunner, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    ticking = TICKING.format(marks=str(marks))
    assert run_script(ticking, own_place.variables) == "0 9 * * MON-FRI (Europe/Berlin)\n"
    wait_until(marks.exists, 20, "it is called the first time")
    first = own_place.broker_pid()
    os.kill(first, signal.SIGKILL)
    before = len(marks.read_text().split())
    wait_until(lambda: len(marks.read_text().split()) >= before + 2, 20, "another broker calls it")
    assert own_place.broker_pid() != first
    shown = command(own_place, "app", "list")
    assert "next" in shown.splitlines()[0]
    assert "tick 20" in shown
    assert "0 9 * * MON-FRI (Europe/Berlin)" in command(own_place, "status")
    assert command(own_place, "app", "stop", "ticking") == "Stopped: ticking v1\n"
    calls = marks.read_text().split()
    assert len(calls) == len(set(calls)), "one call for each moment"
    listed = command(own_place, "calls", "--app", "ticking")
    assert set(calls) <= {word for word in listed.split() if word.startswith("fc-")}
    again = f"import notebook_ext as nb\nprint(nb.FunctionCall.from_id({calls[0]!r}).get())"
    assert run_script(again, own_place.variables) == f"{tmp_path}\n"
    command(own_place, "broker", "stop")
    wait_until(lambda: not own_place.processes(), what="nothing is left")
