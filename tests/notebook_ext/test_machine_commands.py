"""`notebook-ext broker`, `host` and `provider`, as they are typed."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result

from tests.notebook_ext.conftest import CommandLine


def pid_of(result: Result) -> int:
    return int(result.output.partition("pid ")[2].split(",")[0])


def test_a_broker_comes_and_goes(command_line: CommandLine) -> None:
    started = command_line("broker", "start")
    assert started.output.startswith("Started: pid ")
    pid = pid_of(started)
    assert Path(f"/proc/{pid}").exists()
    assert pid_of(command_line("broker", "start")) == pid
    assert pid_of(command_line("broker", "status")) == pid
    assert f"pid {pid}" in command_line("status").output
    assert command_line("calls").output == "Calls: none\n"
    filtered = command_line("calls", "--app", "x", "--status", "failed", "--limit", "3")
    assert filtered.output == "Calls: none\n"
    assert command_line("calls", "--status", "bad").exit_code == 2
    assert command_line("broker", "stop").output == f"Stopped: pid {pid}\n"
    assert not Path(f"/proc/{pid}/fd").exists() or not list(Path(f"/proc/{pid}/fd").iterdir())
    assert command_line("broker", "stop").output == "No broker is running.\n"


def test_what_is_missing_is_said_before_anything_begins(command_line: CommandLine) -> None:
    assert "Missing option '--connect'" in command_line("host", "start").output
    for option in ("--connect", "--hosts"):
        found = command_line("provider", "start", "dask://nobody:1", option, "file")
        assert found.exit_code == 2
        assert "--connect and --hosts are given both, or none of them" in found.output
    assert "No broker is running." in command_line("broker", "status").output


def test_of_no_provider_the_list_is_empty(command_line: CommandLine) -> None:
    assert command_line("provider", "list").output == ""
    ended = command_line("provider", "stop", "nobody")
    assert ended.exit_code == 1
    assert "nobody" in ended.output
