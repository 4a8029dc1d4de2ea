"""The stream between a slot in a worker and the gateway: frames of msgpack on a unix socket.

The socket lies in the abstract namespace, so that it leaves no file; either end asks the kernel
whose process the other one is. A frame is four bytes of length and a list, which begins with what
it is:

    SLOT id                  worker: this is the input that serves slot `id`
    REQUEST scope event      gateway: a connection of ASGI begins, with its first event
    EVENT event              either: an event for the app (`receive`), or from it (`send`)
    GONE                     gateway: the client has left
    DONE                     worker: the app has returned; the slot is free
    FAILED                   worker: the app has raised; the slot is free
    ASK what body            another process of this user: see `deployed`
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kernel_worker.wire.line import is_ours

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLOT: Final = 0
REQUEST: Final = 1
EVENT: Final = 2
GONE: Final = 3
DONE: Final = 4
FAILED: Final = 5
ASK: Final = 6
_LENGTH: Final = struct.Struct("!I")
_AT_ONCE_BYTES: Final = 1 << 16
_LIMIT_BYTES: Final = 1 << 20
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def pack(message: list[Any]) -> bytes:
    """Return a message as a frame."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Stream:
    """One end of it, in a loop of asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak by these."""
        self._reader = reader
        self._writer = writer
        self._parts: list[bytes] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be said any more."""
        return self._writer.is_closing()

    def post(self, message: list[Any]) -> None:
        """Say something; what is said in one turn of the loop goes out together."""
        frame = pack(message)
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(frame)
        self._size += len(frame)
        if self._size > _AT_ONCE_BYTES:
            self._flush()

    async def drain(self) -> None:
        """Wait until the other end takes more.

        Raises:
            OSError: it has gone.
        """
        await self._writer.drain()

    async def read(self) -> list[Any] | None:
        """Return the next message; None where the other end has gone, or speaks otherwise."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            found = _decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            return None
        return found if isinstance(found, list) and found else None

    def close(self) -> None:
        """Say no more."""
        self._flush()
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    def _flush(self) -> None:
        if self._parts and not self._writer.is_closing():
            self._writer.write(b"".join(self._parts) if len(self._parts) > 1 else self._parts[0])
        self._parts.clear()
        self._size = 0


async def dial(name: str) -> Stream | None:
    """Return a stream to the gateway that listens as `name`, or None where there is none."""
    try:
        reader, writer = await asyncio.open_unix_connection(f"\0{name}", limit=_LIMIT_BYTES)
    except OSError:
        return None
    return _checked(reader, writer)


async def listen(name: str, met: Callable[[Stream], Awaitable[None]]) -> asyncio.Server:
    """Let processes of this user dial `name`; `met` is called with each, in a task of its own."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = _checked(reader, writer)
        if stream is not None:
            await met(stream)

    return await asyncio.start_unix_server(meet, f"\0{name}", limit=_LIMIT_BYTES, backlog=1024)


def ask(name: str, what: str, body: Any, limit_seconds: float) -> Any:
    """Ask the gateway that listens as `name`, in this thread; return what it answers.

    Raises:
        OSError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(limit_seconds)
        end.connect(f"\0{name}")
        if not is_ours(end):
            raise ConnectionRefusedError("another user's process listens there")
        end.sendall(pack([ASK, what, body]))
        with end.makefile("rb") as file:
            (length,) = _LENGTH.unpack(_exactly(file.read(_LENGTH.size), _LENGTH.size))
            return _decode(_exactly(file.read(length), length))


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ConnectionResetError("it hung up")
    return data


def _checked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream | None:
    """Return a stream; None where the other end is another user's."""
    if is_ours(writer.get_extra_info("socket")):
        return Stream(reader, writer)
    writer.close()
    return None
