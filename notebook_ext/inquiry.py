"""Ask the running broker a question without a session: what the command line and the status do.

A session starts a broker where none runs and lives as long as the process. An inquiry finds one or
does not, asks, and is gone. It makes no calls.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec
import zmq

from kernel_worker import directories, errors, rendezvous
from kernel_worker.wire import messages
from notebook_ext import exception
from notebook_ext.config import afresh

if TYPE_CHECKING:
    from types import TracebackType

    from kernel_worker.far import Far
    from kernel_worker.rendezvous import Connection

LIMIT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_HANGS: Final = (
    "if it hangs, end process {}: the next call starts another one, which knows the spawned calls"
)
_UNREACHABLE: Final = (
    "see there whether it runs (`notebook-ext broker status`), and whether a firewall lets its "
    "port be reached from here"
)


class Inquiry:
    """A short connection to a broker that runs; a context manager."""

    def __init__(self, connection: Connection, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Dial `connection`; every wait ends after `limit_seconds`."""
        self._limit = limit_seconds
        self._requests = 0
        self._context = zmq.Context()
        self._far: Far | None = None
        self._whose, self._remedy = "the broker", _HANGS.format(connection.pid)
        peer = f"cl-{secrets.token_hex(8)}"
        hello = messages.Hello("client", peer, pid=os.getpid(), machine=rendezvous.machine_id())
        if connection.keys is not None:
            from kernel_worker.far import Far  # noqa: PLC0415  only where there is one

            self._far = Far(self._context, connection, hello)
            self._whose, self._remedy = f"the broker at {connection.address}", _UNREACHABLE
            return
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.ROUTING_ID, peer.encode())
        self._socket.connect(connection.address)
        self._send(hello)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say goodbye."""
        self._send(messages.Bye())
        if self._far is not None:
            self._far.close(200)
        self._context.destroy(linger=200)

    def status(self) -> messages.Status:
        """Return how the broker stands.

        Raises:
            ConnectionError: It did not answer in time.
        """
        found = msgspec.msgpack.decode(self._ask("status"), type=messages.Status)
        return msgspec.structs.replace(found, clients=found.clients - 1)  # this one is not meant

    def calls(self, wanted: messages.CallFilter) -> list[messages.CallInfo]:
        """Return the recent calls, newest first.

        Raises:
            ConnectionError: It did not answer in time.
        """
        body = self._ask("calls", wanted)
        return msgspec.msgpack.decode(body, type=list[messages.CallInfo])

    def deployments(self, app: str) -> list[messages.DeploymentInfo]:
        """Return all versions of `app`, or what is deployed now; newest first.

        Raises:
            NotFoundError: `app` was never deployed.
        """
        body = self._ask("deployments", subject=app)
        return msgspec.msgpack.decode(body, type=list[messages.DeploymentInfo])

    def stop_app(self, app: str) -> messages.DeploymentInfo:
        """End the deployment of `app`; return which version was in force.

        Raises:
            NotFoundError: it is not deployed.
        """
        body = self._ask("stop_app", subject=app)
        return msgspec.msgpack.decode(body, type=messages.DeploymentInfo)

    def take_console(self, subject: str) -> messages.ConsoleInfo:
        """Take the console of a worker or a call, or (empty) of the call that failed last.

        Raises:
            NotFoundError: there is none.
            InvalidError: somebody else has it.
        """
        body = self._ask("console", subject=subject)
        return msgspec.msgpack.decode(body, type=messages.ConsoleInfo)

    def say(self, message: messages.ConsoleLine | messages.ConsoleRefused) -> None:
        """Say something that has no reply."""
        self._send(message)

    def hear(self, seconds: float) -> tuple[messages.Message, list[bytes]] | None:
        """Return a message and its frames, or None where none comes in time."""
        if self._far is not None:
            heard = self._far.wait(seconds)
        else:
            is_there = self._socket.poll(max(0, round(1000 * seconds)))
            heard = self._socket.recv_multipart() if is_there else None
        return None if heard is None else (messages.decode_at_client(heard[0]), heard[1:])

    def attach(self, subject: str) -> messages.AttachedKernel:
        """Have the worker `subject`, or one that runs that call, be a Jupyter kernel.

        Raises:
            NotFoundError: there is no such worker, or nothing of the call runs.
        """
        body = self._ask("attach", subject=subject)
        return msgspec.msgpack.decode(body, type=messages.AttachedKernel)

    def check_keys(self) -> int:
        """Have the broker end the connections of revoked keys; return how many it ended.

        Raises:
            ConnectionError: It did not answer in time.
        """
        return msgspec.msgpack.decode(self._ask("keys"), type=int)

    def open_door(self) -> str:
        """Have the broker let in those with keys; return where.

        Raises:
            ConnectionError: It did not answer in time.
        """
        return msgspec.msgpack.decode(self._ask("door"), type=str)

    def stop(self) -> None:
        """Ask the broker to end; returns when it has been told."""
        self._requests += 1
        self._send(messages.Ask(self._requests, "stop"))

    def _ask(
        self,
        what: Literal[
            "status", "calls", "deployments", "stop_app", "attach", "console", "keys", "door"
        ],
        wanted: messages.CallFilter | None = None,
        *,
        subject: str = "",
    ) -> msgspec.Raw:
        self._requests += 1
        self._send(messages.Ask(self._requests, what, subject, wanted))
        deadline = time.monotonic() + self._limit
        while time.monotonic() < deadline:
            heard = self.hear(deadline - time.monotonic())
            match None if heard is None else heard[0]:
                case messages.Reply(request=self._requests, body=body, error=""):
                    return body
                case messages.Reply(error=name, body=body) if name:
                    raise exception.named(name)(msgspec.msgpack.decode(body))
                case messages.Refused(reason=reason):
                    raise errors.ConnectionError(f"the broker refused: {reason}")
                case _:
                    pass
        message = f"{self._whose} did not answer within {self._limit:g} s; {self._remedy}"
        raise errors.ConnectionError(message)

    def _send(self, message: messages.Message) -> None:
        if self._far is not None:
            self._far.send([messages.encode(message)])
        else:
            self._socket.send(messages.encode(message))


def find() -> Connection | None:
    """Return the broker of the settings in force, or None if none runs.

    One on another machine is not dialled for that.
    """
    configured = afresh()
    if configured.connection_file is not None:
        return rendezvous.elsewhere(configured.connection_file)
    return rendezvous.find(configured)


def find_here() -> Connection | None:
    """Return the broker of this machine, or None if none runs; whichever one calls go to."""
    return rendezvous.find(afresh())


def status() -> messages.Status | None:
    """Return how the broker stands, or None if none runs; starts none.

    Raises:
        ConnectionError: It runs and did not answer in time.
    """
    connection = find()
    if connection is None:
        return None
    with Inquiry(connection) as inquiry:
        return inquiry.status()


def calls(wanted: messages.CallFilter) -> list[messages.CallInfo] | None:
    """Return the recent calls, newest first, or None where nobody has made any.

    A broker that has left by itself is started again where it left a journal: that knows them.

    Raises:
        ConnectionError: It runs and did not answer in time.
    """
    connection = _with_memory()
    if connection is None:
        return None
    with Inquiry(connection) as inquiry:
        return inquiry.calls(wanted)


def deployments(app: str) -> list[messages.DeploymentInfo]:
    """Return all versions of `app`, or what is deployed now; newest first.

    Raises:
        NotFoundError: `app` was never deployed.
        ConnectionError: The broker did not answer in time.
    """
    connection = _with_memory()
    if connection is None:
        return []
    with Inquiry(connection) as inquiry:
        return inquiry.deployments(app)


def stop_app(app: str) -> messages.DeploymentInfo:
    """End the deployment of `app`; return which version was in force.

    Raises:
        NotFoundError: It is not deployed.
        ConnectionError: The broker did not answer in time.
    """
    connection = _with_memory()
    if connection is None:
        message = f"no app {app!r} is deployed"
        raise errors.NotFoundError(message)
    with Inquiry(connection) as inquiry:
        return inquiry.stop_app(app)


def _with_memory() -> Connection | None:
    """Return the broker that runs, or one that is started to read what an earlier one has left."""
    connection = find()
    if connection is None:
        configured = directories.on_this_machine(afresh())
        with directories.refusing(configured.data_dir, directories.DATA):
            if not rendezvous.journal_path(configured).exists():
                return None
        connection = rendezvous.find_or_start(configured)
    return connection


def stop(limit_seconds: float = 15.0) -> int | None:
    """End this machine's broker and wait until it is gone; return its pid, or None if none ran.

    Where it was killed, nobody listens on a network because it did, from then on.

    Raises:
        ConnectionError: It was still there after `limit_seconds`.
    """
    connection = find_here()
    if connection is None:
        rendezvous.forget_killed(afresh())
        return None
    with Inquiry(connection) as inquiry:
        inquiry.stop()
        deadline = time.monotonic() + limit_seconds
        while _is_there(connection):
            if time.monotonic() > deadline:
                message = f"the broker (pid {connection.pid}) is still there"
                raise errors.ConnectionError(message)
            time.sleep(_POLL_SECONDS)
    return connection.pid


def _is_there(connection: Connection) -> bool:
    found = find_here()
    if found is not None and found.incarnation == connection.incarnation:
        return True
    return connection.machine == rendezvous.machine_id() and _lives(connection.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether only the entry of a process is left, that its parent has not yet collected."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
