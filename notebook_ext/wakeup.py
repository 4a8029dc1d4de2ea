"""While something is awaited, let a signal wake the loop.

A notebook kernel turns the stop button into `future.cancel()` inside a signal handler. That only
takes effect when the loop turns, and a loop that sleeps in its selector is not woken by a signal
(the interpreter goes back to sleep once the handler has run). So the first waiter in the main
thread gives the interpreter a descriptor to write signals to, and lets the loop read from it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

_pipes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, int]]
_pipes = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let signals wake `loop`, which runs in this thread, unless something else does already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = _pipe(loop)[1]
    before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
    if before not in (-1, ours):
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        yield
        return
    try:
        yield
    finally:
        if before == -1:
            signal.set_wakeup_fd(-1)


def _pipe(loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
    """Return the two ends of the pipe that wakes `loop`."""
    ends = _pipes.get(loop)
    if ends is None:
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        loop.add_reader(ends[0], _drain, ends[0])
        _pipes[loop] = ends
        weakref.finalize(loop, _close, ends).atexit = False
    return ends


def _drain(end: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(end, 4096)


def _close(ends: tuple[int, int]) -> None:
    for end in ends:
        os.close(end)
