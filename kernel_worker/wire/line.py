"""What a client and a worker that is lent to it say to each other on the line between them.

A line is a unix seqpacket socket in the abstract namespace: it leaves no file, and either end looks
at whose process the other one is. The worker dials, and names the call whose lease is the loan.
Then requests and answers take turns, each one datagram: an index and the frames of a batch of one.
An answer without frames says that the outcome comes by the broker: it is no value, or a large one,
or comes after output.

Guaranteed: end of file means that the worker has gone, or reads no more; a request that is not
answered then is accounted for by the broker (`messages.LineEnded`).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

import msgspec

from kernel_worker.errors import ProtocolError
from kernel_worker.model import CallId

MAX_BYTES: Final = 64 * 1024
"""A datagram is no larger; what is goes by the broker."""
MOST_FRAME_BYTES: Final = MAX_BYTES - 1024
"""What the frames of a turn may have together."""
_MOST_NAME = 256
_CREDENTIALS = struct.Struct("3i")
_INTERVAL = struct.Struct("ll")


class Turn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request, or its answer."""

    index: int
    frames: tuple[bytes, ...]


encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Turn)


def decode(data: bytes) -> Turn:
    """Return what a datagram says, or raise `ProtocolError`."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        message = f"no turn of a line ({len(data)} bytes): {error}"
        raise ProtocolError(message) from error


def listen(name: str) -> socket.socket:
    """Return a socket on which workers may dial `name`; it does not block."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.bind(f"\0{name}")
    end.listen()
    end.setblocking(False)
    return end


def dial(name: str, call: str) -> socket.socket | None:
    """Return a line to the client that listens as `name`, or None where there is none."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.setblocking(False)  # a listener whose queue is full has no time for us
        end.connect(f"\0{name}")
        end.setblocking(True)
        if is_ours(end):
            end.send(call.encode())
            return end
    except OSError:
        pass
    end.close()
    return None


def caller_of(end: socket.socket) -> CallId:
    """Return the call that whoever has dialled names, or none: it is no worker of this user."""
    try:
        return CallId(end.recv(_MOST_NAME).decode()) if is_ours(end) else CallId("")
    except (OSError, UnicodeDecodeError):
        return CallId("")


def limit_waits(end: socket.socket, seconds: float) -> None:
    """Let a blocking `recv` raise `BlockingIOError` where nothing has come for so long.

    By the kernel: a timeout of Python's would ask for readiness before each one.
    """
    whole = int(seconds)
    interval = _INTERVAL.pack(whole, int((seconds - whole) * 1_000_000))
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)


def is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    there = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(there)
    return bool(user == os.geteuid())
