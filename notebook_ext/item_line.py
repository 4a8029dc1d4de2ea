"""The reader's end of a line for items: `kernel_worker.worker.item_line` has the theory.

The thread that iterates reads it, and nobody else: from when the first batch has come by the
broker, if the worker has dialled before, until its end.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, Self

from kernel_worker.wire import line
from notebook_ext.twin import LOOK_SECONDS

if TYPE_CHECKING:
    from kernel_worker.model import CallId


class ItemLine:
    """One generator's."""

    def __init__(self, call: CallId) -> None:
        """Listen.

        Raises:
            OSError: there is no file descriptor left, for example.
        """
        self.name = f"notebook-ext-{os.urandom(16).hex()}"
        self._call = call
        self._listener: socket.socket | None = line.listen(self.name)
        try:
            self._spare = self._listener.dup()
            """Makes room for the worker's end, where no other descriptor is left: items lie there
            alone."""
        except OSError:
            self._listener.close()
            raise
        self._end: socket.socket | None = None

    @classmethod
    def listening(cls, call: CallId) -> Self | None:
        """Return one, or None where it cannot be."""
        try:
            return cls(call)
        except OSError:
            return None

    @property
    def is_open(self) -> bool:
        """Whether the worker was found to have dialled."""
        return self._end is not None

    def open(self) -> bool:
        """Say whether the worker has dialled; nobody else is let in.

        Raises:
            OSError: it has, and no descriptor is left: its items are lost.
        """
        listener, self._listener = self._listener, None
        if listener is not None:
            self._spare.close()
            with listener:
                dialled = select.poll()  # to accept where nobody has takes a descriptor too
                dialled.register(listener, select.POLLIN)
                while dialled.poll(0):  # the last one: a worker that dialled and died gave nothing
                    end, _ = listener.accept()
                    self._take(end)
        return self.is_open

    def _take(self, end: socket.socket) -> None:
        end.setblocking(True)
        line.limit_waits(end, LOOK_SECONDS)
        if line.caller_of(end) != self._call:
            end.close()
            return
        if self._end is not None:
            self._end.close()
        self._end = end

    def read(self) -> line.Turn | None:
        """Wait for what the worker says; None: nothing comes any more.

        Raises:
            ProtocolError: it is no turn.
        """
        if self._end is None:
            return None
        while True:
            try:
                data = self._end.recv(line.MAX_BYTES)
            except BlockingIOError:
                continue  # see `LOOK_SECONDS` for why the wait is cut in pieces
            except ConnectionResetError:
                continue  # said once, of credit that nobody read: what was given is still there
            except OSError:
                return None
            return line.decode(data) if data else None

    def credit(self, items: int, item_bytes: int) -> None:
        """Say how much was taken in all."""
        if self._end is not None:
            said = line.encode((items, (item_bytes.to_bytes(8, "little"),)))
            with contextlib.suppress(OSError):  # that nobody is there is seen by who reads
                self._end.send(said, socket.MSG_DONTWAIT)

    def shut(self) -> None:
        """Let nothing come any more; what has come can still be read."""
        if self._end is not None:
            with contextlib.suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Read nothing more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._spare.close()
            listener.close()
        if self._end is not None:
            self._end.close()
