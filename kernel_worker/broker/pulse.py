"""Whether the broker of another machine is there: asked on a connection of its own.

No bulk delays what is asked there. What counts is when that was asked which was answered last, not
when the answer came: the broker has heard of us since then.
"""

from __future__ import annotations

import contextlib
import struct
import time
from typing import TYPE_CHECKING

import zmq

from kernel_worker.far import dialler

if TYPE_CHECKING:
    from kernel_worker.keys import Invitation


class Pulse:
    """Asks whether the broker is there, on a connection of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], invitation: Invitation) -> None:
        """Dial; nothing is asked yet."""
        self._address = invitation.address
        self.socket, self.monitor = dialler(context, invitation, keeps_nothing=True)
        self.socket.connect(self._address)
        self.answered_at = time.monotonic()
        """When that was asked which was answered last: the broker has heard of us since."""
        self._asked_at = 0.0

    def ask(self, word: bytes) -> None:
        """Ask, where there is a connection."""
        self._asked_at = self._asked_at or time.monotonic()
        try:
            self.socket.send(word, zmq.NOBLOCK)
        except zmq.Again:
            self._asked_at = 0.0

    def note_changes(self) -> None:
        """See whether the connection is another one: what was asked on the last one is lost."""
        while self.monitor.poll(0):
            (event, _) = struct.unpack("=hi", self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._asked_at = 0.0

    def answered(self) -> None:
        """An answer has come."""
        if self._asked_at:
            self.answered_at, self._asked_at = self._asked_at, 0.0

    def redial(self) -> None:
        """Dial anew."""
        self._asked_at = 0.0
        with contextlib.suppress(zmq.ZMQError):  # there is no connection
            self.socket.disconnect(self._address)
        self.socket.connect(self._address)

    def close(self) -> None:
        """Hang up."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
