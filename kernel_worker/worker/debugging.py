"""The debugger behind a console: Python's own, whose input and output are somewhere else.

Its commands are those of `pdb` (p, pp, w, u, d, l, n, s, c, b, q, …), and `locals`.
"""

from __future__ import annotations

import inspect
import pdb  # noqa: T100  it is meant
import reprlib
import sys
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import OUR_FILES

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from kernel_worker.worker.consoles import Consoles

_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Terminal:
    """Standard input and output of the debugger."""

    encoding = "utf-8"

    def __init__(self, debugger: Debugger, consoles: Consoles) -> None:
        self._debugger = debugger
        self._consoles = consoles
        consoles.let_through(_Terminal.readline.__code__)

    def write(self, text: str) -> int:
        self._consoles.show(text)
        return len(text)

    def flush(self) -> None:
        """It is shown with the prompt."""

    def readline(self) -> str:
        what, text = self._consoles.read()
        return f"{text}\n" if what == "line" else self._debugger.left(what)


class Debugger(pdb.Pdb):
    """One session, from the breakpoint to the end of the input, or over frames that were kept."""

    def __init__(self, consoles: Consoles) -> None:
        """Talk through `consoles`."""
        terminal: Any = _Terminal(self, consoles)
        super().__init__(
            stdin=terminal, stdout=terminal, skip=["kernel_worker.*"], nosigint=True, readrc=False
        )
        self.use_rawinput = False
        self._consoles = consoles
        self._outermost: FrameType | None = None
        self._left_by = "quit"

    def look_at(self, traceback: TracebackType) -> str:
        """Look at frames that were kept; return `quit`, or how it was left otherwise."""
        self.reset()
        self.interaction(None, traceback)
        return self._left_by

    def stop_at(self, frame: FrameType) -> None:
        """Stop in `frame` at the next line."""
        self.reset()
        at: FrameType | None = frame
        while at is not None and not at.f_code.co_filename.startswith(OUR_FILES):
            at.f_trace = self.trace_dispatch
            self.botframe = self._outermost = at
            at = at.f_back
        self.set_step()
        sys.settrace(self.trace_dispatch)

    def left(self, how: str) -> str:
        """Return the command that is meant by somebody's leaving."""
        self._left_by = how
        if self._outermost is None:
            return "q\n"
        self.clear_all_breaks()
        return "c\n"

    def do_locals(self, arg: str) -> None:
        """locals: show the variables of the frame, each in a line."""
        if arg:
            self.default(f"locals {arg}" if arg[0] not in "([." else f"locals{arg}")
            return
        short = reprlib.Repr()
        short.maxstring = short.maxother = 200
        for name, value in self.curframe_locals.items():
            self.message(f"{name} = {short.repr(value)}")

    def set_continue(self) -> None:
        """Run on; where nothing is left to stop at, that was all."""
        super().set_continue()
        if self._outermost is not None and not self.breaks:
            self._end()

    def set_quit(self) -> None:
        """Leave; a breakpoint's input ends with `BdbQuit`."""
        super().set_quit()
        if self._outermost is not None:
            self._end()

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        """The input itself has ended: there is nothing left to look at."""
        found = super().dispatch_return(frame, arg)
        if frame is self._outermost and not frame.f_code.co_flags & _SUSPENDS:
            self.clear_all_breaks()
            self.set_continue()
            return None
        return found

    def _end(self) -> None:
        sys.settrace(None)
        self._outermost = None
        self._consoles.close()
