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
_NEVER_SENT: Final = frozenset({1005, 1006, 1015})
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
            await _Answer(send).refuse("the server does not listen")
            return
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=scope["method"], target=_target(scope), headers=_request_headers(scope)
        )
        writer.write(connection.send(request) or b"")
        upload = asyncio.get_running_loop().create_task(_upload(connection, writer, receive))
        answer = _Answer(send)
        try:
            await answer.read(connection, reader)
        except (OSError, h11.RemoteProtocolError) as error:
            if answer.has_begun:
                raise
            await answer.refuse(f"the server gave no answer: {error}")
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
            for name, value in _forwarded(scope["headers"])
            if not name.startswith((b"sec-websocket", b"host"))
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
                await server.close(_code(event.get("code")))
            except ConnectionClosed:
                pass
            except BaseException:
                back.cancel()
                raise
            with contextlib.suppress(OSError):
                await back


async def _back(server: Any, send: Send) -> None:
    """Send what the server says to the client, and that it has closed."""
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  as above
    from websockets.frames import CloseCode  # noqa: PLC0415  likewise

    with contextlib.suppress(ConnectionClosed):
        async for said in server:
            kind = "text" if isinstance(said, str) else "bytes"
            await send({"type": "websocket.send", kind: said})
    code = 1011 if server.close_code == CloseCode.ABNORMAL_CLOSURE else _code(server.close_code)
    await send({"type": "websocket.close", "code": code, "reason": server.close_reason or ""})


def _code(code: int | None) -> int:
    """Return the code to close with on one side, where it was `code` on the other.

    Some are never sent: they say that there was none, or no end. Source: RFC 6455, section 7.4.1.
    """
    return code if code is not None and code not in _NEVER_SENT else 1000


async def _upload(
    connection: h11.Connection, writer: asyncio.StreamWriter, receive: Receive
) -> None:
    """Send the request's body as it comes; where the client leaves, the connection ends."""
    with contextlib.suppress(OSError, h11.LocalProtocolError):  # the answer has come already
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


class _Answer:
    """What the server answers, on its way to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def read(self, connection: h11.Connection, reader: asyncio.StreamReader) -> None:
        """Hand it on to its end.

        Raises:
            OSError, h11.RemoteProtocolError: the server hung up, or speaks otherwise.
        """
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                await self._start(event.status_code, _forwarded(headers))
            elif isinstance(event, h11.Data):
                data = bytes(event.data)
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                await self._send({"type": "http.response.body", "body": b""})
                return

    async def refuse(self, text: str) -> None:
        """Answer in the place of the server."""
        await self._start(502, [(b"content-type", b"text/plain; charset=utf-8")])
        await self._send({"type": "http.response.body", "body": f"{text}\n".encode()})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _target(scope: Event) -> bytes:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _forwarded(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without those of one connection: known ones, and which `connection` names."""
    named = [value for name, value in headers if name == b"connection"]
    listed = {each.strip().lower() for value in named for each in value.split(b",")}
    return [(n, v) for n, v in headers if n not in _OF_ONE_CONNECTION and n not in listed]


def _request_headers(scope: Event) -> list[tuple[bytes, bytes]]:
    headers = _forwarded(scope["headers"])
    if all(name != b"host" for name, _ in headers):
        headers.append((b"host", HOST.encode()))
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers = [(n, v) for n, v in headers if n != b"content-length"]  # only one may say it
        headers.append((b"transfer-encoding", b"chunked"))
    headers.append((b"connection", b"close"))
    return headers
