import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_worker import context
from notebook_ext import widgets
from tests.notebook_ext.widgets.mapped import Mapped

ROOT = Path(__file__).parents[3]
SCRIPT = """
import threading
from tests.notebook_ext.widgets.mapped import Mapped
from notebook_ext import widgets
from notebook_ext.widgets import watched
watched.SHOWN_AFTER_SECONDS = 0.05
facts = Mapped(5)
widgets.watch(facts)
threading.Event().wait(0.5)
facts.succeed(0, 3)
{end}
"""


def run_script(
    end: str, variables: dict[str, str], stderr: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(end=end)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
        timeout=60,
    )


def on_a_terminal(end: str) -> str:
    """Return what a script wrote to the terminal that is its stderr."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        run_script(end, {"COLUMNS": "120"}, theirs)
        return os.read(ours, 100_000).decode()
    except BlockingIOError:
        return ""
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_gets_a_line() -> None:
    written = on_a_terminal("facts.end(); widgets.settle(); print('after')")
    assert written.split("\r")[-2].startswith("score")
    assert "3 / 5" in written.split("\r")[-2]


def test_a_script_that_ends_in_the_middle_leaves_the_line_and_no_exception() -> None:
    written = on_a_terminal("raise SystemExit")
    assert "3 / 5" in written
    assert written.endswith("\n"), "the prompt comes on a line of its own"
    assert "Traceback" not in written


def test_a_pipe_gets_nothing() -> None:
    assert run_script("facts.end()", {}, subprocess.PIPE).stderr == ""


def test_a_pipe_gets_one_line_if_text_is_asked_for() -> None:
    asked = {"NOTEBOOK_EXT_PROGRESS": "text"}
    written = run_script("facts.end(); widgets.settle()", asked, subprocess.PIPE).stderr
    assert written.count("\n") == 1
    assert "3 / 5" in written


def test_nothing_is_shown_inside_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = context.WorkerIdentity("ta-1", "/nowhere", {})  # type: ignore[arg-type]
    monkeypatch.setattr(context, "worker_identity", identity)
    assert widgets.choose_view(Mapped()) is None


def test_watch_never_raises() -> None:
    widgets.watch(object())  # type: ignore[arg-type]


def test_a_forked_child_watches_by_itself() -> None:
    end = """
import os
facts.end()
pid = os.fork()
if not pid:
    facts = Mapped(7)
    widgets.watch(facts)
    threading.Event().wait(0.5)
    facts.end()
    widgets.settle()
    os._exit(0)
os.waitpid(pid, 0)
"""
    asked = {"NOTEBOOK_EXT_PROGRESS": "text", "PYTHONWARNINGS": "ignore"}
    assert "0 / 7" in run_script(end, asked, subprocess.PIPE).stderr
