"""What calls write, on its way through the broker: to clients, and into the journal.

A client shows so many lines of a call and no more (`messages.SHOWN_LINES`). So no more are sent to
it: what is beyond is counted, and a flood costs the client a header of some bytes for each 64 KiB.

What a spawned call writes is kept with it, up to `messages.LOG_BYTES`, in batches of some tenths of
a second; calls that write nothing cost nothing. Of an attached call the end is remembered while it
is open.

Guarantees: bounded memory; whoever asks for the logs of a call gets what came before the question.
Not guaranteed: what came in the last `FLUSH_SECONDS` before the broker was killed. Where the disk
is slower than the output, some of that is left out, and a notice in the log says so.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.broker.calls import OpenCall
    from kernel_worker.broker.commit import Commit
    from kernel_worker.broker.watches import Timers
    from kernel_worker.model import CallId

Frame = bytes | memoryview

FLUSH_SECONDS = 0.2
FLUSH_BYTES = 1024 * 1024
PENDING_BYTES = 64 * 1024 * 1024
"""So much may be on its way to the disk."""
TAIL_BYTES = 256 * 1024
"""So much of an attached call is remembered."""
_FULL = f"The log ends here: more than {messages.LOG_BYTES // 1024**2} MiB of a call are not kept."
_GAP = "Some output is missing here: the disk could not keep up."


def shown(
    call: OpenCall, message: messages.Output, header: bytes, frames: Sequence[Frame]
) -> tuple[bytes, Sequence[Frame]]:
    """Return what is passed on of something that `call` wrote: all of it, or how much it was."""
    text = frames[0]
    lines = max(message.lines, 0)
    if message.lines < 0 and message.stream != "display":
        lines = bytes(text).count(b"\n")
    if call.shown_lines > messages.SHOWN_LINES or call.shown_bytes > messages.SHOWN_BYTES:
        message = msgspec.structs.replace(message, withheld=max(lines, 1))
        return messages.encode(message), (b"",)
    call.shown_lines += lines
    call.shown_bytes += len(text)
    return header, frames


class Logs:
    """What has not been handed to the journal yet."""

    def __init__(self, commit: Commit, timers: Timers, now: Callable[[], float]) -> None:
        """Write through `commit`, at times that `timers` and the clock `now` say."""
        self._commit = commit
        self._timers = timers
        self._now = now
        self._entries: dict[CallId, list[messages.LogEntry]] = {}
        self._size = 0
        self._underway: deque[tuple[int, int]] = deque()
        self._pending = 0

    def keep(self, call: OpenCall, message: messages.Output, frame: Frame) -> None:
        """Keep what an input of `call` wrote."""
        entry = messages.LogEntry(message.index, message.stream, self._now(), bytes(frame))
        if call.attached:
            _remember(call, entry)
        elif call.logged_bytes > messages.LOG_BYTES:
            if not call.log_has_gap:
                call.log_has_gap = True
                self._add(call, self._notice(_FULL))
        elif self._pending > PENDING_BYTES:
            call.log_has_gap = True
        else:
            if call.log_has_gap:
                call.log_has_gap = False
                self._add(call, self._notice(_GAP))
            self._add(call, entry)

    def flush(self) -> None:
        """Hand everything to the journal, with the facts of this turn."""
        for call, entries in self._entries.items():
            body = msgspec.msgpack.encode(entries)
            self._underway.append((self._commit.wrote(call, body), len(body)))
            self._pending += len(body)
        self._entries.clear()
        self._size = 0
        self._timers.cancel("logs")

    def written(self, token: int) -> None:
        """Everything up to `token` is on the disk."""
        while self._underway and self._underway[0][0] <= token:
            self._pending -= self._underway.popleft()[1]

    def _add(self, call: OpenCall, entry: messages.LogEntry) -> None:
        self._entries.setdefault(call.call, []).append(entry)
        call.logged_bytes += len(entry.data)
        self._size += len(entry.data)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif "logs" not in self._timers:
            self._timers.set("logs", self._now() + FLUSH_SECONDS, self.flush)

    def _notice(self, text: str) -> messages.LogEntry:
        return messages.LogEntry(-1, "notice", self._now(), f"{text}\n".encode())


def _remember(call: OpenCall, entry: messages.LogEntry) -> None:
    call.tail.append(entry)
    call.logged_bytes += len(entry.data)
    while call.logged_bytes > TAIL_BYTES and len(call.tail) > 1:
        call.logged_bytes -= len(call.tail.popleft().data)
