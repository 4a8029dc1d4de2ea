"""The agent's connection to the broker: one question, said again and again.

A broker that was killed is followed by another one, which is looked for and dialled anew.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import msgspec
import zmq

from kernel_worker import rendezvous
from kernel_worker.errors import AuthError, ConnectionError, ProtocolError  # noqa: A004  ours
from kernel_worker.far import Far
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.model import HostResources
    from kernel_worker.rendezvous import Connection

LIMIT_SECONDS: Final = 5.0


class Asking:
    """One agent's connection."""

    def __init__(self, find: Callable[[], Connection | None]) -> None:
        """Dial nobody yet; `find` says where the broker is, or that there is none."""
        self._find = find
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._to: Connection | None = None
        self._far: Far | None = None
        self._near: zmq.Socket[bytes] | None = None
        self._requests = 0

    @property
    def door(self) -> str:
        """Where the broker listens for other machines, as far as that is known."""
        return "" if self._to is None else self._to.door

    def provide(self, shapes: Sequence[HostResources], note: str) -> messages.Demand | None:
        """Say which hosts could be had; return what is wanted, or None where nobody answers.

        Raises:
            AuthError: the broker does not let this agent in.
            ConnectionError: it refuses it.
        """
        found = self._find()
        if found is None:
            self.hang_up()
            return None
        if self._to is None or self._to.incarnation != found.incarnation:
            self.hang_up()
            self._dial(found)
        self._requests += 1
        self._say(messages.Provide(self._requests, tuple(shapes), note))
        deadline = time.monotonic() + LIMIT_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            match self._hear(left):
                case messages.Reply(request=self._requests, error="", body=body):
                    return msgspec.msgpack.decode(body, type=messages.Demand)
                case messages.Reply(error=name, body=body) if name:
                    raise ConnectionError(msgspec.msgpack.decode(body, type=str))
                case messages.Refused(reason=reason):
                    raise ConnectionError(f"the broker refused: {reason}")
                case _:
                    pass
        return None

    def hang_up(self) -> None:
        """Say goodbye."""
        if self._to is not None:
            self._say(messages.Bye())
        if self._far is not None:
            self._far.close(200)
        if self._near is not None:
            self._near.close(linger=200)
        self._to = self._far = self._near = None

    def close(self) -> None:
        """Hang up for good."""
        self.hang_up()
        self._context.destroy(linger=200)

    def _dial(self, to: Connection) -> None:
        peer = f"cl-{os.urandom(8).hex()}"
        hello = messages.Hello("client", peer, pid=os.getpid(), machine=rendezvous.machine_id())
        self._to = to
        if to.keys is not None:
            self._far = Far(self._context, to, hello)
            return
        self._near = self._context.socket(zmq.DEALER)
        self._near.routing_id = peer.encode()
        self._near.connect(to.address)
        self._say(hello)

    def _say(self, message: messages.Message) -> None:
        if self._far is not None:
            self._far.send([messages.encode(message)])
        elif self._near is not None:
            self._near.send(messages.encode(message))

    def _hear(self, seconds: float) -> messages.ToClient | None:
        heard: list[bytes] | None = None
        if self._far is not None:
            try:
                heard = self._far.wait(seconds)
            except AuthError:
                self.hang_up()
                raise
        elif self._near is not None and self._near.poll(round(1000 * seconds)):
            heard = self._near.recv_multipart()
        try:
            return messages.decode_at_client(heard[0]) if heard else None
        except ProtocolError:
            return None
