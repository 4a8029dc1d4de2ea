from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import notebook_ext as nb
from notebook_ext import process
from tests.waiting import wait_until


def test_a_closed_session_is_replaced(add: nb.Function[..., int]) -> None:
    before = process.current()
    process.close()
    process.close()
    assert not before.is_usable
    assert add.remote(1) == 2
    assert process.current() is not before


def test_one_whose_thread_has_ended_lets_go_of_all_when_it_is_replaced(
    add: nb.Function[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    assert [add.remote(1) for _ in range(3)] == [2] * 3, "enough to listen for a line"
    before = process.current()
    listener = before.lines._listener
    assert listener is not None
    before._link.post(sys.exit)
    wait_until(lambda: died and not before.is_usable, what="its thread ends")
    assert add.remote(1) == 2
    assert process.current() is not before
    assert listener.fileno() == -1


def test_a_fork_makes_a_session_of_its_own(add: nb.Function[..., int], tmp_path: Path) -> None:
    assert add.remote(1) == 2
    mark = tmp_path / "mark"
    child = os.fork()
    if not child:
        try:
            mark.write_text(str(add.remote(5)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert mark.read_text() == "6"
    assert add.remote(2) == 3


def test_an_import_alone_is_light() -> None:
    listing = "import sys, notebook_ext; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    heavy = {"zmq", "cloudpickle", "ipywidgets", "anywidget", "asyncio", "numpy", "IPython"}
    assert not heavy & set(run.stdout.split())
