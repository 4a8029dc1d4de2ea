"""What users' functions leave behind: processes that outlive their worker and become ours.

The agent is a child subreaper, so that such a process becomes its child. What stayed in the
worker's process group dies with the worker; this is about those that made a session of their own.
They are ended when their worker has: the worker stands in their environment if they were executed,
and in their session if they stayed in it. Of what tells neither, nothing is ended while a worker
lives.

An agent that was killed could end none of that. The next one beside the same connection file does:
it is the only one there, so whoever began before it, and says that he was executed by a worker of
that place, has none.
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
_PLACE = b"NOTEBOOK_EXT_WORKPLACE="


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


def end_those_of_a_former_agent(connection_file: str, broker: int) -> None:
    """Kill what workers of an agent that is gone left behind.

    Args:
        connection_file: beside which we are the only agent.
        broker: a process that is none of these, whoever has started it; nor are those above us.
    """
    mark, spared = _PLACE + os.fsencode(connection_file), {broker, *_above(os.getpid())}
    ours = _began(os.getpid())
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
            if entry.stat().st_uid != os.getuid() or _began(int(entry.name)) > ours:
                continue
            if mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _above(pid: int) -> Iterator[int]:
    """Give a process and those that it descends from."""
    while pid > 1:
        yield pid
        try:
            pid = int(_stat(pid)[1])
        except OSError:
            return


def _began(pid: int) -> int:
    """Return when a process began, in ticks of the system's clock."""
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """Return what `/proc` tells of a process, from its state on: see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


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
