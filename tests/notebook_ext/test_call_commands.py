"""Calls from the command line; what `attach` does is shown by `acceptance/test_attach.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import notebook_ext as nb
from notebook_ext import attaching
from notebook_ext.cli import main
from tests.waiting import wait_until


def test_calls_are_cancelled_and_what_an_app_wrote_is_printed(live: nb.App, tmp_path: Path) -> None:
    app = nb.App("spoken")

    @app.function(name="speak")
    def speak(word: str, waits: bool = False) -> None:
        sys.stdout.write(f"{word} out\n")
        os.write(2, f"{word} err\n".encode())
        if waits:
            (tmp_path / "begun").touch()
            import time

            time.sleep(60)

    def said(*arguments: str) -> list[str]:
        """Return what a command prints; what the workers write now is shown there too."""
        return CliRunner().invoke(main, list(arguments)).stdout.splitlines()

    run = CliRunner()
    first = speak.spawn("one")
    first.get(timeout=60)
    second = speak.spawn("two", waits=True)
    wait_until((tmp_path / "begun").exists, 60)
    assert f"Cancelled: {second.object_id}" in said("cancel", second.object_id)
    with pytest.raises(nb.exception.CallCancelledError):
        second.get(timeout=60)
    assert f"succeeded: {first.object_id}, not cancelled" in said("cancel", first.object_id)
    logs = said("app", "logs", "spoken", "--prefix")
    assert [line for line in logs if line.startswith("[speak ")] == [
        f"[speak {first.object_id}] one out",
        f"[speak {second.object_id}] two out",
    ]
    newest = run.invoke(main, ["app", "logs", "spoken", "--calls", "1", "--prefix"])
    assert f"[speak {second.object_id}] two out" in newest.stdout.splitlines()
    assert f"[speak {second.object_id}] two err" in newest.stderr.splitlines()
    assert first.object_id not in newest.output
    unknown = run.invoke(main, ["app", "logs", "spokn"])
    assert unknown.exit_code == 1
    assert "no app 'spokn' is deployed, or has calls" in unknown.output


def test_a_worker_is_attached_to(live: nb.App, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    assert "give a worker (ta-…) or a call" in run.invoke(main, ["attach", "x"]).output
    assert run.invoke(main, ["attach", "ta-nobody"]).exit_code == 1
    monkeypatch.setattr(attaching, "attach", lambda subject: [subject])
    assert run.invoke(main, ["attach", "ta-1"]).output == "['ta-1']\n"
