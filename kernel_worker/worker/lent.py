"""Inputs that come by a line: the worker is lent to a client, which calls it past the broker.

Theory. The lease that brings a line is answered like any other; then its work goes on: the main
thread reads the line and nothing else, one input after the other, until it is asked back, nobody
uses it for `_IDLE_MS`, the client hangs up, or an input has written something (what a call may
show is counted per call, and this is one to the broker). An input is run by the loops that run all
others, under the same lease at the next position, so that the progress page, interrupts and limits
know it.

Each request gets one answer on the line. One without frames says that the outcome comes by the
broker, and may be sent while the input runs (`hand_over`): when it takes longer than a moment, or
stands at a breakpoint. Its caller then waits as for any other call. It is the answer too where an
input failed, wrote something or gave a large value.

The broker is told how far the line has come every `_TELL_NS`, when an input is handed over, and at
the end, with which the loan is acknowledged.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import line as lines
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.run import Executor
    from kernel_worker.worker.work import Work

_IDLE_MS = 50
_TELL_NS = 100_000_000
_MOMENT_NS = 20_000_000
_NS = 1e-9


class Lent:
    """One loan of this worker, from before its first input on."""

    def __init__(self, end: socket.socket, executor: Executor, work: Work) -> None:
        """Serve `end` under the lease of `work`."""
        self.is_recalled = False
        """The broker wants the worker back: the input that runs is the last one."""
        self._end = end
        self._executor = executor
        self._work = work
        self._next = work.lease.start
        self._told_ns = time.monotonic_ns()
        self._elapsed_ns = 0
        self._gate = threading.Lock()
        self._runs = False
        """Whether the input at `_next` runs, and came by the line …"""
        self._is_answered = False
        """… and the client knows that its outcome comes by the broker."""

    def serve(self, channel: Channel, function: Callable[..., Any]) -> None:
        """Run what comes, until the loan is over.

        Raises:
            OSError: the line is broken.
            ProtocolError: what came is no request.
        """
        self._next = self._work.lease.stop
        lines.limit_waits(self._end, _IDLE_MS / 1000)
        while not (self.is_recalled or self._executor.is_stopping()):
            try:
                data = self._end.recv(lines.MAX_BYTES)
            except (BlockingIOError, ConnectionError):
                return  # nobody uses it; or who hung up had not read the last answer
            if not data:
                return
            self._take(channel, function, lines.decode(data))

    def recall(self) -> int:
        """Take no further input, and return which one is the last; the control thread."""
        self.is_recalled = True
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RD)  # whoever waits for a request hears of it
        return self._next

    def close(self, channel: Channel) -> None:
        """Hang up, and acknowledge the end of the loan: what was not read will not be."""
        self.is_recalled = True
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # a child that was forked may hold it open
        self._end.close()
        self._next = self._work.lease.stop
        with channel.sending():
            self._tell(channel, runs=False)
            channel.send_locked(messages.Returned(self._work.id, self._next, self._next))

    def look(self, channel: Channel, started_ns: int) -> None:
        """Hand an input over that takes long; the control thread, which has the channel's lock."""
        if started_ns and time.monotonic_ns() - started_ns > _MOMENT_NS:
            self.hand_over(channel)

    def hand_over(self, channel: Channel) -> None:
        """Let the outcome of what runs come by the broker, while the channel's lock is held."""
        with self._gate:
            if not self._runs or self._is_answered:
                return
            self._is_answered = True
            index = self._next
        self._tell(channel, runs=True)
        self._answer(index, ())

    def _take(self, channel: Channel, function: Callable[..., Any], turn: lines.Turn) -> None:
        index = self._next
        if turn.index != index:
            message = f"input {turn.index} where {index} is next"
            raise ProtocolError(message)
        work, begun = self._work, time.monotonic_ns()
        lease = msgspec.structs.replace(work.lease, start=index, stop=index + 1, first=index)
        work.go_on(lease, begun)
        with self._gate:
            self._runs, self._is_answered = True, False
        frames = self._executor.run_lent(work, function, turn.frames)
        with self._gate:
            is_answered, self._runs = self._is_answered, False
            self._next = index + 1
        now = time.monotonic_ns()
        if frames is not None and (is_answered or sum(map(len, frames)) > lines.MOST_FRAME_BYTES):
            done = messages.Done(work.id, index, 1, (now - begun) * _NS)
            channel.send(done, frames, work.lease.call)
            frames = None
        elif frames is not None:
            self._elapsed_ns += now - begun
        if not is_answered:
            self._answer(index, frames or ())
        if now - self._told_ns > _TELL_NS:
            with channel.sending():
                self._tell(channel, runs=False)

    def _answer(self, index: int, frames: Sequence[Frame]) -> None:
        try:
            # Frames that name buffers know more than goes out.
            said = frames if len(frames) <= 2 else [bytes(frame) for frame in frames]  # noqa: PLR2004  header and pickles
            self._end.send(lines.encode((index, said)))
        except OSError:
            self.is_recalled = True  # nobody is there any more

    def _tell(self, channel: Channel, *, runs: bool) -> None:
        elapsed, self._elapsed_ns = self._elapsed_ns * _NS, 0
        self._told_ns = time.monotonic_ns()
        work = self._work
        channel.send_locked(
            messages.LineReached(work.id, work.lease.call, self._next, elapsed, runs)
        )
