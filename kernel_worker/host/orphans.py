"""What users' functions leave behind: processes that outlive their worker and become ours.

The agent is a child subreaper, so that such a process becomes its child. What stayed in the
worker's process group dies with the worker; this is about those that made a session of their own.
They are ended when their worker has: the worker stands in their environment if they were executed,
and in their session if they stayed in it. Of what tells neither, nothing is ended while a worker
lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_PR_SET_CHILD_SUBREAPER = 36
_MARK = b"NOTEBOOK_EXT_WORKER="


def become_subreaper(*, is_one: bool = True) -> None:
    """Become the parent of all descendants whose parents die, or be it no more."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(is_one), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


@contextlib.contextmanager
def letting_go() -> Iterator[None]:
    """Have what is detached meanwhile be nobody's child: a broker, which outlives the agent.

    What users' functions leave behind in the same second is nobody's then, too.
    """
    become_subreaper(is_one=False)
    try:
        yield
    finally:
        become_subreaper()


def children() -> list[int]:
    """Return the pids of this process's children, those that nobody has reaped included."""
    pid = os.getpid()
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def sweep(known: Collection[int], workers: Mapping[str, int]) -> None:
    """Kill the children that belong to no live worker.

    Args:
        known: children that are ours on purpose.
        workers: the pids of the live workers, by id.
    """
    for pid in children():
        if pid not in known and not _is_owned(pid, workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_owned(pid: int, workers: Mapping[str, int]) -> bool:
    try:
        if os.getsid(pid) in workers.values():
            return True
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    marks = [each for each in environment if each.startswith(_MARK)]
    if not marks:
        return bool(workers)
    return marks[-1].removeprefix(_MARK).decode(errors="replace") in workers
