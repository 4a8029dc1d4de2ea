"""The control thread: what must happen while the main thread is inside user code.

It serves the host agent (`Stop`, `TakeBack`, `Interrupt`, `Rejoin`), reads the pipes behind stdout
and stderr, and every now and then sends what lies finished. It sleeps without a timeout while the
worker has been idle for a second; a lease that begins then wakes it (`rouse`).

Not guaranteed: that it gets to run while C code holds the GIL; the host agent's knowledge (the
progress page, the pidfd) does not depend on it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, assert_never

from kernel_worker.wire import local

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from kernel_worker.worker.batching import Batching
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.concurrent import Concurrent
    from kernel_worker.worker.consoles import Consoles
    from kernel_worker.worker.output import Pipe
    from kernel_worker.worker.run import Executor

_TICK_MS = 20
_URGENT_MS = 5
_STREAM_MS = 1
_AWAKE_SECONDS = 1.0


class Control:
    """The thread and what it watches."""

    def __init__(  # noqa: PLR0917  the parts of a worker meet here
        self,
        end: socket.socket,
        channel: Channel,
        executor: Executor | Concurrent | Batching,
        pipes: tuple[Pipe, ...],
        attach: Callable[[], object],
        consoles: Consoles,
        rejoin: Callable[[int], object],
    ) -> None:
        """Serve the host agent on `end`.

        Args:
            end: where it is heard.
            channel: the connection to the broker.
            executor: what runs leases.
            pipes: behind stdout and stderr.
            attach: makes the process a Jupyter kernel.
            consoles: where somebody may look at an input.
            rejoin: dials the broker that follows one that is gone.
        """
        self.is_stopping = False
        """The host agent asked for the worker to end."""
        self._end = end
        self._channel = channel
        self._executor = executor
        self._attach = attach
        self._consoles = consoles
        self._rejoin = rejoin
        self._pipes = {pipe.file: pipe for pipe in pipes}
        self._rouse = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sleeps = False
        self._busy_at = 0.0
        self._poll = select.poll()
        for file in (end.fileno(), self._rouse, *self._pipes):
            self._poll.register(file, select.POLLIN)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="notebook-ext-control", daemon=True).start()

    def rouse(self) -> None:
        """A lease begins: let the thread tick, if it sleeps."""
        if self._sleeps:
            os.eventfd_write(self._rouse, 1)

    def hurry(self) -> None:
        """Items of a generator wait for others: let the thread look at them soon."""
        os.eventfd_write(self._rouse, 1)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            for file, _event in self._poll.poll(self._timeout_ms()):
                self._serve(file)
            self._sleeps = False
            if self._executor.interrupts.is_pending:
                self._executor.interrupts.repeat()
            if self._executor.has_returns:
                self._executor.answer_waiting()
            self._executor.tick()

    def _timeout_ms(self) -> int | None:
        if self._executor.interrupts.is_pending:
            return _URGENT_MS
        if self._executor.streamer.look():
            return _STREAM_MS
        now = time.monotonic()
        self._sleeps = True  # before the look at the work: whoever begins some looks after it
        if self._executor.is_busy:
            self._busy_at = now
        if now - self._busy_at < _AWAKE_SECONDS:
            self._sleeps = False
            return _TICK_MS
        return None

    def _serve(self, file: int) -> None:
        if file == self._rouse:
            os.eventfd_read(self._rouse)
            self._busy_at = time.monotonic()
        elif file in self._pipes:
            self._pipes[file].read()
        else:
            self._obey()

    def _obey(self) -> None:
        received = local.receive(self._end, local.to_worker)
        if received is None:  # the host agent has given us up
            os.killpg(0, signal.SIGKILL)
            return
        message, _files = received
        match message:
            case local.Stop():
                self.is_stopping = True
                self._consoles.tell("stop")
                self._channel.wake()
            case local.TakeBack():
                self._executor.take_back(message.lease)
            case local.ConsoleInput():
                self._consoles.tell(message.what, message.text)
            case local.Attach():
                self._attach()
            case local.Rejoin():
                for word in ("hangup", "release"):  # who looks did so through that broker
                    self._consoles.tell(word)
                self._rejoin(message.number)
            case local.Interrupt():
                self._executor.interrupt(message.lease, message.index, message.kind)
            case _:
                assert_never(message)
