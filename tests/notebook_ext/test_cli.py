import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from notebook_ext.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command line with a broker of its own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "cli")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    yield invoke
    assert invoke("broker", "stop").exit_code == 0


def pid_of(result: Result) -> int:
    return int(result.output.partition("pid ")[2].split(",")[0])


def test_without_a_broker_it_says_so_and_starts_none(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "cli-nobody")  # where no journal was left, either
    for command in (["status"], ["calls"], ["broker", "status"]):
        result = run(*command)
        assert result.exit_code == 1
        assert "No broker is running" in result.output


def test_a_broker_comes_and_goes(run: Run) -> None:
    started = run("broker", "start")
    assert started.output.startswith("Started: pid ")
    pid = pid_of(started)
    assert Path(f"/proc/{pid}").exists()
    assert pid_of(run("broker", "start")) == pid_of(run("broker", "status")) == pid
    assert f"pid {pid}" in run("status").output
    assert run("calls").output == "Calls: none\n"
    filtered = run("calls", "--app", "x", "--status", "failed", "--limit", "3")
    assert filtered.output == "Calls: none\n"
    assert run("calls", "--status", "bad").exit_code == 2
    assert run("broker", "stop").output == f"Stopped: pid {pid}\n"
    assert not Path(f"/proc/{pid}/fd").exists() or not list(Path(f"/proc/{pid}/fd").iterdir())
    assert run("broker", "stop").output == "No broker is running.\n"


def test_an_error_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("NOTEBOOK_EXT_IDLE_EXIT_SECONDS", "soon")
        result = run("status")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "idle_exit_seconds" in result.output
    assert result.output.count("\n") == 1


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").output.startswith("notebook-ext, version 0.")


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "notebook_ext", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("notebook-ext, version ")
