"""`%load_ext notebook_ext` costs next to nothing until something is called."""

import json
import subprocess
import sys

LOADED = """
import json, os, subprocess, sys, threading, time
import ipykernel.zmqshell
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
threads, before = len(os.listdir("/proc/self/task")), set(sys.modules)
begun = time.process_time()
shell.run_line_magic("load_ext", "notebook_ext")
spent = time.process_time() - begun
shell.run_cell("import notebook_ext as nb\\n%remote_status")
print(json.dumps({
    "spent": spent,
    "threads": len(os.listdir("/proc/self/task")) - threads,
    "children": open(f"/proc/self/task/{os.getpid()}/children").read().split(),
    "loaded": sorted(set(sys.modules) - before),
}))
"""
HEAVY = ("anywidget", "cloudpickle", "ipywidgets", "nacl", "sqlite3", "notebook_ext.session")


def loaded() -> dict[str, object]:
    ended = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_loading_starts_no_thread_and_no_process_and_imports_no_widget() -> None:
    found = loaded()
    assert found["children"] == []
    assert found["threads"] == 0
    modules = found["loaded"]
    assert isinstance(modules, list)
    assert [name for name in modules if name.startswith(HEAVY)] == []
    assert "notebook_ext.magics.table" in modules
