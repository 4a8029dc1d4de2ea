"""Die with the host agent: the kernel kills this process group when the agent's pipe closes.

The agent alone holds the write end of one pipe, close-on-exec and in no fork. Each process below
it opens the read end anew (the owner of the signal belongs to the open file, which forks share)
and asks for SIGKILL on its process group when something happens to it. No thread, no wake-up; it
works while C code holds the GIL, and also for the children that user code left in the group.

Linux only (`F_SETSIG`, `/proc/self/fd`).
"""

from __future__ import annotations

import fcntl
import os
import signal

_F_SETSIG = 10


def arm(read_end: int) -> int:
    """Tie this process group to the pipe; the caller leads it. Return the file that does it.

    A process whose agent has already gone is killed at once.
    """
    tied = os.open(f"/proc/self/fd/{read_end}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(tied, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(tied, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tied, fcntl.F_SETFL, fcntl.fcntl(tied, fcntl.F_GETFL) | os.O_ASYNC)
    os.set_blocking(read_end, False)
    try:
        at_end = os.read(read_end, 1) == b""
    except BlockingIOError:
        at_end = False
    if at_end:
        os.killpg(0, signal.SIGKILL)
    return tied
