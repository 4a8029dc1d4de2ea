"""Host agents that have outlived another broker are heard before this one begins.

Theory. Such an agent holds its lock beside the connection file, and dials this broker as soon as
that listens. What its workers run must be known before anything is given to anybody: so the broker
waits for its `Hello` before it restores, and takes in what others say in the meantime later. It
waits for as long as the agent lives, up to a limit. Of other machines that one cannot see: for
those that were linked to the broker before this one it waits as long, and no longer than all of
them take.

Guaranteed: there are never two agents: one that lives and says nothing is killed, and its workers
with it, whose inputs run again. What comes late of another machine is refused, and ends there.
"""

from __future__ import annotations

import contextlib
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
    from collections.abc import Sequence

    from kernel_worker.broker.sockets import Frame, Sockets

ANSWER_SECONDS: Final = 5.0
Arrival = tuple[bytes, messages.Hello]
"""A routing id, and what is said."""

_log = logging.getLogger(__name__)


class Arrivals:
    """What has come before the broker began."""

    def __init__(self, sockets: Sockets, connection_file: str, links: Sequence[str] = ()) -> None:
        """Listen on `sockets`.

        Args:
            sockets: of the broker.
            connection_file: the agent's lock lies beside it.
            links: the other machines that were linked to the broker before.
        """
        self._sockets = sockets
        self._connection_file = connection_file
        self._links = {link.encode() for link in links}
        self._found: list[Arrival] = []
        self.others: list[list[Frame]] = []
        """What others than the agents have said, in order."""

    def survivors(self, patience_seconds: float = ANSWER_SECONDS) -> list[Arrival]:
        """Wait for the agents that may live; return their routing ids and what they say."""
        pid = rendezvous.living_agent(self._connection_file)
        process = -1
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid) if pid else -1
        if process < 0 and not self._links:
            return []
        try:
            self._wait(pid, process, time.monotonic() + patience_seconds)
        finally:
            if process >= 0:
                os.close(process)
        return self._found

    def _wait(self, pid: int, process: int, until: float) -> None:
        poller = zmq.Poller()
        self._sockets.register(poller)
        if process >= 0:
            poller.register(process, zmq.POLLIN)
        is_expected = process >= 0
        while is_expected or self._links:
            left = until - time.monotonic()
            if left <= 0:
                break
            for source, _ in poller.poll(int(left * 1000) + 1):
                if source == process:
                    is_expected = False
                    poller.unregister(process)
                else:
                    self._sockets.brings_messages(source)
            while (parts := self._sockets.receive()) is not None:
                hello = _hello_of(parts)
                routing = bytes(parts[0])
                is_near = not self._sockets.is_far(routing)
                if hello is None or hello.role != "host" or (is_near and hello.pid != pid):
                    self.others.append(parts)
                    continue
                self._found.append((routing, hello))
                if is_near:
                    is_expected = False
                self._links.discard(self._sockets.link_of(routing))
        for link in self._links:
            _log.warning("%s, which ran workers, is not heard of: these run again", link.decode())
        if is_expected:
            _log.warning("the host agent (pid %d) lives and says nothing: it is killed", pid)
            agent.end(pid, 0)


def _hello_of(parts: list[Frame]) -> messages.Hello | None:
    try:
        message = messages.decode_at_broker(bytes(parts[1]))
    except (ProtocolError, IndexError):
        return None
    return message if isinstance(message, messages.Hello) else None
