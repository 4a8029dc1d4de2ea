"""Raise in exactly the input that is meant, and only while user code runs.

The control thread asks (`request`): it marks the input and signals the main thread, which runs
`_on_signal` between two bytecodes, or in the middle of a sleep or a lock's acquisition. The
handler raises only if that very input runs and the innermost code is the user's: an exception in
the middle of our own code (a send, a pickle, the bookkeeping between two inputs) would tear it.
Otherwise it returns, and the control thread signals again some milliseconds later, as long as the
input runs.

The frames say where we are, so that the hot loop pays nothing: below the loop's own frame there
must be at least one frame, and none of them in our package. In an `async` function the task is
cancelled instead.

Not guaranteed: that C code returns; the host agent kills what runs on after the grace.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Literal

import kernel_worker
from kernel_worker.errors import FunctionTimeoutError, InputCancellation
from kernel_worker.wire import page as pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from kernel_worker.worker.work import Work

Kind = Literal["cancel", "timeout"]

SIGNAL = signal.SIGRTMIN + 7
_OURS = os.path.dirname(os.path.abspath(kernel_worker.__file__)) + os.sep  # noqa: PTH100, PTH120  compared with frames' file names


_seen_through: set[CodeType] = set()


def see_through(*codes: CodeType) -> None:
    """Let code of ours that runs users' code count as the user's."""
    _seen_through.update(codes)


class Interrupts:
    """The interrupt that is under way, if any."""

    def __init__(
        self,
        page: pages.Page,
        loops: frozenset[CodeType],
        transparent: frozenset[CodeType],
        timeout_text: str,
    ) -> None:
        """Watch inputs on `page`.

        Args:
            page: where the executor says which input runs.
            loops: the code that calls user code.
            transparent: code of ours that counts as the user's.
            timeout_text: the message of a timeout.
        """
        self.cancel_task: Callable[[], None] | None = None
        """Cancels the task that runs, in an `async` function."""
        self._slots = page.slots
        self._loops = loops
        self._transparent = transparent
        self._timeout_text = timeout_text
        self._target: tuple[Work, int] | None = None
        self._main = threading.get_ident()

    def install(self) -> None:
        """Take the signals over; call it on the main thread."""
        signal.signal(SIGNAL, self._on_signal)
        signal.signal(signal.SIGINT, self._on_sigint)
        signal.siginterrupt(SIGNAL, True)

    def watch(self, code: CodeType) -> None:
        """Let `code` count as code that calls user code."""
        self._loops |= {code}

    def let_through(self, *codes: CodeType) -> None:
        """Let code of ours count as the user's: what it was called from may be interrupted."""
        self._transparent |= frozenset(codes)

    def request(self, work: Work, index: int, kind: Kind) -> None:
        """Ask for one input of the lease that runs; any thread but the main one."""
        work.want(index, kind)
        if self._runs(work, index):
            self._target = (work, index)
            self.repeat()

    @property
    def is_pending(self) -> bool:
        """Whether an interrupt has not been raised yet: then call `repeat` soon."""
        return self._target is not None

    def repeat(self) -> None:
        """Signal (again), or give up where the input has ended."""
        target = self._target
        if target is None:
            return
        if self._runs(*target):
            signal.pthread_kill(self._main, SIGNAL)
        else:
            self._target = None

    def _runs(self, work: Work, index: int) -> bool:
        slots = self._slots
        return slots[pages.LEASE] == work.id and slots[pages.POSITION] == index

    def _on_signal(self, _signum: int, frame: FrameType | None) -> None:
        target = self._target
        if target is None or not self._runs(*target) or not self._slots[pages.STARTED]:
            return
        work, index = target
        if work.is_closing:
            self._target = None
            return
        kind = work.wanted[index]
        if self.cancel_task is not None:
            self._target = None
            work.hits[index] = kind
            self.cancel_task()
        elif self._in_user_code(frame):
            self._target = None
            work.hits[index] = kind
            raise (
                InputCancellation("the call was cancelled")
                if kind == "cancel"
                else FunctionTimeoutError(self._timeout_text)
            )

    def _on_sigint(self, _signum: int, frame: FrameType | None) -> None:
        if self._in_user_code(frame):
            raise KeyboardInterrupt

    def _in_user_code(self, frame: FrameType | None) -> bool:
        """Say whether `frame` is below a loop, with nothing of ours in between."""
        is_below = False
        while frame is not None:
            if frame.f_code in self._loops:
                return is_below
            code = frame.f_code
            is_ours = code.co_filename.startswith(_OURS) and code not in self._transparent
            if is_ours and code not in _seen_through:
                return False
            is_below = True
            frame = frame.f_back
        return False
