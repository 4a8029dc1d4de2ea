"""`@web_server`: an ASGI app that forwards what it is asked to a server that the user started.

HTTP by h11, with a connection for each request, so that none is ever given to one that has just
been closed; websockets by the library of that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Final

import h11

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Event = dict[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]

HOST: Final = "127.0.0.1"
_READ_BYTES: Final = 1 << 16
_LOOK_SECONDS: Final = 0.02
_OF_ONE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that are not forwarded. Source: RFC 9110, section 7.6.1."""


async def started(port: int, limit_seconds: float, start: Callable[[], Any]) -> Forwarding:
    """Have `start` start the server, and return the app that forwards to it.

    Raises:
        TimeoutError: it does not listen within `limit_seconds`, or another server does.
    """
    if not await _until(port, limit_seconds, is_open=False):
        raise TimeoutError(f"port {port} is taken by another process for {limit_seconds:g} s now")
    made = start()
    if inspect.isawaitable(made):
        await made
    if not await _until(port, limit_seconds, is_open=True):
        raise TimeoutError(
            f"nothing listens at port {port} of {HOST} {limit_seconds:g} s after the function was "
            "called; see startup_timeout="
        )
    return Forwarding(port)


async def _until(port: int, limit_seconds: float, *, is_open: bool) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_seconds
    while await _is_open(port) != is_open:
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


class Forwarding:
    """The app; it has no lifespan."""

    def __init__(self, port: int) -> None:
        """Forward to `port`."""
        self._port = port

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise NotImplementedError(scope["type"])

    async def _http(self, scope: Event, receive: Receive, send: Send) -> None:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
        except OSError:
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": b"the server does not listen\n"})
            return
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=scope["method"], target=_target(scope), headers=_request_headers(scope)
        )
        writer.write(connection.send(request) or b"")
        upload = asyncio.get_running_loop().create_task(_upload(connection, writer, receive))
        try:
            await _answer(connection, reader, send)
        finally:
            upload.cancel()
            writer.close()

    async def _websocket(self, scope: Event, receive: Receive, send: Send) -> None:
        from websockets.asyncio.client import connect  # noqa: PLC0415  where one comes
        from websockets.exceptions import ConnectionClosed, InvalidHandshake  # noqa: PLC0415

        await receive()  # websocket.connect
        uri = f"ws://{HOST}:{self._port}{_target(scope).decode('latin-1')}"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in _OF_ONE_CONNECTION and not name.startswith((b"sec-websocket", b"host"))
        ]
        try:
            server = await connect(
                uri,
                additional_headers=headers,
                subprotocols=scope.get("subprotocols") or None,
                max_size=None,
                proxy=None,
                user_agent_header=None,
            )
        except (OSError, InvalidHandshake):
            await send({"type": "websocket.close", "code": 1011})
            return
        async with server:
            await send({"type": "websocket.accept", "subprotocol": server.subprotocol})
            back = asyncio.get_running_loop().create_task(_back(server, send))
            try:
                while (event := await receive())["type"] == "websocket.receive":
                    text = event.get("text")
                    await server.send(text if text is not None else event["bytes"])
            except ConnectionClosed:
                pass
            else:
                await server.close(event.get("code") or 1000)
            finally:
                with contextlib.suppress(OSError):
                    await back


async def _back(server: Any, send: Send) -> None:
    """Send what the server says to the client, and that it has closed."""
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  as above

    with contextlib.suppress(ConnectionClosed):
        async for said in server:
            kind = "text" if isinstance(said, str) else "bytes"
            await send({"type": "websocket.send", kind: said})
    code = server.close_code or 1000
    await send({"type": "websocket.close", "code": 1011 if code == 1006 else code})  # noqa: PLR2004  it broke


async def _upload(
    connection: h11.Connection, writer: asyncio.StreamWriter, receive: Receive
) -> None:
    """Send the request's body as it comes; where the client leaves, the connection ends."""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            writer.close()
            return
        if body := event.get("body", b""):
            writer.write(connection.send(h11.Data(data=body)) or b"")
            await writer.drain()
        if not event.get("more_body", False):
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            return


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, send: Send) -> None:
    has_begun = False
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            has_begun = True
            headers = [
                (bytes(name), bytes(value))
                for name, value in event.headers
                if name not in _OF_ONE_CONNECTION
            ]
            status = event.status_code
            await send({"type": "http.response.start", "status": status, "headers": headers})
        elif isinstance(event, h11.Data):
            data = bytes(event.data)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        elif isinstance(event, h11.EndOfMessage):
            await send({"type": "http.response.body", "body": b""})
            return
        elif isinstance(event, h11.ConnectionClosed):
            if not has_begun:
                await send({"type": "http.response.start", "status": 502, "headers": []})
                await send({"type": "http.response.body", "body": b"the server hung up\n"})
            return


def _target(scope: Event) -> bytes:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _request_headers(scope: Event) -> list[tuple[bytes, bytes]]:
    found = [(n, v) for n, v in scope["headers"] if n not in _OF_ONE_CONNECTION]
    names = {name for name, _ in found}
    if b"host" not in names:
        found.append((b"host", HOST.encode()))
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        found.append((b"transfer-encoding", b"chunked"))
    found.append((b"connection", b"close"))
    return found
