"""One worker as its host agent sees it: its process, its page, its pipes."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kernel_worker.wire import local
from kernel_worker.wire import page as pages

if TYPE_CHECKING:
    from kernel_worker.host.templates import Template
    from kernel_worker.wire.messages import StartWorker
    from kernel_worker.wire.page import Place

_READ_BYTES = 64 * 1024
_MAX_READS = 16


class Worker:
    """A worker that was asked for, until it is reaped."""

    def __init__(self, asked: StartWorker, template: Template) -> None:
        """Plan the worker that `asked` describes, below the template of its function."""
        self.id = asked.worker
        self.asked = asked
        self.spec = asked.spec
        self.template = template
        """Where it is forked from."""
        self.start = "forked"
        self.starts = 1
        """How many templates were asked for it, this one included."""
        self.pid = 0
        self.is_launched = False
        self.is_stopping = False
        self.over_memory_mib = 0
        self.overdue: set[Place] = set()
        """The inputs that were told that their time is over."""
        self.timed_out: Place | None = None
        """The input that it was killed for because it would not stop."""
        self.kill_cause = ""
        """Why we killed it; empty: we did not."""
        self._page_file = pages.create_file()
        self.page = pages.Page(self._page_file)
        self.control, self._far_control = local.socket_pair()
        self._stdout = os.pipe2(os.O_CLOEXEC)
        self._stderr = os.pipe2(os.O_CLOEXEC)

    def again(self, template: Template) -> Worker:
        """Return the plan for it anew, below another template; this one is closed."""
        again = Worker(self.asked, template)
        again.starts = self.starts + 1
        again.is_stopping, again.kill_cause = self.is_stopping, self.kill_cause
        self.close()
        return again

    def files(self) -> list[int]:
        """Return what the worker is given, in the order of `local.ForkWorker`."""
        return [self._page_file, *self._stdout, *self._stderr, self._far_control.fileno()]

    def launched(self) -> None:
        """The worker's files are on their way: keep only our ends."""
        self.is_launched = True
        self._far_control.close()
        local.close_all([self._page_file, self._stdout[1], self._stderr[1]])

    def tell(self, message: local.ToWorker) -> None:
        """Send to its control thread, unless it has gone or hangs."""
        with contextlib.suppress(OSError):
            self.control.setblocking(False)
            local.send(self.control, message)

    def kill(self, cause: str) -> None:
        """Kill its process group; where it has no process yet, as soon as it has."""
        self.kill_cause = self.kill_cause or cause
        if self.pid:
            kill_group(self.pid)

    def last_words(self) -> list[tuple[Literal["stdout", "stderr"], bytes]]:
        """Return what it wrote below Python and nobody has read."""
        found: list[tuple[Literal["stdout", "stderr"], bytes]] = []
        streams: list[tuple[Literal["stdout", "stderr"], int]]
        streams = [("stdout", self._stdout[0]), ("stderr", self._stderr[0])]
        for name, file in streams:
            data = _rest_of(file)
            if data:
                found.append((name, data.decode(errors="replace").encode()))
        return found

    def close(self) -> None:
        """Let go of everything."""
        self.page.close()
        self.control.close()
        files = [self._stdout[0], self._stderr[0]]
        if not self.is_launched:
            self._far_control.close()
            files += [self._page_file, self._stdout[1], self._stderr[1]]
        local.close_all(files)


def kill_group(pid: int) -> None:
    """Kill a process and the group that it leads, or is about to lead."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def end_of_load(status: int) -> tuple[str, bool]:
    """Say in words how a process ended that was loading, and whether another one may well load.

    SIGKILL comes from a lack of memory, or from somebody: what loads does not send it to itself.

    Args:
        status: as of `waitpid`; -1: it is not known, as its parent ended with it.
    """
    if status < 0:
        return "gone, with its parent", True
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {signal_name(-code)}", code == -signal.SIGKILL
    return f"exit code {code}", False


def cause_of(status: int, worker: Worker, oom_kills_before: int) -> str:
    """Say in words how a worker ended.

    Args:
        status: as of `waitpid`; -1: it is not known.
        worker: what we did to it counts.
        oom_kills_before: `oom_kills` when the agent last looked.
    """
    if status < 0:
        return worker.kill_cause or "gone"
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        if worker.kill_cause:
            return worker.kill_cause
        if oom_kills() > oom_kills_before:
            return "out of memory (SIGKILL)"
        return "killed by SIGKILL (not by us; out of memory?)"
    if code < 0:
        return f"killed by {signal_name(-code)}"
    if code == 0 and worker.is_stopping:
        return "stopped"
    return f"exit code {code}"


def signal_name(number: int) -> str:
    """Return `SIGSEGV` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _rest_of(file: int) -> bytes:
    os.set_blocking(file, False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        for _ in range(_MAX_READS):
            part = os.read(file, _READ_BYTES)
            if not part:
                break
            parts.append(part)
    return b"".join(parts)
