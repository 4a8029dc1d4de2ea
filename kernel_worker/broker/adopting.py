"""A host agent that has outlived another broker is heard before this one begins.

Theory. Such an agent holds its lock beside the connection file, and dials this broker as soon as
that listens. What its workers run must be known before anything is given to anybody: so the broker
waits for its `Hello` before it restores, and takes in what others say in the meantime later. It
waits for as long as the agent lives, up to a limit.

Guaranteed: there are never two agents: one that lives and says nothing is killed, and its workers
with it, whose inputs run again.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

import zmq

from kernel_worker import rendezvous
from kernel_worker.broker import agent
from kernel_worker.errors import ProtocolError
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.sockets import Frame, Sockets

ANSWER_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Arrivals:
    """What has come before the broker began."""

    def __init__(self, sockets: Sockets, connection_file: str) -> None:
        """Listen on `sockets`; the agent's lock lies beside the connection file."""
        self._sockets = sockets
        self._connection_file = connection_file
        self.others: list[list[Frame]] = []
        """What others than the agent have said, in order."""

    def survivor(
        self, patience_seconds: float = ANSWER_SECONDS
    ) -> tuple[bytes, messages.Hello] | None:
        """Wait for the agent that lives; return its routing id and what it says, or None."""
        pid = rendezvous.living_agent(self._connection_file)
        if not pid:
            return None
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            return self._wait(pid, process, time.monotonic() + patience_seconds)
        finally:
            os.close(process)

    def _wait(self, pid: int, process: int, until: float) -> tuple[bytes, messages.Hello] | None:
        poller = zmq.Poller()
        self._sockets.register(poller)
        poller.register(process, zmq.POLLIN)
        while (left := until - time.monotonic()) > 0:
            ready = dict(poller.poll(int(left * 1000) + 1))
            while (parts := self._sockets.receive()) is not None:
                hello = _hello_of(parts)
                routing = bytes(parts[0])
                is_near = not self._sockets.is_far(routing)
                if is_near and hello is not None and (hello.role, hello.pid) == ("host", pid):
                    return routing, hello
                self.others.append(parts)
            if process in ready:
                return None
        _log.warning("the host agent (pid %d) lives and says nothing: it is killed", pid)
        agent.end(pid, 0)
        return None


def _hello_of(parts: list[Frame]) -> messages.Hello | None:
    try:
        message = messages.decode_at_broker(bytes(parts[1]))
    except (ProtocolError, IndexError):
        return None
    return message if isinstance(message, messages.Hello) else None
