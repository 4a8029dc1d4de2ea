"""`fc.logs()`: what a call has written, line by line.

The broker keeps what inputs write as it came, in pieces; here pieces become lines. They come in the
order in which they were finished; those of one input and stream keep theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.wire.display import decode as decode_display
from kernel_worker.wire.messages import LogEntry
from notebook_ext import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from kernel_worker.model import CallId

_entries = msgspec.msgpack.Decoder(list[LogEntry])


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line that an input wrote, or one thing that it displayed; `str` is its text."""

    text: str
    """Without the end of the line."""
    stream: str
    """stdout, stderr, display, or notice where something has to be said about the log."""
    index: int
    """Which input of the call wrote it; -1 for a notice."""
    written_at: float
    """Unix seconds."""
    data: dict[str, Any] = field(default_factory=dict)
    """The MIME bundle of a display."""

    def __str__(self) -> str:
        return self.text


class Logs:
    """What a call has written; each iteration reads it anew."""

    def __init__(self, call: CallId) -> None:
        """Stand for what `call` has written when it is iterated."""
        self._call = call

    def __iter__(self) -> Iterator[LogRecord]:
        """Ask for it in this thread, a part at a time."""
        session, lines, after, more = process.current(), _Lines(), 0, True
        while more:
            page, frames = session.logs(self._call, after).join()
            after, more = page.after, page.more
            for frame in frames:
                yield from lines.of(frame)
        yield from lines.rest()

    async def __aiter__(self) -> AsyncIterator[LogRecord]:
        """Ask for it in the running task."""
        session, lines, after, more = process.current(), _Lines(), 0, True
        while more:
            page, frames = await session.logs(self._call, after)
            after, more = page.after, page.more
            for frame in frames:
                for record in lines.of(frame):
                    yield record
        for record in lines.rest():
            yield record

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return f"<logs of {self._call}>"


class _Lines:
    """Puts lines together."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, str], LogRecord] = {}

    def of(self, frame: bytes) -> Iterator[LogRecord]:
        """Yield the lines that these entries finish."""
        for entry in _entries.decode(frame):
            if entry.stream == "display":
                yield from _displayed(entry)
            else:
                if entry.stream == "notice":  # something is missing here: no line goes on
                    yield from self.rest()
                yield from self._finished(entry)

    def rest(self) -> Iterator[LogRecord]:
        """Yield the lines that nobody has finished."""
        yield from self._begun.values()
        self._begun = {}

    def _finished(self, entry: LogEntry) -> Iterator[LogRecord]:
        source = entry.index, entry.stream
        *lines, tail = entry.data.decode("utf-8", "replace").split("\n")
        for line in lines:
            begun = self._begun.pop(source, None)
            text = line if begun is None else begun.text + line
            yield _record(entry, text.removesuffix("\r"))
        if tail:
            begun = self._begun.get(source)
            self._begun[source] = _record(entry, tail if begun is None else begun.text + tail)


def _record(entry: LogEntry, text: str) -> LogRecord:
    return LogRecord(text, entry.stream, entry.index, entry.written_at)


def _displayed(entry: LogEntry) -> Iterator[LogRecord]:
    display = decode_display(entry.data)
    if not display.clear:
        text = str(display.data.get("text/plain", ""))
        yield LogRecord(text, "display", entry.index, entry.written_at, display.data)
