"""Connections to a socket that are passed on to another one, as they come.

Two kinds come by the one socket that ssh forwards: of ZeroMQ, and of large values, which say so
first (`kernel_worker.wire.bulk`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker.wire import bulk

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 256 * 1024


class Passing:
    """A socket of this user alone, and two threads for each connection to it."""

    def __init__(self, path: str, place: Callable[[bool], str]) -> None:
        """Listen.

        Args:
            path: of the socket, which is not there yet.
            place: returns the address of where a connection leads; it is told whether that is
                one of large values.

        Raises:
            OSError: there can be no such socket.
        """
        self._path = path
        self._place = place
        self._listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that there are end with the process."""
        Path(self._path).unlink(missing_ok=True)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        try:
            first = near.recv(1, socket.MSG_PEEK)
            far = dial(self._place(first == bulk.MAGIC[:1]))
        except OSError:  # nobody is there now
            near.close()
            return
        threading.Thread(target=_pass_on, args=(far, near), daemon=True).start()
        _pass_on(near, far)


def dial(address: str) -> socket.socket:
    """Return a connection to `tcp://HOST:PORT` or `ipc:///PATH`.

    Raises:
        OSError: nobody is there.
    """
    if address.startswith("ipc://"):
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(address.removeprefix("ipc://"))
        except OSError:
            made.close()
            raise
        return made
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    made = socket.create_connection((host.strip("[]"), int(port)))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes; where either has ended, both have: nothing of a half is of use here."""
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
