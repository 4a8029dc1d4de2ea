"""What inputs print, shown live where their call was made.

One thread writes, to whatever `sys.stdout` and `sys.stderr` are at that moment, in the context that
the call captured: in a notebook that is what makes a line land in the cell that made the call,
whichever cell runs by then. Writing may block (a full pipe, a busy front end); the session never.

A stream is flushed after each text, but a kernel's every `_SPACING_SECONDS`, in which it keeps what
it was given: each flush of it is a message, and where hundreds of them wait for a front end that
has no processor just then, ZeroMQ drops what comes next. A kernel flushes its streams itself before
it displays anything and before it says that a cell is done.

Guarantees: text of one input comes out in the order in which it came in; lines of several inputs of
a call are never mixed (a line that another input interrupts goes on in a new one); `after` runs
what it is given once the text that came before is out, so an outcome never overtakes output.
A call shows `SHOWN_LINES` lines and `SHOWN_BYTES` bytes, then one notice that says where the rest
is; at its end another one says how much that was.
Displays go through the shell of this process (a kernel's or a terminal's); a script prints their
text.
Not guaranteed: that a stream which cannot be written shows anything; that is logged once.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from kernel_worker.wire.display import Display, decode
from kernel_worker.wire.messages import SHOWN_BYTES, SHOWN_LINES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import TextIO

_SPACING_SECONDS = 0.02
_REPEATED_SECONDS = 1.0
"""A notice that many calls have in common is shown again after a pause of this length."""

_log = logging.getLogger("notebook_ext")


class Printer:
    """The thread that writes; started by the first text."""

    def __init__(self) -> None:
        """Start idle."""
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._asked = 0
        self._finished = 0
        self._failed = False
        self._unflushed: dict[TextIO, None] = {}
        self._flushed_at = 0.0
        self._last_notice = ("", 0.0)

    @property
    def is_busy(self) -> bool:
        """Whether something waits to be written or is being written."""
        return self._asked != self._finished

    def put(self, write: Callable[[], object]) -> None:
        """Let the thread call `write` after all that was put before."""
        with self._lock:
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

    def write(self, stream: str, text: str) -> None:
        """Write to `stream` as it is now; in what was `put` only."""
        file = sys.stderr if stream == "stderr" else sys.stdout
        if file is None:
            return
        try:
            file.write(text)
        except UnicodeEncodeError:
            file.write(_encodable(text, file))
        self._unflushed[file] = None
        if not hasattr(file, "pub_thread") or self._patience_seconds() == 0:
            self._flush()

    def _patience_seconds(self) -> float | None:
        """Return how long what was written may stay unflushed; None: nothing is."""
        if not self._unflushed:
            return None
        return max(0.0, self._flushed_at + _SPACING_SECONDS - time.monotonic())

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, {}
        for file in unflushed:
            file.flush()
        self._flushed_at = time.monotonic()

    def _run(self) -> None:
        while True:
            try:
                act = self._queue.get(timeout=self._patience_seconds())
            except Empty:
                self._guarded(self._flush)
                continue
            if act is None:
                self._guarded(self._flush)
                return
            self._guarded(act)
            self._finished += 1

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001  a stream that fails must not cost an outcome
            if not self._failed:
                self._failed = True
                _log.warning("Output of a call could not be written here.", exc_info=True)


class CallOutput:
    """The output of one call."""

    def __init__(
        self,
        printer: Printer,
        context: Context,
        name: str = "",
        call: str = "",
        *,
        prefixed: bool = False,
    ) -> None:
        """Write through `printer` in `context`.

        Args:
            printer: what writes.
            context: the context variables of whoever made the call.
            name: the function's.
            call: the call's id, if its logs are kept.
            prefixed: whether each line carries the function and the input.
        """
        self._printer = printer
        self._context = context
        self._name = name
        self._call = call
        self._prefixed = prefixed
        self._lines = 0
        self._bytes = 0
        self._hidden = 0
        self._told = False
        self._unfinished: dict[str, int] = {}

    def write(self, index: int, stream: str, data: bytes, withheld: int = 0) -> None:
        """Show what the input at `index` wrote to `stream`; count what was withheld of it."""
        if stream == "display" and not withheld:
            self._display(data)
            return
        if stream == "build":
            self._built(data)
            return
        text = data.decode("utf-8", "replace")
        shown = self._cut(text) if self._bytes <= SHOWN_BYTES else ""
        lines = shown.count("\n")
        self._lines += lines
        self._bytes += len(data)
        if shown:
            whole = self._whole(index, stream, shown)
            self._printer.put(lambda: self._context.run(self._printer.write, stream, whole))
        if withheld or len(shown) < len(text):
            self._hidden += withheld or text.count("\n") - lines or 1
            self._say_where()

    def _display(self, data: bytes) -> None:
        self._bytes += len(data)
        self._printer.put(lambda: self._context.run(_show, decode(data), self._printer))

    def _built(self, data: bytes) -> None:
        """Show what the build of an image says: whole lines, on stderr."""
        text = data.decode("utf-8", "replace")
        self._bytes += len(data)
        if self._bytes <= SHOWN_BYTES:
            self.notice(text.removesuffix("\n"))

    def notice(self, line: str) -> None:
        """Show a line of ours, on stderr."""
        text = f"{line}\n"
        if self._unfinished.pop("stderr", None) is not None:
            text = f"\n{text}"
        self._printer.put(lambda: self._context.run(self._printer.write, "stderr", text))

    def notice_once(self, line: str) -> None:
        """Show a line of ours, unless it was said just now: thousands of calls may wait alike."""
        if self._printer.is_news(line):
            self.notice(line)

    def finish(self) -> None:
        """The call writes nothing more: say how much was not shown."""
        hidden, self._hidden = self._hidden, 0
        if hidden:
            self.notice(f"notebook_ext: {hidden:,} lines of {self._name} were not shown.")

    def after(self, then: Callable[..., object], *args: Any) -> None:
        """Call `then` once what was written is out."""
        self._printer.after(then, *args)

    def _cut(self, text: str) -> str:
        """Return as many lines as may still be shown."""
        room = SHOWN_LINES - self._lines
        lines = text.split("\n", room)
        return text if len(lines) <= room else text[: len(text) - len(lines[-1])]

    def _say_where(self) -> None:
        if self._told:
            return
        self._told = True
        where = f"it is in nb.FunctionCall.from_id({self._call!r}).logs()"
        self.notice(
            f"notebook_ext: {self._name} has written {self._lines:,} lines; the rest is not shown"
            f"{f', {where}' if self._call else ''}."
        )

    def _whole(self, index: int, stream: str, text: str) -> str:
        """Let lines begin where lines begin, with their prefix if they carry one."""
        unfinished = self._unfinished.get(stream)
        goes_on = unfinished == index
        if text.endswith("\n"):
            self._unfinished.pop(stream, None)
        else:
            self._unfinished[stream] = index
        if self._prefixed:
            text = self._marked(index, text, goes_on=goes_on)
        return text if unfinished is None or goes_on else f"\n{text}"

    def _marked(self, index: int, text: str, *, goes_on: bool) -> str:
        mark = f"[{self._name} #{index}] "
        marked = text.replace("\r\n", "\n").replace("\n", f"\n{mark}").replace("\r", f"\r{mark}")
        if text.endswith("\n"):
            marked = marked.removesuffix(mark)
        return marked if goes_on or text.startswith("\r") else mark + marked


def _show(display: Display, printer: Printer) -> None:
    """Display, through the shell of this process where it has one; otherwise the text of it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        text = display.data.get("text/plain")
        if text is not None:
            printer.write("stdout", f"{text}\n")
    elif display.clear:
        shell.display_pub.clear_output(wait=display.wait)
    else:
        shell.display_pub.publish(
            data=display.data,
            metadata=display.metadata,
            transient=display.transient,
            update=display.update,
        )


def _encodable(text: str, file: TextIO) -> str:
    """Return `text` with what the stream has no bytes for written as escapes."""
    encoding = file.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
