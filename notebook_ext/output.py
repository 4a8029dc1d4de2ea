"""What inputs print, shown live where their call was made.

One thread writes, to whatever `sys.stdout` and `sys.stderr` are at that moment, in the context that
the call captured: in a notebook that is what makes a line land in the cell that made the call,
whichever cell runs by then. Writing may block (a full pipe, a busy front end); the session never.

Guarantees: text of one call comes out in the order in which it came in; `after` runs what it is
given once the text that came before is out, so an outcome never overtakes output.
A call shows `SHOWN_LINES` lines, then one notice.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

SHOWN_LINES = 10_000
_REPEATED_SECONDS = 1.0
"""A notice that many calls have in common is shown again after a pause of this length."""


class Printer:
    """The thread that writes; started by the first text."""

    def __init__(self) -> None:
        """Start idle."""
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked = 0
        self._finished = 0
        self._last_notice = ("", 0.0)

    @property
    def is_busy(self) -> bool:
        """Whether something waits to be written or is being written."""
        return self._asked != self._finished

    def put(self, write: Callable[[], object]) -> None:
        """Let the thread call `write` after all that was put before. From one thread only."""
        self._asked += 1
        self._queue.put(write)
        if self._thread is None:
            name = "notebook-ext printer"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def after(self, then: Callable[..., object], *args: Any) -> None:
        """Call `then` once what was put is written: at once where nothing is."""
        if self.is_busy:
            self.put(lambda: then(*args))
        else:
            then(*args)

    def is_news(self, line: str) -> bool:
        """Whether this did not say so of `line` a moment ago."""
        before, self._last_notice = self._last_notice, (line, time.monotonic())
        return before[0] != line or self._last_notice[1] - before[1] > _REPEATED_SECONDS

    def close(self) -> None:
        """Write what is left, then end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join(timeout=2)
            self._thread = None

    def _run(self) -> None:
        while (write := self._queue.get()) is not None:
            # A stream that cannot be written must not cost an outcome.
            with contextlib.suppress(Exception):
                write()
            self._finished += 1


class CallOutput:
    """The output of one call."""

    def __init__(self, printer: Printer, context: Context, prefix: str = "") -> None:
        """Write through `printer` in `context`; lines carry `prefix` where it is not empty."""
        self._printer = printer
        self._context = context
        self._prefix = prefix
        self._shown = 0
        self._fresh: dict[tuple[int, str], bool] = {}

    def write(self, index: int, stream: str, data: bytes) -> None:
        """Show what the input at `index` wrote to `stream`."""
        if self._shown > SHOWN_LINES:
            return
        text = data.decode("utf-8", "replace")
        room = SHOWN_LINES - self._shown
        self._shown += text.count("\n")
        if self._shown > SHOWN_LINES:
            text = "".join(text.splitlines(keepends=True)[:room])
        if self._prefix:
            text = self._prefixed(index, stream, text)
        self._printer.put(lambda: self._context.run(_write, stream, text))
        if self._shown > SHOWN_LINES:
            self.notice(f"More than {SHOWN_LINES:,} lines of output; the rest is not shown.")

    def notice(self, line: str) -> None:
        """Show a line of ours, on stderr."""
        self._printer.put(lambda: self._context.run(_write, "stderr", f"{line}\n"))

    def notice_once(self, line: str) -> None:
        """Show a line of ours, unless it was said just now: thousands of calls may wait alike."""
        if self._printer.is_news(line):
            self.notice(line)

    def after(self, then: Callable[..., object], *args: Any) -> None:
        """Call `then` once what was written is out."""
        self._printer.after(then, *args)

    def _prefixed(self, index: int, stream: str, text: str) -> str:
        mark = f"[{self._prefix} #{index}] "
        lines = text.splitlines(keepends=True)
        fresh = self._fresh.get((index, stream), True)
        self._fresh[index, stream] = text.endswith("\n")
        return "".join(mark + line if at or fresh else line for at, line in enumerate(lines))


def _write(stream: str, text: str) -> None:
    file = sys.stderr if stream == "stderr" else sys.stdout
    if file is not None:
        file.write(text)
        file.flush()
