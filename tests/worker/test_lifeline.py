"""Whoever holds the lifeline's read end dies with its writer, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

PROGRAM = """
import os, subprocess, sys
from kernel_worker.worker import lifeline
os.setsid()
lifeline.arm({read})
child = subprocess.Popen(["sleep", "300"])
print(child.pid, flush=True)
while True:
    pass
"""


def test_a_busy_process_and_its_child_die_when_the_pipe_closes() -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(read=read)], pass_fds=[read], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        os.close(write)
        assert process.wait(20) == -9
        wait_until(lambda: not is_running(child))
    os.close(read)


def test_who_comes_too_late_dies_at_once() -> None:
    read, write = os.pipe()
    os.close(write)
    program = PROGRAM.format(read=read)
    found = subprocess.run(
        [sys.executable, "-c", program], pass_fds=[read], timeout=30, check=False
    )
    assert found.returncode == -9
    os.close(read)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
