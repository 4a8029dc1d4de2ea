"""WSGI apps whose clients leave: no thread waits for ever, and what they opened is closed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from notebook_ext.web import wsgi

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "http_version": "1.1",
    "headers": [],
}


class Client:
    """Who asks, and what they have got."""

    def __init__(self, *bodies: bytes) -> None:
        self.got: list[dict[str, Any]] = []
        self.has_some = asyncio.Event()
        self._bodies = list(bodies)

    async def receive(self) -> dict[str, Any]:
        body = self._bodies.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._bodies)}

    async def send(self, event: dict[str, Any]) -> None:
        self.got.append(event)
        self.has_some.set()


def test_an_app_is_asked_and_answers() -> None:
    def app(environ: Any, start: Any) -> Any:
        start("201 Created", [("X-A", "b")])
        return [environ["wsgi.input"].read(), b"!"]

    async def run() -> Any:
        client = Client(b"a", b"b")
        await wsgi.hosted(app)(SCOPE, client.receive, client.send)
        return client.got

    begun, *bodies = asyncio.run(run())
    assert (begun["status"], begun["headers"]) == (201, [(b"x-a", b"b")])
    assert b"".join(each["body"] for each in bodies) == b"ab!"


@pytest.mark.parametrize("leaves", ["is cancelled", "hears of it by sending"])
def test_threads_end_when_their_clients_have_left(leaves: str) -> None:
    closed = threading.Semaphore(0)

    def app(environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        try:
            while True:
                yield b"more"
        finally:
            closed.release()

    async def run() -> int:
        asked = wsgi.hosted(app)
        for _ in range(12):
            client = Client(b"")

            async def gone(event: Any) -> None:
                raise ConnectionResetError

            send = client.send if leaves == "is cancelled" else gone
            task = asyncio.ensure_future(asked(SCOPE, client.receive, send))
            if leaves == "is cancelled":
                await client.has_some.wait()
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()  # the input's own end does not leave the thread behind either
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return sum(closed.acquire(blocking=False) for _ in range(12))

    assert asyncio.run(run()) == 12, "each is closed when its request is over"


def test_a_lifespan_and_a_websocket_are_answered() -> None:
    async def run() -> Any:
        client = Client()
        await wsgi.hosted(lambda *_: [])({"type": "websocket"}, client.receive, client.send)
        return client.got

    assert asyncio.run(run()) == [{"type": "websocket.close", "code": 1000}]
