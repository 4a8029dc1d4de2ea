"""Clients that come by a broker's door, and a door without a broker: what its tests speak with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import msgspec
import zmq

from kernel_worker import rendezvous, settings
from kernel_worker.broker.doors import Doors
from kernel_worker.broker.watches import Timers, Watches
from kernel_worker.far import Far
from kernel_worker.keys import Invitation, Keys
from kernel_worker.rendezvous import Connection, journal_path
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Heard, RunningBroker
from tests.waiting import PATIENCE, wait_until

LIMIT_SECONDS = 20 * PATIENCE


def to(invitation: Invitation, address: str = "") -> Connection:
    """Return what a client is given that has the connection file."""
    return Connection(address or invitation.address, 0, "", "", "", keys=invitation)


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


class FarClient(Client):
    """A client that has said hello over TCP."""

    def __init__(self, connection: Connection, peer: str = "cl-far", **hello: Any) -> None:
        self.peer = peer
        self.requests = 0
        self._context = zmq.Context()
        said = messages.Hello(hello.pop("role", "client"), hello.pop("name", peer), **hello)
        self.far = Far(self._context, connection, msgspec.structs.replace(said, peer=peer))
        self.far._hello = messages.encode(said)
        try:
            self.welcome = self.hear(messages.Welcome, LIMIT_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, message: messages.ToBroker, frames: Sequence[Any] = ()) -> None:
        self.far.send([messages.encode(message), *frames])

    def listen(self, limit_seconds: float = LIMIT_SECONDS) -> Heard:
        while True:
            heard = self.far.wait(limit_seconds)
            assert heard is not None, "nothing is heard"
            message = messages.decode_at_client(heard[0])
            if not isinstance(message, messages.CallProgress | messages.Welcome) or not hasattr(
                self, "welcome"
            ):
                return Heard(message, [bytes(frame) for frame in heard[1:]])

    def close(self) -> None:
        self.far.close(0)
        self._context.term()


class Listening(RunningBroker):
    """A broker that listens on TCP; what it logs is kept, of the last one that was started."""

    written: IO[bytes] | None = None

    def log(self) -> int:
        self.close_log()
        self.written = tempfile.TemporaryFile()  # noqa: SIM115  closed with the broker
        return self.written.fileno()

    def close_log(self) -> None:
        if self.written is not None:
            self.written.close()

    def logged(self) -> str:
        assert self.written is not None
        size = os.fstat(self.written.fileno()).st_size
        return os.pread(self.written.fileno(), size, 0).decode()


class Around:
    """What the doors need of a broker, in this process."""

    def __init__(self, directory: Path) -> None:
        (directory / "d").mkdir(mode=0o700)
        self.settings = settings.load(
            {"data_dir": directory / "d", "listen": "tcp://127.0.0.1:0"},
            environ={"HOME": str(directory)},
            start="/",
        )
        rendezvous.prepare_journal(self.settings)
        self.connection = Connection(f"ipc://{directory}/s", 0, "", "", "")
        self.timers = Timers()
        self.watches = Watches()
        self.losses: list[tuple[bytes, str]] = []
        self.stopped: list[str] = []
        self.doors = Doors(self, self.settings, self.lose)  # type: ignore[arg-type]
        self.poller = zmq.Poller()
        self.doors.register(self.poller)
        self.keys = Keys(journal_path(self.settings).parent)
        self.invitation = self.keys.invite("laptop", self.doors.door)

    def now(self) -> float:
        return 1000.0

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)

    def lose(self, peer: bytes, why: str) -> None:
        self.losses.append((peer, why))

    def turn(self) -> list[list[bytes]]:
        """Do what a turn of the loop does; return the messages that came, which are all Hello."""
        found = []
        for source, _ in self.poller.poll(10):
            if self.doors.brings_messages(source):
                while (parts := self.doors.receive()) is not None:
                    found.append([bytes(part) for part in parts])
                    self.doors.greet(found[-1][0], b"welcome")
        self.doors.retry()
        return found

    def meets(self, far: Far) -> None:
        """Let a client in, up to its greeting's answer."""
        wait_until(lambda: self.turn() or far.wait(0.0) == [b"welcome"], what="it is welcome")
        wait_until(lambda: far._is_greeted or far.wait(0.0), what="it knows")
