"""`@wsgi_app`: a WSGI app as an ASGI one, by a2wsgi, on threads.

Theory. A thread cannot be cancelled. Where the client leaves, what the app still gives is dropped,
its iterable is closed at the next item, and the request is over when the thread has ended: so no
thread is ever left waiting for somebody to take what it has.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from a2wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Event = dict[str, Any]
    AsgiApp = Callable[[Event, Callable[[], Awaitable[Event]], Callable[[Event], Any]], Any]

MOST_THREADS: Final = 1000
"""They come as requests do, of which `@concurrent` says how many there are at once."""
_LEFT: Final = "notebook_ext.left"


def hosted(app: Any) -> AsgiApp:
    """Return the ASGI app that runs `app`."""

    def until_left(environ: Any, start_response: Any) -> Iterable[bytes]:
        return _Items(app(environ, start_response), environ["asgi.scope"][_LEFT])

    middleware: Any = WSGIMiddleware(until_left, workers=MOST_THREADS)

    async def run(scope: Event, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await middleware(scope, receive, send)
            return
        left = threading.Event()

        async def say(event: Event) -> None:
            if not left.is_set():
                try:
                    await send(event)
                except OSError:
                    left.set()

        running = asyncio.ensure_future(middleware({**scope, _LEFT: left}, receive, say))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            left.set()
            while not running.done():
                try:
                    await asyncio.wait({running})
                except asyncio.CancelledError:
                    continue  # the input is cancelled, too
            running.exception()
            raise

    return run


class _Items:
    """What a WSGI app gives, until the client has left."""

    def __init__(self, items: Iterable[bytes], left: threading.Event) -> None:
        self._items = items
        self._left = left

    def __iter__(self) -> Iterator[bytes]:
        for item in self._items:
            if self._left.is_set():
                return
            yield item

    def close(self) -> None:
        getattr(self._items, "close", lambda: None)()
