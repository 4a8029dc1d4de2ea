"""An ASGI app that does what its path says; it travels to workers as a local module."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import notebook_ext as nb

MIB = 1 << 20
seen: dict[str, Any] = {"cancelled": 0}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    else:
        name = scope["path"].strip("/").replace("-", "_")
        await globals().get(name, _any)(scope, receive, send)


async def _lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["began"] = "with its lifespan"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "echo"})
    while (event := await receive())["type"] == "websocket.receive":
        if event["text"] == "die":
            _die()
        if event["text"] == "bye":
            await send({"type": "websocket.close", "code": 3001})
            return
        await send({"type": "websocket.send", "text": event["text"].upper()})


async def _any(scope: Any, receive: Any, send: Any) -> None:
    query = scope["query_string"].decode()
    text = f"{scope['method']} {scope['path']} {query} {nb.is_local()}"
    await _answer(send, text.encode(), 201)


async def size(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        event = await receive()
        size, more = size + len(event.get("body", b"")), event.get("more_body", False)
    await _answer(send, str(size).encode())


async def large(scope: Any, receive: Any, send: Any) -> None:
    await _answer(send, b"x" * 3 * MIB)


async def boom(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("on purpose")


async def die(scope: Any, receive: Any, send: Any) -> None:
    _die()


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.3)
    await _answer(send, str(os.getpid()).encode())


async def endless(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def state(scope: Any, receive: Any, send: Any) -> None:
    await _answer(send, f"{scope['state']['began']} {seen}".encode())


async def stream_and_die(scope: Any, receive: Any, send: Any) -> None:
    await _begin(send)
    _die()


async def stream_until_left(scope: Any, receive: Any, send: Any) -> None:
    await _begin(send)
    seen["waits"] = True
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise


async def _begin(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for at in range(3):
        body = f"{at}\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await asyncio.sleep(0.05)


async def _answer(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
