"""The command as people type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_ext import doctor
from notebook_ext.doctor.finding import Finding
from tests.waiting import PATIENCE

NOTEBOOK_EXT = [sys.executable, "-m", "notebook_ext"]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"NOTEBOOK_EXT_PROFILE": "looks"} | variables
    limit = 60 * PATIENCE
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=environ, timeout=limit
    )


def test_a_sound_installation_is_ok_and_nothing_stays_running() -> None:
    ended = run(*NOTEBOOK_EXT, "doctor")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert all(line.startswith(("ok ", "warning ")) for line in lines), lines
    for check in ("python", "packages", "socket path", "gpus", "worker", "clock", "round trip"):
        assert any(line[9:].startswith(check) for line in lines), check
    status = run(*NOTEBOOK_EXT, "broker", "status")
    assert "No broker is running" in status.stdout, "it was started for this alone"


def test_a_problem_is_told_to_programs_too_and_ends_with_1(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    ended = run(*NOTEBOOK_EXT, "doctor", "--json", NOTEBOOK_EXT_DATA_DIR=str(tmp_path))
    assert ended.returncode == 1
    report = json.loads(ended.stdout)
    assert report["ok"] is False
    (problem,) = [each for each in report["findings"] if each["grade"] == "problem"]
    assert problem["check"] == "data directory"
    assert "can be written by others" in problem["said"]
    assert "NOTEBOOK_EXT_DATA_DIR" in problem["remedy"]
    assert report["findings"][-1]["said"] == "not tried"


def test_a_setting_that_is_wrong_is_a_problem() -> None:
    ended = run(*NOTEBOOK_EXT, "doctor", NOTEBOOK_EXT_IDLE_EXIT="soon")
    assert ended.returncode == 1
    assert "problem  settings " in ended.stdout
    assert "idle_exit" in ended.stdout


WITH_A_STOPPED_AGENT = """
import os, signal, sys, time
from kernel_worker import rendezvous, settings
from notebook_ext import doctor, inquiry, process

rendezvous.find_or_start(settings.load())
while not (found := inquiry.status()).hosts:
    time.sleep(0.01)
agent = found.hosts[0].pid
os.kill(agent, signal.SIGSTOP)
try:
    status = doctor.run(as_json=False, limit_seconds=1.0)
finally:
    os.kill(agent, signal.SIGCONT)
    process.close()
    inquiry.stop()
sys.exit(status)
"""


def test_workers_that_cannot_start_are_a_problem() -> None:
    ended = run(sys.executable, "-c", WITH_A_STOPPED_AGENT)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (line,) = [each for each in ended.stdout.splitlines() if each.startswith("problem")]
    assert "no worker has answered for 1 s" in line


def test_a_line_says_everything() -> None:
    line = doctor.drawn(Finding("gpus", "warning", "none [answers]", "see the log")).plain
    assert line.split() == ["warning", "gpus", "none", "[answers];", "see", "the", "log"]


@pytest.mark.parametrize("option", ["--limit=0", "--limit=x"])
def test_a_wrong_option_is_exit_status_2(option: str) -> None:
    assert run(*NOTEBOOK_EXT, "doctor", option).returncode == 2
