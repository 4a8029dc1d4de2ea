"""Starting a peer, talking to it within a time limit, and ending everything that it left.

The benchmark's own process becomes a *child subreaper*: whatever a system leaves behind (a broker
that detached itself, a worker whose parent died) becomes its child, and is found and ended after
each visit. Each visit has a directory of its own for home, temporary and runtime files, removed
afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
PARTS = ("client", "broker", "host", "templates and workers")
"""Of what runs for a client of ours."""


class PeerError(Exception):
    """A peer answered with an error, ended, or took too long; the message says which."""


def become_subreaper() -> None:
    """Make orphaned descendants children of this process (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def sweep(keep: set[int]) -> int:
    """End all descendants of this process but `keep`; return how many there were."""
    me = psutil.Process()
    left = [child for child in me.children(recursive=True) if child.pid not in keep]
    for child in left:
        _signal(child, kill=False)
    _, alive = psutil.wait_procs(left, timeout=3)
    while alive:
        for child in alive:
            _signal(child, kill=True)
        psutil.wait_procs(alive, timeout=3)
        alive = [child for child in me.children(recursive=True) if child.pid not in keep]
    return len(left)


def part_of(process: psutil.Process, client: int) -> str:
    """Return which of `PARTS` a process is; `client` is the pid of the first."""
    command = " ".join(process.cmdline())
    if process.pid == client:
        return "client"
    if "kernel_worker.broker" in command:
        return "broker"
    parent = process.parent()
    is_broker = parent is not None and "kernel_worker.broker" in " ".join(parent.cmdline())
    return "host" if is_broker else "templates and workers"


def cpu_seconds(keep: set[int]) -> float:
    """Return the CPU time of all descendants of this process but `keep`, as the kernel counts it.

    Not counted: threads and processes that have ended.
    """
    spent = 0
    for child in psutil.Process().children(recursive=True):
        if child.pid in keep:
            continue
        for path in Path(f"/proc/{child.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                spent += int(path.read_text().split()[0])
    return spent / 1e9


def memory_mb(keep: set[int]) -> float:
    """Return the memory of the same processes: PSS, shared pages counted once."""
    size = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if child.pid not in keep:
                size += child.memory_full_info().pss
    return size / 1e6


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()


def isolated_environment(directory: Path) -> dict[str, str]:
    """Return the environment in which a system keeps its files in `directory`."""
    return dict(
        os.environ,
        HOME=str(directory),
        TMPDIR=str(directory),
        IPYTHONDIR=str(directory / "ipython"),
        PYTHONPATH=str(ROOT),
        NOTEBOOK_EXT_RUNTIME_DIR=str(directory / "run"),
        NOTEBOOK_EXT_DATA_DIR=str(directory / "data"),
    )


class Peer:
    """One visit to one system: a process of its own, asked one thing at a time."""

    def __init__(self, name: str, keep: set[int]) -> None:
        """Start the process for the system `name`; `keep` are pids that the sweep leaves alone."""
        self.left_behind = 0
        self._keep = keep
        self._directory = Path(tempfile.mkdtemp(prefix="nbx-"))
        self._log_path = self._directory / "log"
        self._log: IO[bytes] = self._log_path.open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peer", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=isolated_environment(self._directory),
            cwd=self._directory,
            start_new_session=True,
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("pipes were asked for")
        self._process = process
        self._requests: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout

    def ask(self, action: str, timeout_seconds: float, **arguments: Any) -> dict[str, Any]:
        """Return the answer to `action`; raises `PeerError` on an error, an end or a time-out."""
        try:
            self._requests.write(json.dumps({"do": action, **arguments}).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise PeerError(self._ended()) from error
        answer: dict[str, Any] = json.loads(self._line(action, timeout_seconds))
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _line(self, action: str, timeout_seconds: float) -> bytes:
        ready, _, _ = select.select([self._answers], [], [], timeout_seconds)
        if not ready:
            raise PeerError(f"no answer to {action} within {timeout_seconds:.0f} s")
        line = self._answers.readline()
        if not line:
            raise PeerError(self._ended())
        return line

    def _ended(self) -> str:
        last = self._log_path.read_text(errors="replace").strip().splitlines()[-1:]
        return f"its process ended: {' '.join(last) or 'no output'}"

    def close(self) -> None:
        """End the process, and whatever it left behind; remove its directory."""
        try:
            self.ask("close", 20)
            self._requests.close()
            self._process.wait(timeout=20)
        except (PeerError, subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()
        self.left_behind = sweep(self._keep)
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself: `close` is called on leaving."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()
