"""API.md sections 1 and 8: `schedule=`, `Cron` and `Period`: called while it is deployed."""

from __future__ import annotations

import os
import signal
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


LOOK_AND_STOP = """
import sys
import notebook_ext as nb
from notebook_ext.cli import main

for words in ("app list", "status", "app stop ticking", "calls --app ticking"):
    main(words.split(), standalone_mode=False)
print(nb.FunctionCall.from_id({call!r}).get())
main(["broker", "status"], standalone_mode=False)
main(["broker", "stop"], standalone_mode=False)
"""


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
    second = own_place.broker_pid()
    assert second != first
    said = run_script(LOOK_AND_STOP.format(call=marks.read_text().split()[0]), own_place.variables)
    apps, _, rest = said.partition("Broker ")
    assert "next" in apps.splitlines()[0]
    assert "tick 20" in apps
    status, _, rest = rest.partition("Stopped: ticking v1\n")
    assert "0 9 * * MON-FRI (Europe/Berlin)" in status
    calls = marks.read_text().split()
    assert len(calls) == len(set(calls)), "one call for each moment"
    assert set(calls) <= {word for word in rest.split() if word.startswith("fc-")}
    assert str(tmp_path) in rest.splitlines(), "it ran where it was deployed"
    assert f"Running: pid {second}," in rest, "the agent, its parent for a moment, ended it not"
    assert f"Stopped: pid {second}" in rest
    wait_until(lambda: not own_place.processes(), what="nothing is left")
