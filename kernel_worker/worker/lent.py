"""Inputs that come by a line: the worker is lent to a client, which calls it past the broker.

Theory. The lease that brings a line is answered like any other; then its work goes on: the main
thread serves the line beside the broker's socket, one input after the other, until it is asked
back, nobody uses it for `_IDLE_MS`, or the client hangs up. An input is run by the loops that run
all others, under the same lease at the next position, so that the progress page, interrupts and
limits know it. What is a small value, and comes after no output, is answered on the line;
everything else goes by the broker, and the line says so.

The broker is told how far the line has come every `_TELL_NS`, when an input takes longer than a
moment (`tell_running`, by the control thread), and at the end, with which the loan is acknowledged.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import line as lines
from kernel_worker.wire import messages

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.run import Executor
    from kernel_worker.worker.work import Work

_IDLE_MS = 50
_TELL_NS = 100_000_000
_MOMENT_NS = 20_000_000
_NS = 1e-9


class Lent:
    """One loan of this worker, from its first input on."""

    def __init__(self, end: socket.socket, executor: Executor, work: Work) -> None:
        """Serve `end` under the lease of `work`."""
        self.is_recalled = False
        """The broker wants the worker back: the input that runs is the last one."""
        self._end = end
        self._executor = executor
        self._work = work
        self._next = work.lease.stop
        self._told = self._next
        self._told_ns = time.monotonic_ns()
        self._elapsed_ns = 0
        self._said_to_run = -1

    def serve(self, channel: Channel, rouse: Callable[[], object]) -> None:
        """Run what comes, until the loan is over."""
        file = self._end.fileno()
        while not self.is_recalled:
            ready = channel.wait_beside(file, _IDLE_MS)
            if ready is None:
                return
            if not ready:
                if self._executor.has_messages():
                    return
                continue
            data = self._end.recv(lines.MAX_BYTES)
            if not data:
                return
            rouse()
            self._take(channel, lines.decode(data))

    def close(self, channel: Channel) -> None:
        """Hang up, and acknowledge the end of the loan: what was not read will not be."""
        self._end.close()
        work = self._work
        channel.send(self._reached(runs=False))
        channel.send(messages.Returned(work.id, self._next, self._next))

    def tell_running(self, channel: Channel, position: int, started_ns: int) -> None:
        """Let the broker know of an input that takes long; the control thread has the lock."""
        is_long = started_ns and time.monotonic_ns() - started_ns > _MOMENT_NS
        if is_long and position == self._next and self._said_to_run != position:
            self._said_to_run = position
            channel.send_locked(self._reached(runs=True))

    def _take(self, channel: Channel, turn: lines.Turn) -> None:
        if turn.index != self._next:
            message = f"input {turn.index} where {self._next} is next"
            raise ProtocolError(message)
        executor, work, index = self._executor, self._work, turn.index
        begun = time.monotonic_ns()
        lease = msgspec.structs.replace(work.lease, start=index, stop=index + 1, first=index)
        work.go_on(lease, begun)
        frames = executor.run_lent(work, turn.frames)
        self._next = index + 1
        if frames is not None and sum(map(len, frames)) > lines.MAX_BYTES - 1024:
            channel.send(
                messages.Done(work.id, index, 1, (time.monotonic_ns() - begun) * _NS), frames
            )
            frames = None
        answer = lines.Turn(index, () if frames is None else tuple(map(bytes, frames)))
        now = time.monotonic_ns()
        try:
            self._end.send(lines.encode(answer))
        except OSError:
            self.is_recalled = True  # nobody is there any more
        if frames is None:
            self._told, self._told_ns, self._elapsed_ns = self._next, now, 0
            return
        self._elapsed_ns += now - begun
        if now - self._told_ns > _TELL_NS:
            channel.send(self._reached(runs=False))

    def _reached(self, *, runs: bool) -> messages.LineReached:
        elapsed, self._elapsed_ns = self._elapsed_ns * _NS, 0
        self._told, self._told_ns = self._next, time.monotonic_ns()
        return messages.LineReached(self._work.id, self._next, elapsed, runs)
