"""What a host agent and the processes below it say to each other.

Each message is one datagram on a unix seqpacket socket: msgpack of one struct below, with open
files beside it (`SCM_RIGHTS`) where a docstring lists some. A datagram is small (see
`MAX_DATAGRAM_BYTES`); whatever may be large travels as an anonymous file (`memfd`).

    agent -> template   ForkTemplate, Load, ForkWorker
    template -> agent   Forked, Loaded, Unsafe, LoadFailed, Exited
    agent -> worker     Stop, TakeBack, Interrupt, Attach, ConsoleInput, Rejoin

Guaranteed: messages arrive whole and in order; end of file means that the other side is gone.
Not guaranteed: that a worker is still where the agent saw it when it gets an `Interrupt`: it
compares.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import Literal, TypeVar, dataclass_transform

import msgspec

from kernel_worker.model import FunctionSpec, LeaseId, WorkerId

T = TypeVar("T")

MAX_DATAGRAM_BYTES = 128 * 1024
_MAX_FILES = 16


@dataclass_transform(frozen_default=True)
class _Local(msgspec.Struct, frozen=True, array_like=True):
    """What all of these are."""


class ForkTemplate(_Local, tag="fork_template"):
    """Fork a template. File: the socket that it serves."""

    request: int


class Load(_Local, tag="load"):
    """Become what workers need.

    Files: the environment, the code, an instance's parameters and its first snapshot, where there
    are any.
    """

    imports: tuple[str, ...] = ()
    has_environment: bool = False
    has_code: bool = False
    has_instance: bool = False
    makes_instance: bool = False
    """Make the instance and run its `enter(snap=True)` hooks: those forked later share it."""
    seals: bool = False
    """Its function came sealed: what its code writes is in no log."""


class ForkWorker(_Local, tag="fork_worker"):
    """Fork a worker.

    Files: the progress page, the read and write ends of its stdout pipe, those of its stderr pipe,
    its control socket; `locks` files that it has as long as it lives; then what `load` says.
    """

    request: int
    worker: WorkerId
    spec: FunctionSpec
    address: str
    """Of the broker."""
    connection_file: str
    machine: str
    devices: tuple[int, ...] = ()
    load: Load | None = None
    """The worker loads the function itself; None: its template did."""
    seals: bool = False
    """Its function came sealed: so goes what is said of it."""
    locks: int = 0
    """How many of the files lock its devices."""


class Forked(_Local, tag="forked"):
    """The process exists."""

    request: int
    pid: int


class Loaded(_Local, tag="loaded"):
    """The template is ready to fork workers."""


class Unsafe(_Local, tag="unsafe"):
    """It is loaded, but a fork of it would be broken."""

    reason: str


class LoadFailed(_Local, tag="load_failed"):
    """Loading raised. File: the captured exception."""

    message: str
    lack: str
    """As of a `VersionError`; empty where something else was raised."""


class Exited(_Local, tag="exited"):
    """A child of the template ended, with its process group, and is reaped."""

    pid: int
    status: int
    """As of `waitpid`."""


class Stop(_Local, tag="stop"):
    """End, cleanly, once idle."""


class TakeBack(_Local, tag="take_back"):
    """Give back what was not started of `lease`."""

    lease: LeaseId


class Interrupt(_Local, tag="interrupt"):
    """Raise in that very attempt: a cancellation or a timeout."""

    lease: LeaseId
    index: int
    kind: Literal["cancel", "timeout"]


class Attach(_Local, tag="attach"):
    """Become a Jupyter kernel too, beside what runs; the broker is told where it listens."""


class Rejoin(_Local, tag="rejoin"):
    """The broker is gone: dial the next one, and repeat what this one may not have kept."""

    number: int
    """How many brokers are gone that this worker knew: what the page says (`page.GONE`)."""


class ConsoleInput(_Local, tag="console_input"):
    """For the console in the worker; see `messages.ConsoleInput`."""

    what: str
    text: str = ""


ToTemplate = ForkTemplate | Load | ForkWorker
FromTemplate = Forked | Loaded | Unsafe | LoadFailed | Exited
ToWorker = Stop | TakeBack | Interrupt | Attach | ConsoleInput | Rejoin

_encoder = msgspec.msgpack.Encoder()
to_template: msgspec.msgpack.Decoder[ToTemplate] = msgspec.msgpack.Decoder(ToTemplate)
from_template: msgspec.msgpack.Decoder[FromTemplate] = msgspec.msgpack.Decoder(FromTemplate)
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: ToTemplate | FromTemplate | ToWorker, *files: int) -> None:
    """Send one message with open files beside it.

    Raises:
        OSError: the other side is gone.
    """
    rights = array.array("i", files)
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if files else []
    end.sendmsg([_encoder.encode(message)], beside, socket.MSG_NOSIGNAL)


def receive(
    end: socket.socket, decoder: msgspec.msgpack.Decoder[T], flags: int = 0
) -> tuple[T, list[int]] | None:
    """Return one message and the files that came beside it, close-on-exec; None at end of file.

    One who hangs up with something of ours unread resets the connection. That is told once, before
    what that one had still said; it is no error, but the end of file is near.

    Raises:
        OSError: the connection broke, or `flags` say not to wait and there is none.
    """
    space = socket.CMSG_SPACE(_MAX_FILES * 4)
    flags |= socket.MSG_CMSG_CLOEXEC
    try:
        data, beside, _, _ = end.recvmsg(MAX_DATAGRAM_BYTES, space, flags)
    except ConnectionResetError:
        data, beside, _, _ = end.recvmsg(MAX_DATAGRAM_BYTES, space, flags)
    files = array.array("i")
    for _, _, rights in beside:
        files.frombytes(rights[: len(rights) - len(rights) % files.itemsize])
    if not data:
        return None
    return decoder.decode(data), files.tolist()


def anonymous_file(content: bytes, name: str) -> int:
    """Return an open anonymous file with this content."""
    file = os.memfd_create(f"notebook-ext-{name}", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(content)
    return file


def content_of(file: int) -> bytes:
    """Return all of an anonymous file, wherever its position stands."""
    size = os.fstat(file).st_size
    return os.pread(file, size, 0) if size else b""


def close_all(files: list[int]) -> None:
    """Close open files that came beside a message."""
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
