"""What is on an outpost's machine: its host agent, the workers, and who makes calls within them.

Theory. They dial a local socket, as if the broker were here. What they say goes to the broker, and
what is said for them comes here; where that tells who is here, it is looked at. No connection tells
the broker that somebody here is gone, so that is said for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.broker.deliveries import Deliveries
from kernel_worker.broker.sockets import Sockets
from kernel_worker.errors import ProtocolError
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import zmq

    from kernel_worker.broker.deliveries import Parcel
    from kernel_worker.model import WorkerId

MESSAGES_PER_TURN: Final = 256
_BYE: Final = messages.encode(messages.Bye())
_HELLO: Final = b"\xa5hello"
_WORKER_EXITED: Final = b"\xadworker_exited"


class Workplace:
    """Everybody here, and the socket that they dial."""

    def __init__(
        self,
        address: str,
        poller: zmq.Poller,
        say: Callable[[Sequence[bytes | memoryview], bytes], object],
        *,
        is_waiting: Callable[[bytes], bool],
        on_gone: Callable[[], object],
    ) -> None:
        """Listen at `address`; nobody is here yet.

        Args:
            address: of the local socket.
            poller: what waits for messages.
            say: tells the broker what somebody says, whose id stands in front; and in which lane.
            is_waiting: whether something of a lane is still to go out.
            on_gone: called when a worker is gone.
        """
        self._address = address
        self._poller = poller
        self._say = say
        self._is_waiting = is_waiting
        self._on_gone = on_gone
        self._host = b""
        """The agent that speaks, if one does."""
        self._guests: dict[WorkerId, list[bytes]] = {}
        """Who makes calls in which worker."""
        self.live: set[WorkerId] = set()
        self._deliveries = Deliveries()
        self._is_read = False
        self._sockets = self._opened()

    def _opened(self) -> Sockets:
        Path(self._address.removeprefix("ipc://")).unlink(missing_ok=True)
        made = Sockets(self._address, lambda *_: None)
        made.register(self._poller)
        self._is_read = True
        return made

    @property
    def is_congested(self) -> bool:
        """Whether somebody here has messages waiting, so that `retry` should be called soon."""
        return self._sockets.is_congested

    def retry(self) -> None:
        """Send what waits as far as they take it now."""
        self._sockets.retry()

    def brings_messages(self, source: object) -> bool:
        """Whether `source`, of the poller, is where they speak."""
        return self._sockets.brings_messages(source)

    def read(self, *, wanted: bool) -> None:
        """Listen, or let them wait."""
        if wanted is self._is_read:
            return
        self._is_read = wanted
        if wanted:
            self._sockets.register(self._poller)
        else:
            self._poller.unregister(self._sockets.router)

    def close(self) -> None:
        """Hang up."""
        self._sockets.close()

    def ignore(self) -> None:
        """Take what they say, and do nothing with it."""
        while self._sockets.receive() is not None:
            pass

    def cut(self) -> None:
        """Let the agent find that its broker is gone, and the next one."""
        self.read(wanted=False)
        self._sockets.close()
        self._host = b""
        self._guests.clear()
        self._deliveries.forget()
        self._sockets = self._opened()

    def hear(self) -> None:
        """Pass on what is said here."""
        for _ in range(MESSAGES_PER_TURN):
            parts = self._sockets.receive()
            if parts is None:
                return
            if len(parts) > 1:
                peer, header = bytes(parts[0]), bytes(parts[1])
                answer = self._note(peer, header)
                if answer is None:
                    self._say([peer, *parts[1:]], self._lane_of(peer, header))
                for parcel in answer or ():
                    self._sockets.send(*parcel)

    def deliver(self, message: list[Any], by_bulk: bool) -> None:  # noqa: FBT001  as it came
        """Tell those here what the broker says."""
        if message:
            peer, header, *frames = message
            arrived = self._deliveries.arrived(bytes(peer), header, frames, by_bulk=by_bulk)
            for parcel in arrived:
                self._sockets.send(*parcel)

    def _note(self, peer: bytes, header: bytes) -> list[Parcel] | None:
        """Look at what is said, where that tells who is here; return the answer, if it is known."""
        try:
            self._look_at(peer, header)
            return self._deliveries.asked(peer, header)
        except ProtocolError:
            return None  # the broker says so

    def _look_at(self, peer: bytes, header: bytes) -> None:
        if header[1:7] == _HELLO:
            hello = messages.decode_at_broker(header)
            if isinstance(hello, messages.Hello):
                self._sockets.forget(peer)
                if hello.role == "host":
                    self._host = peer
                elif hello.role == "client":
                    self._guests.setdefault(hello.worker, []).append(peer)
        elif peer == self._host:
            message = messages.decode_at_broker(header)
            if isinstance(message, messages.WorkerStarted):
                self.live.add(message.worker)
            elif isinstance(message, messages.WorkerExited):
                self._worker_gone(message.worker)

    def _lane_of(self, peer: bytes, header: bytes) -> bytes:
        """Return behind whose messages one goes: a worker's death goes behind its last words."""
        if peer == self._host and header[1:15] == _WORKER_EXITED:
            message = messages.decode_at_broker(header)
            if isinstance(message, messages.WorkerExited):
                worker = message.worker.encode()
                return worker if self._is_waiting(worker) else b""
        return b""

    def _worker_gone(self, worker: WorkerId) -> None:
        """What it called is of no use any more; no connection tells the broker that it is gone."""
        self.live.discard(worker)
        self._sockets.forget(worker.encode())
        for guest in self._guests.pop(worker, ()):
            for peer, header, frames in self._deliveries.gone(guest):
                self._say([peer, header, *frames], b"")
            self._sockets.forget(guest)
            self._say([guest, _BYE], b"")
        self._on_gone()

    def agent_died(self) -> None:
        """Say so for it."""
        if self._host:
            self._say([self._host, _BYE], b"")
        self._host = b""
        for worker in list(self.live | self._guests.keys()):
            self._worker_gone(worker)
