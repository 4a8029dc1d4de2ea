"""What inputs write: collected, attributed to the input that wrote it, sent before its outcome.

Two ways in. Python code writes to `sys.stdout` and `sys.stderr`, which are `Stream`s here: they
know the input from the context variable. Everything below Python (C code, child processes, the
last words of a crash) writes to file descriptors 1 and 2, which are pipes: their bytes belong to
the input that runs when they are read: they are read when an input ends (one that took less than
some microseconds excepted) and before its outcome is sent.

Guarantees: no output of an input is sent after its outcome; what one stream was given through one
way keeps its order; memory is bounded (a writer that is too quick waits for the broker, and where
that does not help, what is dropped is counted). A line is sent whole unless it takes longer than
`_TAIL_SECONDS` to be written, or its writer flushes.
Not guaranteed: the order between the two ways and between the two streams. What threads and child
processes write that outlive their input belongs to the input that runs, or to the last one where
none does: its call is told while it is open. What an instance writes while it is entered is held
for its first input.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

from kernel_worker import context
from kernel_worker.context import named
from kernel_worker.wire import display as displays
from kernel_worker.wire import messages
from kernel_worker.worker import displays as displaying

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.context import RunningInput, RunningLease
    from kernel_worker.model import WorkerId
    from kernel_worker.worker.channel import Channel

StreamName = Literal["stdout", "stderr"]

_FLUSH_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_MAX_BYTES = 4 * 1024 * 1024
_SPACING_SECONDS = 0.02
_PATIENCE_SECONDS = 1.0
_TAIL_SECONDS = 0.1
"""A line that is not finished waits so long for its end."""


class _Segment:
    """What one input wrote to one stream, in one go."""

    __slots__ = ("began", "origin", "stream", "texts")

    def __init__(
        self, origin: RunningInput, stream: StreamName | Literal["display"], text: str, began: float
    ) -> None:
        self.origin = origin
        self.stream = stream
        self.texts = [text]
        self.began = began

    def cut_tail(self, now: float) -> _Segment | None:
        """Take off the line that is not finished, unless it has waited long enough."""
        text = "".join(self.texts)
        end = text.rfind("\n") + 1
        tail = text[end:]
        if not tail or len(tail) > _FLUSH_BYTES or (not end and now - self.began > _TAIL_SECONDS):
            return None
        self.texts = [text[:end]]
        return _Segment(self.origin, self.stream, tail, now if end else self.began)

    def encoded(self) -> bytes:
        """Return what is sent."""
        return "".join(self.texts).encode(errors="replace")


class _Displayed(_Segment):
    """What one input displayed."""

    __slots__ = ("data",)

    def __init__(self, origin: RunningInput, data: bytes, began: float) -> None:
        super().__init__(origin, "display", "", began)
        self.data = data

    def encoded(self) -> bytes:
        return self.data


class Output:
    """Everything that was written and not yet sent."""

    def __init__(self, channel: Channel, worker: WorkerId) -> None:
        """Send through `channel`, in the name of `worker`."""
        self.runs: RunningInput | RunningLease | None = None
        """What runs; set by whoever runs inputs."""
        self.rouse: Callable[[], object] = _nobody
        """Called when something was written while no input runs: nobody would send it."""
        self.input_ended: Callable[[], object] | None = None
        """Called when an input that took its time ends: it may have something left to show."""
        self.size = 0
        """Characters that wait."""
        self.sent = 0
        """How often something was sent."""
        self.is_holding = False
        """Keep what is written while no input runs, for the first one that does."""
        self._held: list[tuple[StreamName, str]] = []
        self._held_size = 0
        self.is_shared = False
        """Whether several inputs run at once, and another thread receives."""
        self.handing = threading.RLock()
        """Held while what waits is handed over, and the answer that has to come after it."""
        self._channel = channel
        self._worker = worker
        self._lock = threading.RLock()  # a finaliser may print while this thread writes
        self._last: RunningInput | None = None
        self._segments: list[_Segment] = []
        self._dropped = 0
        self._sent_at = 0.0

    @property
    def current(self) -> RunningInput | None:
        """The input that runs."""
        return named(self.runs)

    def pause(self) -> None:
        """No input runs until the next begins."""
        self._last, self.runs = self.current or self._last, None

    def write(self, stream: StreamName, text: str) -> None:
        """Take what the calling thread wrote; waits for the broker where it is too much."""
        origin = self._origin()
        if not text:
            return
        if origin is None:
            self.hold(stream, text)
            return
        with self._lock:
            if self.size > _MAX_BYTES:
                self._dropped += len(text)
                return
            last = self._segments[-1] if self._segments else None
            if last is not None and last.origin is origin and last.stream == stream:
                last.texts.append(text)
            else:
                self._segments.append(_Segment(origin, stream, text, time.monotonic()))
            self.size += len(text)
        if self.size >= _FLUSH_BYTES:
            self.flush(_PATIENCE_SECONDS, lines=True)
        if self.current is None:
            self.rouse()

    def display(self, display: displays.Display) -> None:
        """Take what the calling thread displayed, and send it as soon as can be."""
        origin = self._origin()
        if origin is None:
            return
        data = displays.encode(display)
        with self._lock:
            self._segments.append(_Displayed(origin, data, time.monotonic()))
            self.size += len(data)
        self.flush(0)
        if self.current is None:
            self.rouse()

    def hold(self, stream: StreamName, text: str) -> None:
        """Keep what no input wrote (an `enter` hook did), if anything is to be kept."""
        with self._lock:
            if self.is_holding and self._held_size <= _MAX_BYTES:
                self._held.append((stream, text))
                self._held_size += len(text)

    def release(self, origin: RunningInput) -> None:
        """Let what was kept be of `origin`, the first input; nothing is kept from now on."""
        with self._lock:
            self.is_holding = False
            held, self._held, self._held_size = self._held, [], 0
            now = time.monotonic()
            self._segments += [_Segment(origin, stream, text, now) for stream, text in held]
            self.size += sum(len(text) for _, text in held)

    def flush_soon(self) -> None:
        """Send, unless something was sent just now: then the next tick does."""
        if self.size and time.monotonic() - self._sent_at >= _SPACING_SECONDS:
            self.flush(0)

    def flush(self, patience_seconds: float, *, lines: bool = False) -> None:
        """Send what waits, unless the connection is taken for so long; `lines`: whole ones."""
        if self.is_shared:
            self.hand_over(lines=lines)
        elif self._channel.try_acquire(patience_seconds):
            try:
                self.send_locked(lines=lines)
            finally:
                self._channel.release()

    def send_locked(self, *, lines: bool = False) -> None:
        """Send what waits, while the channel's lock is held.

        Where nothing waits any more, what `post` took is sent before whatever is sent next.
        """
        if self._segments:
            for message, data in self._take(lines=lines):
                self._channel.send_locked(message, [data])

    def post(self) -> None:
        """Send what waits while the main thread waits for work, or just begins some."""
        with self._lock:
            for message, data in self._encoded(self._segments):
                self._channel.put(message, [data])
            self._segments, self.size = [], 0  # after `put`: see `send_locked`
        self._channel.push()

    def hand_over(self, *, lines: bool = False, ended: RunningInput | None = None) -> None:
        """Let the thread that receives send what waits; `lines`: whole ones, but for `ended`'s."""
        if self._segments:
            with self.handing:
                for message, data in self._take(lines=lines, ended=ended):
                    self._channel.hand_over(message, [data])

    def _take(
        self, *, lines: bool, ended: RunningInput | None = None
    ) -> list[tuple[messages.Output, bytes]]:
        with self._lock:
            segments, self._segments, self.size = self._segments, [], 0
            now = self._sent_at = time.monotonic()
            if lines:
                self._segments = _tails(
                    [each for each in segments if each.origin is not ended], now
                )
                self.size = sum(len(text) for each in self._segments for text in each.texts)
            if self._dropped and segments:
                text = f"notebook_ext: {self._dropped:,} characters of output were dropped: the "
                text += "broker did not take them.\n"
                self._dropped = 0
                segments.append(_Segment(segments[-1].origin, "stderr", text, now))
        return self._encoded(segments)

    def _encoded(self, segments: list[_Segment]) -> list[tuple[messages.Output, bytes]]:
        self.sent += bool(segments)
        encoded = ((self._message(each), each.encoded()) for each in segments)
        said = [(message, data) for message, data in encoded if data]
        seals = self._channel.seals
        return [seals.output(*each) for each in said] if seals.is_on else said

    def _message(self, segment: _Segment) -> messages.Output:
        origin = segment.origin
        return messages.Output(origin.call, origin.index, segment.stream, self._worker)

    def _origin(self) -> RunningInput | None:
        """Return the input to which the calling thread's output goes."""
        mine = context.running_here()
        running = self.current
        if self.is_shared and mine is not None:
            return mine
        if running is None or (mine is not None and mine.call != running.call):
            return mine or self._last
        return running


def _tails(segments: list[_Segment], now: float) -> list[_Segment]:
    """Take the unfinished lines off the ends of what was written."""
    ends = {(each.origin, each.stream): each for each in segments}
    tails = [each.cut_tail(now) for each in ends.values()]
    return [tail for tail in tails if tail is not None]


def _nobody() -> None:
    """Who is roused in a worker that is not complete yet."""


class Pipe:
    """The read end behind file descriptor 1 or 2."""

    def __init__(self, output: Output, stream: StreamName, file: int) -> None:
        """Hand what arrives at `file` to `output`."""
        self.file = file
        self._output = output
        self._stream: StreamName = stream
        self._lock = threading.Lock()
        self.is_read = self._lock.locked
        """Whether another thread is taking some of it in."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        os.set_blocking(file, False)

    def read(self) -> bool:
        """Take some of what is there; say whether there may be more."""
        with self._lock:
            try:
                data = os.read(self.file, _READ_BYTES)
            except BlockingIOError:
                return False
            text = self._decoder.decode(data)
            if text:
                self._output.write(self._stream, text)
            return len(data) == _READ_BYTES

    def settle(self) -> None:
        """Wait until what another thread has read is attributed."""
        with self._lock:
            pass


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a worker."""

    encoding = "utf-8"
    errors = "replace"
    line_buffering = False

    def __init__(self, output: Output, name: StreamName, descriptor: int) -> None:
        """Write to `output` as `name`; `descriptor` is where child processes write."""
        self._output = output
        self._name: StreamName = name
        self._descriptor = descriptor
        self._owner = os.getpid()
        self._buffer = _Bytes(self)

    @property
    def name(self) -> str:
        """As files have one."""
        return f"<{self._name}>"

    @property
    def mode(self) -> str:
        """As files have one."""
        return "w"

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Where bytes can be written."""
        return self._buffer

    def write(self, text: str) -> int:
        """Take `text`; it is shown within some 50 ms."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() != self._owner:  # a fork by user code: nobody would send it
            os.write(self._descriptor, text.encode(errors="replace"))
        else:
            self._output.write(self._name, text)
        return len(text)

    def flush(self) -> None:
        """Show what was written, soon."""
        if os.getpid() == self._owner:
            self._output.flush_soon()

    def fileno(self) -> int:
        """Return the descriptor that child processes are given."""
        return self._descriptor

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


class _Bytes(io.BufferedIOBase):
    """The `buffer` of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # whatever has a buffer
        self._stream.write(self._decoder.decode(bytes(view)))
        return view.nbytes

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True


def install(output: Output) -> None:
    """Replace this process's `sys.stdout` and `sys.stderr`, and take in its displays."""
    displaying.install(output)
    sys.stdout = Stream(output, "stdout", 1)
    sys.stderr = Stream(output, "stderr", 2)
