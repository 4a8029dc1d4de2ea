"""The far end: `notebook-ext broker tunnel`, which ssh starts beside a broker.

It is asked in one line on stdin, and answers in one on stdout. From then on it passes connections
on, until stdin ends: whoever asked has gone, or the network between.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker import directories, rendezvous
from kernel_worker.errors import Error, NotFoundError, VersionError
from kernel_worker.keys import Keys, Role
from kernel_worker.model import PROTOCOL_MAJOR
from notebook_ext import inquiry
from notebook_ext.config import afresh
from notebook_ext.ssh import passing
from notebook_ext.ssh.target import MARK

if TYPE_CHECKING:
    from kernel_worker.rendezvous import Connection

_MOST_BYTES: Final = 4096
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Request(msgspec.Struct):
    """What a keeper asks for."""

    protocol: int
    version: str
    """Of notebook-ext, for people."""
    name: str
    """Under which the key is listed."""
    public: str
    role: Role
    socket: str
    """The path where connections come in."""


class Answer(msgspec.Struct):
    """What it is told."""

    error: str = ""
    """The name of an error of ours, and …"""
    message: str = ""
    """… what it says."""
    server: str = ""
    payload: str = ""
    python: str = ""
    """The version of the interpreter there, for people."""


def serve() -> int:
    """Be the far end; return the exit status."""
    try:
        asked = msgspec.json.decode(sys.stdin.buffer.readline(_MOST_BYTES), type=Request)
    except msgspec.DecodeError:
        _say(Answer("VersionError", "what was asked is not understood"))
        return 1
    for number in _ENDS:
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        _serve(asked)
    except Error as error:
        _say(Answer(type(error).__name__, str(error)))
        return 1
    except OSError as error:
        _say(Answer("ConnectionError", f"{asked.socket}: {error.strerror}"))
        return 1
    return 0


def _serve(asked: Request) -> None:
    if asked.protocol != PROTOCOL_MAJOR:
        here = version("notebook-ext")
        raise VersionError(
            f"notebook-ext is {here} there (protocol {PROTOCOL_MAJOR}) and {asked.version} here "
            f"(protocol {asked.protocol}); install the same on both machines"
        )
    running = _found()
    keys = Keys(rendezvous.prepare_journal(directories.on_this_machine(afresh())).parent)
    with contextlib.ExitStack() as stack:
        server, payload = keys.admit(asked.name, asked.public, asked.role)
        stack.callback(_withdraw, keys, asked.name)

        def place(is_bulk: bool) -> str:  # noqa: FBT001  as it is asked
            return f"ipc://{rendezvous.bulk_path(running.address)}" if is_bulk else running.door

        way = passing.Passing(asked.socket, place)
        stack.callback(way.close)
        _say(Answer(server=server, payload=payload, python=platform.python_version()))
        while _broker_ended(running):
            running = _found()


def _found() -> Connection:
    """Return the broker of this machine, which is started where there is none, with its door."""
    running = rendezvous.find_or_start(afresh())
    with inquiry.Inquiry(running) as asking:
        return msgspec.structs.replace(running, door=asking.open_door())


def _broker_ended(running: Connection) -> bool:
    """Wait; return False once whoever asked has gone, True once the broker has ended."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    try:
        broker = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return True
    poller.register(broker, select.POLLIN)
    try:
        while True:
            ready = dict(poller.poll())
            if 0 in ready and not os.read(0, _MOST_BYTES):
                return False
            if broker in ready:
                return True
    finally:
        os.close(broker)


def _withdraw(keys: Keys, name: str) -> None:
    with contextlib.suppress(NotFoundError):  # somebody has revoked it
        keys.revoke(name)


def _say(answer: Answer) -> None:
    line = MARK.encode() + msgspec.json.encode(answer) + b"\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line)
