"""What goes to a server of the user's own, and comes from it, whatever that says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from notebook_ext.web import forwarding
from notebook_ext.web.forwarding import Forwarding

Event = dict[str, Any]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def scope(*headers: tuple[bytes, bytes]) -> Event:
    return {
        "type": "http",
        "method": "POST",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"b=c",
        "headers": list(headers),
    }


async def asked(handler: Handler, asks: Event, *bodies: bytes) -> list[Event]:
    """Return what a client gets that asks a server with this handler."""
    server = await asyncio.start_server(handler, forwarding.HOST, 0)
    got: list[Event] = []
    events = [
        {"type": "http.request", "body": body, "more_body": at < len(bodies) - 1}
        for at, body in enumerate(bodies)
    ]

    async def receive() -> Event:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: Event) -> None:
        got.append(event)

    try:
        await Forwarding(server.sockets[0].getsockname()[1])(asks, receive, send)
    finally:
        server.close()
    return got


def saying(text: bytes, *, reads: bool = True) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        writer.close()

    return handler


def test_headers_of_the_connection_stay_on_it_and_one_says_how_long_a_body_is() -> None:
    said: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-B: 2\r\n\r\nok"
        )
        await writer.drain()
        writer.close()

    headers = [
        (b"host", b"h"),
        (b"connection", b"keep-alive, X-Hop"),
        (b"x-hop", b"1"),
        (b"x-a", b"2"),
        (b"content-length", b"3"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
    ]
    begun, *bodies = asyncio.run(asked(handler, scope(*headers), b"abc"))
    first, _, rest = said[0].partition(b"\r\n")
    assert first == b"POST /a?b=c HTTP/1.1"
    sent = {
        line.partition(b":")[0].lower() for line in rest.partition(b"\r\n\r\n")[0].split(b"\r\n")
    }
    assert sent == {b"host", b"x-a", b"transfer-encoding", b"connection"}
    assert begun["headers"] == [(b"x-b", b"2")]
    assert b"".join(each["body"] for each in bodies) == b"ok"


@pytest.mark.parametrize("text", [b"", b"\0no http\r\n\r\n", b"HTTP/1.1 200"])
def test_a_server_that_gives_no_answer_is_a_502(text: bytes) -> None:
    begun, body = asyncio.run(asked(saying(text), scope((b"content-length", b"0")), b""))
    assert begun["status"] == 502
    assert b"no answer" in body["body"]


def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    with pytest.raises(Exception, match="closed connection"):
        asyncio.run(asked(saying(text), scope((b"content-length", b"0")), b""))


def test_an_answer_that_comes_before_all_was_sent_is_handed_on() -> None:
    text = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    pieces = [b"x" * 100_000] * 20
    headers = scope((b"content-length", str(sum(map(len, pieces))).encode()))
    begun, *_ = asyncio.run(asked(saying(text), headers, *pieces))
    assert begun["status"] in {413, 502}, "its connection may be reset before that is read"


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 3000, None])
def test_a_websocket_ends_on_both_sides_however_the_client_closes_it(code: int | None) -> None:
    closed: list[int | None] = []

    async def run() -> list[Event]:
        async def echo(socket: Any) -> None:
            with contextlib.suppress(ConnectionClosed):
                async for word in socket:
                    await socket.send(word)
            closed.append(socket.close_code)

        got: list[Event] = []
        events: asyncio.Queue[Event] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        events.put_nowait({"type": "websocket.receive", "text": "word"})

        async def send(event: Event) -> None:
            got.append(event)
            if event["type"] == "websocket.send":
                events.put_nowait({"type": "websocket.disconnect", "code": code})

        async with serve(echo, forwarding.HOST, 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            asks = {**scope(), "type": "websocket"}
            await asyncio.wait_for(Forwarding(port)(asks, events.get, send), 10)
        return got

    kinds = [each["type"].partition(".")[2] for each in asyncio.run(run())]
    assert kinds == ["accept", "send", "close"]
    assert closed == [1000 if code in {None, 1005, 1006} else code]


def test_a_websocket_that_is_cancelled_is_over_at_once() -> None:
    async def run() -> None:
        is_there = asyncio.Event()

        async def wait(socket: Any) -> None:
            is_there.set()
            await socket.wait_closed()

        events = iter([{"type": "websocket.connect"}])

        async def receive() -> Event:
            for event in events:
                return event
            await asyncio.Event().wait()
            raise AssertionError

        async def send(event: Event) -> None:
            pass

        async with serve(wait, forwarding.HOST, 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            asks = {**scope(), "type": "websocket"}
            task = asyncio.ensure_future(Forwarding(port)(asks, receive, send))
            await is_there.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)

    asyncio.run(run())
