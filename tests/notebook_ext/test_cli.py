import subprocess
import sys

import pytest

from tests.notebook_ext.conftest import CommandLine


def test_without_a_broker_it_says_so_and_starts_none(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "cli-nobody")  # where no journal was left, either
    for command in (["status"], ["calls"], ["broker", "status"]):
        result = command_line(*command)
        assert result.exit_code == 1
        assert "No broker is running" in result.output


def test_an_error_is_one_line(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("NOTEBOOK_EXT_IDLE_EXIT_SECONDS", "soon")
        result = command_line("status")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "idle_exit_seconds" in result.output
    assert result.output.count("\n") == 1


def test_the_version_is_the_packages(command_line: CommandLine) -> None:
    assert command_line("--version").output.startswith("notebook-ext, version 0.")


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "notebook_ext", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("notebook-ext, version ")
