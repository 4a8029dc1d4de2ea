"""The door for other machines: a CURVE server, which lets in by keys alone.

Theory. The door is a ROUTER with a context of its own, a CURVE server (CurveZMQ, RFC 26). Whom it
lets in is asked for each connection (ZAP, RFC 27): the key must be listed now, for a client or for
a host. What is said through it is the business of `doors`.

Guarantees: nothing comes through that is not encrypted by a listed key, and there is no way to
configure that. Each refusal is logged. Connections take no more than half of the descriptors that
this process may have: when there are so many, proved or not, the door is closed for a while.
"""

from __future__ import annotations

import logging
import os
import resource
import struct
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

from kernel_worker.broker.sockets import HIGH_WATER_MESSAGES, LINGER_MS, attempt, received
from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from kernel_worker.wire import resuming

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from kernel_worker.broker.sockets import Frame
    from kernel_worker.broker.watches import Timers
    from kernel_worker.keys import Keys, Role

_MOST_FRAME_BYTES: Final = resuming.PIECE_BYTES + 4096
"""With what CURVE puts around a piece."""
_HEARTBEAT_MS: Final = 5_000
_HEARTBEAT_TIMEOUT_MS: Final = 30_000
_HANDSHAKE_MS: Final = 10_000
_CLOSED_SECONDS: Final = 5.0
_ZAP: Final = "inproc://zeromq.zap.01"
_MONITOR: Final = "inproc://door"
# The event HANDSHAKE_FAILED_PROTOCOL is not among them: libzmq 4.3.5 raises it for a bad frame too,
# loses the error by that, and leaves the connection open and deaf.
_WATCHED: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_log = logging.getLogger(__name__)


class Door:
    """One door: open, or closed for a while."""

    def __init__(
        self,
        address: str,
        keys: Keys,
        timers: Timers,
        now: Callable[[], float],
        *,
        on_let_in: Callable[[], object],
        on_cut: Callable[[], object],
    ) -> None:
        """Open it at `address`; port 0 is any free one.

        Args:
            address: where.
            keys: who is let in, and what proves that it is this door.
            timers: what it is opened again by …
            now: … and their clock.
            on_let_in: called when somebody is about to be let in.
            on_cut: called when all connections have been ended.

        Raises:
            InvalidError: the address cannot be bound.
        """
        self.address = address
        """Where it is, once it is open."""
        self._keys = keys
        self._server = keys.server()
        self._timers, self._now = timers, now
        self._on_let_in, self._on_cut = on_let_in, on_cut
        self._let_in: set[str] = set()
        """The keys that have connected since it was opened."""
        self._poller: zmq.Poller | None = None
        self._open()

    @property
    def has_let_in(self) -> bool:
        """Whether anybody has come since it was opened."""
        return bool(self._let_in)

    def brings_messages(self, source: object) -> bool:
        """Whether `source` is where messages come from; do what it asks for where it is not."""
        if source is self._zap:
            self._answer()
        elif source is self._events:
            self._note_events()
        return source is self._router

    def receive(self) -> tuple[list[Frame], zmq.Frame] | None:
        """Return the frames of the next message, its connection first; None: there is none.

        And the last one as it came, which says by whose key.
        """
        return None if self._router.closed else received(self._router.recv)

    def send(self, message: Sequence[Frame | bytearray]) -> int:
        """Send a message, whose first frame names a connection; see `sockets.attempt`."""
        return attempt(self._send, message)

    def begin_anew(self) -> None:
        """End all connections, and let in those again whose keys are still listed.

        Raises:
            InvalidError: it cannot be opened again.
        """
        self._let_in.clear()
        self.shut()
        self._on_cut()
        self._open()

    def has_let_in_others(self, listed: Container[str]) -> bool:
        """Whether anybody has come whose key is not `listed`."""
        return any(key not in listed for key in self._let_in)

    def _open(self) -> None:
        if not zmq.has("curve"):
            raise InvalidError("setting listen: this libzmq has no CURVE; `pip install pyzmq` has")
        self._context = context = zmq.Context()
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.bind(_ZAP)
        self._router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        router = self._router
        router.curve_server = True
        router.curve_secretkey = self._server.secret.encode()
        router.zap_domain = b"clients"
        router.ipv6 = "[" in self.address
        if self.address.startswith("ipc:"):
            router.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        router.linger = LINGER_MS
        router.sndhwm = HIGH_WATER_MESSAGES
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, _MOST_FRAME_BYTES)
        router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        router.monitor(_MONITOR, _WATCHED)
        self._unproved = self._connections = 0
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._events.rcvhwm = 0  # where libzmq waits for room in it, `disable_monitor` never ends
        self._events.connect(_MONITOR)
        self._send: Callable[..., object] = super(zmq.Socket, router).send
        if self._poller is not None:
            self.register(self._poller)
        try:
            router.bind(self.address)
        except zmq.ZMQError as error:
            self.shut()
            raise InvalidError(
                f"setting listen is {self.address!r}, which cannot be bound: {error.strerror}; "
                "give an address of this machine (as a number) and a port that is free"
            ) from error
        self.address = router.getsockopt_string(zmq.LAST_ENDPOINT)

    def shut(self) -> None:
        """End all connections, after a short while for what is being sent."""
        if self._router.closed:
            return  # it could not be opened again
        sources = (self._router, self._zap, self._events)
        self._router.disable_monitor()
        for source in sources:
            if self._poller is not None:
                self._poller.unregister(source)
            source.close()
        self._context.term()

    def register(self, poller: zmq.Poller) -> None:
        """Have `poller` wait for messages, and for who wants to be let in."""
        self._poller = poller
        for source in (self._router, self._zap, self._events):
            poller.register(source, zmq.POLLIN)

    def _answer(self) -> None:
        """Let in, or not, who dials now: their key is looked up in the list as it is now."""
        while self._zap.poll(0):
            _, request, _, address, _, _, key = self._zap.recv_multipart()[:7]
            public = z85.encode(key).decode()
            role, name = self.role_of(public)
            if not name:
                _log.warning(
                    "a connection from %s is refused: its key, %s, is not listed",
                    address.decode(errors="replace"),
                    public,
                )
                answer = (b"400", b"this key is not listed", b"")
            else:
                _log.info("%s %s connects from %s", role, name, address.decode(errors="replace"))
                self._let_in.add(public)
                self._on_let_in()
                answer = (b"200", b"OK", public.encode())
            self._zap.send_multipart([b"1.0", request, *answer, b""])

    def role_of(self, public: str) -> tuple[Role, str]:
        """Return what a key is listed for, and under which name; an empty one where it is not."""
        try:
            found = self._keys.listed("host").get(public)
            return ("host", found) if found else ("client", self._keys.listed().get(public, ""))
        except ConnectionError as error:
            _log.error("nobody is let in: %s", error)
            return "client", ""

    def _note_events(self) -> None:
        """Write into the log that somebody was not let in, or that a connection has ended.

        Events do not say of which connection they tell: where some are about to prove a key, one of
        these is taken to be the one that ends. The numbers are right in any case.
        """
        while self._events.poll(0):
            (event, _) = struct.unpack("=hi", self._events.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._unproved += 1
                self._connections += 1
                if self._connections == self._most:
                    self._timers.set("flood", self._now(), self._close_for_a_while)
                continue
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._unproved -= 1
                continue
            self._connections -= 1
            if self._unproved > 0:
                self._unproved -= 1
                _log.warning("a connection to %s is refused: it proves no listed key", self.address)
            else:
                _log.info("a connection to %s has ended", self.address)

    def _close_for_a_while(self) -> None:
        """End all connections: so many would take the descriptors that others need."""
        _log.error(
            "%d connections to %s: it is closed for %g s; clients of other machines wait",
            self._connections,
            self.address,
            _CLOSED_SECONDS,
        )
        self.shut()
        self._on_cut()
        self._timers.set("flood", self._now() + _CLOSED_SECONDS, self._open_again)

    def _open_again(self) -> None:
        if self._router.closed:
            try:
                self._open()
            except InvalidError as error:
                _log.error("%s; it is tried again", error)
                self._timers.set("flood", self._now() + _CLOSED_SECONDS, self._open_again)
