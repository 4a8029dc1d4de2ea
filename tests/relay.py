"""A stretch of network between a client and a broker, which tests cut and tamper with."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self


class Relay:
    """Passes connections on to `target`; a context manager."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ways: dict[socket.socket, socket.socket] = {}
        self._clients: list[socket.socket] = []
        """The ends towards the client, of the connections that there are."""
        self.said: list[bytearray] = []
        """What the client has said, by connection."""
        self.passed_bytes = 0
        """How much has gone through, in both directions."""
        self._recorded: dict[socket.socket, bytearray] = {}
        self._lock = threading.Lock()
        self._is_open = True
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        with contextlib.suppress(OSError):  # something else woke it just now, and it has ended
            self._wake.send(b"x")
        self._thread.join()

    def cut(self) -> None:
        """End all connections at once, whatever is under way."""
        with self._lock:
            for end in list(self._ways):
                self._drop(end)

    def close(self) -> None:
        """Cut, and let nobody through until `open`."""
        self._is_open = False
        self.cut()

    def open(self) -> None:
        """Let everybody through again."""
        self._is_open = True

    def inject(self, data: bytes) -> None:
        """Say `data` to the broker as if the client of the last connection had."""
        with self._lock:
            self._ways[self._clients[-1]].sendall(data)

    def _run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is not self._woken:
                    assert isinstance(key.fileobj, socket.socket)
                    with self._lock:
                        self._pass_on(key.fileobj)
        for end in [*self._ways, self._listener, self._woken, self._wake]:
            end.close()
        self._selector.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if not self._is_open:
            near.close()
            return
        far = socket.create_connection(self._target)
        with self._lock:
            self._ways |= {near: far, far: near}
            self._clients.append(near)
            self._recorded[near] = bytearray()
            self.said.append(self._recorded[near])
            for end in (near, far):
                self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        if end not in self._ways:
            return
        try:
            data = end.recv(65_536)
            self._ways[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end)
        self.passed_bytes += len(data)
        if end in self._recorded:
            self._recorded[end] += data

    def _drop(self, end: socket.socket) -> None:
        other = self._ways.pop(end, None)
        if other is None:
            return
        del self._ways[other]
        for each in (end, other):
            self._selector.unregister(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
            if each in self._clients:
                self._clients.remove(each)
