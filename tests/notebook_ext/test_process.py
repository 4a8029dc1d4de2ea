from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import notebook_ext as nb
from notebook_ext import process


def test_a_closed_session_is_replaced(add: nb.Function[..., int]) -> None:
    before = process.current()
    process.close()
    process.close()
    assert not before.is_usable
    assert add.remote(1) == 2
    assert process.current() is not before


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
