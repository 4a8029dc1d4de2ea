"""Somebody looks at an input from far away: at a breakpoint, or at what is left of one that failed.

Theory. The main thread is in a debugger, or waits for somebody to take its console; what is typed
comes through the control thread, what is shown goes to the broker. The debugger itself (and `pdb`)
is imported when somebody has taken the console.

Guarantees: at a breakpoint the input's time stands still, and its cancellation ends the console;
where nobody can type, it says so and goes on. A worker that keeps frames takes no input meanwhile,
and drops them when it is quit, after the time that the call gave, or when it is told to.
Not guaranteed: breakpoints in threads, and in workers that run several inputs at once: a notice
says so.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import OUR_FILES
from kernel_worker.wire import messages
from kernel_worker.wire import page as pages

if TYPE_CHECKING:
    from types import CodeType, FrameType, TracebackType

    from kernel_worker.model import LeaseId
    from kernel_worker.wire import local
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.debugging import Debugger
    from kernel_worker.worker.output import Output
    from kernel_worker.worker.run import Executor

_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 1.0

Word = tuple[str, str]
"""What was said, and a text: see `messages.ConsoleWord`, or `stop`."""


class Consoles:
    """The one console of a worker."""

    def __init__(
        self,
        start: local.ForkWorker,
        channel: Channel,
        output: Output,
        page: pages.Page,
        executor: Executor,
        *,
        keeps_failed: bool,
    ) -> None:
        """Take `breakpoint()` over, and where it can be kept what fails in `executor`."""
        self._worker = start.worker
        self._spec = start.spec
        self._channel = channel
        self._output = output
        self._slots = page.slots
        self._main = threading.get_ident()
        self._inbox: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._debugger: Debugger | None = None
        self._texts: list[str] = []
        self._kept: tuple[LeaseId, float, TracebackType] | None = None
        self._is_paused = False
        """Whether an input runs whose time stands still while one waits."""
        self._hand_over = executor.hand_over
        self._interrupts = executor.interrupts
        self._interrupts.let_through(
            Consoles.on_breakpoint.__code__, Consoles._wait.__code__, Consoles.read.__code__
        )
        sys.breakpointhook = self.on_breakpoint
        if keeps_failed:
            executor.consoles = self

    def tell(self, what: str, text: str = "") -> None:
        """Hand on what was said; the control thread does."""
        self._inbox.put((what, text))

    # ---- breakpoints ------------------------------------------------------------------------

    def on_breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Do what `breakpoint()` does here: let whoever waits for the call look."""
        if os.environ.get("PYTHONBREAKPOINT"):
            return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100  what it names
        frame = sys._getframe(1)  # noqa: SLF001  the caller's
        if self._debugger is not None:
            self._debugger.stop_at(frame)
            return None
        running = self._output.current
        if threading.get_ident() != self._main or self._output.is_shared or running is None:
            self._notice("it works where a worker runs one input at a time, in its main thread")
            return None
        self._output.flush(_PATIENCE_SECONDS)
        self._empty()
        self._hand_over()  # who reads the line cannot look
        offer = messages.ConsoleOffered(running.call, running.index, "breakpoint", self._worker)
        self._channel.post(offer)
        self._is_paused = True
        what, text = self._wait()
        while what not in {"open", "refused", "hangup", "stop"}:
            what, text = self._wait()
        if what != "open":
            self.close()
            self._notice(text or "who waited for it has left")
            return None
        from kernel_worker.worker.debugging import Debugger  # noqa: PLC0415  only now

        self._debugger = Debugger(self)
        self._debugger.stop_at(frame)
        return None

    def _notice(self, why: str) -> None:
        sys.stderr.write(f"notebook_ext: breakpoint() in {self._spec.name} goes on: {why}.\n")

    # ---- what failed ------------------------------------------------------------------------

    @property
    def keeps(self) -> bool:
        """Whether there are frames to look at."""
        return self._kept is not None

    def keep(self, lease: messages.Lease, index: int, error: BaseException) -> bool:
        """Keep the frames of an input that failed for good, if there are any; say whether."""
        if lease.attempt <= self._spec.retries.max_retries:
            return False
        traceback = error.__traceback__
        while traceback is not None and _is_ours(traceback.tb_frame):
            traceback = traceback.tb_next
        if traceback is None:
            return False
        self._empty()
        seconds = lease.context.keep_failed_seconds
        self._kept = (lease.lease, seconds, traceback)
        offer = messages.ConsoleOffered(lease.call, index, "failure", self._worker, seconds)
        self._channel.put(offer)  # before the outcome: who hears that can ask
        return True

    def park(self) -> None:
        """Wait for somebody who looks at what was kept, for as long as the call said."""
        assert self._kept is not None  # noqa: S101  what `keeps` says
        lease, seconds, traceback = self._kept
        deadline = time.monotonic() + seconds
        what = ""
        while what not in {"release", "stop", "quit"}:
            try:
                what, _ = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if what == "open":
                from kernel_worker.worker.debugging import Debugger  # noqa: PLC0415  only now

                what = Debugger(self).look_at(traceback)
        self._kept = None
        del traceback
        self.close()
        self._channel.post(messages.InputLeft(lease))

    def let_through(self, code: CodeType) -> None:
        """Let what waits in `code`, and was called by the user's, be interrupted."""
        self._interrupts.let_through(code)

    # ---- the debugger's input and output ----------------------------------------------------

    def show(self, text: str) -> None:
        """Show this with the next prompt."""
        self._texts.append(text)

    def read(self) -> Word:
        """Send what was shown and return what is said to it: a line, or that they have left."""
        try:
            text, self._texts = "".join(self._texts), []
            self._channel.post(messages.ConsoleSaid(self._worker), [text.encode(errors="replace")])
            word = self._wait()
            while word[0] not in {"line", "hangup", "stop"}:
                word = self._wait()
        except BaseException:  # the input was cancelled
            self.close()
            raise
        return word

    def close(self) -> None:
        """The debugger is through."""
        if self._texts and self._debugger is not None:
            sys.stdout.write("".join(self._texts))
        self._texts = []
        self._debugger = None
        self._is_paused = False
        self._channel.post(messages.ConsoleClosed(self._worker))

    def _wait(self) -> Word:
        """Wait for a word; the input that runs, if one does, does not grow older."""
        while True:
            began = time.monotonic_ns()
            try:
                return self._inbox.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._is_paused:
                    self._slots[pages.STARTED] += time.monotonic_ns() - began

    def _empty(self) -> None:
        while not self._inbox.empty():
            self._inbox.get()


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OUR_FILES)
