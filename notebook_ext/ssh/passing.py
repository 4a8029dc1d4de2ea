"""Connections to a socket that are passed on to another one, as they come."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 256 * 1024


class Passing:
    """A socket of this user alone, and two threads for each connection to it."""

    def __init__(self, path: str, dial: Callable[[], socket.socket]) -> None:
        """Listen.

        Args:
            path: of the socket, which is not there yet.
            dial: returns the other end of a connection; OSError: nobody is there now.

        Raises:
            OSError: there can be no such socket.
        """
        self._path = path
        self._dial = dial
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
                try:
                    far = self._dial()
                except OSError:
                    near.close()
                    continue
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


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
