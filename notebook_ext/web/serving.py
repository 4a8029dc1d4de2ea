"""In the worker: the hooks and the method that a class gets that has endpoints (see `equip`).

Theory. A class with endpoints is a class as any other, and has three hooks and a method more: the
worker's `enter` makes the apps, after the class's own hooks, and runs their lifespan to "startup
complete"; its `exit` ends that. `web_serve` is what a slot's input runs.

Guarantees: an app is made once in a worker; its requests run in the worker's loop (a sync function
of `fastapi_endpoint` on a thread, as FastAPI does it, one of `wsgi_app` likewise), each in a task
of its own, with the input's context. A request whose client has left is cancelled, and so are all
of an input that is; the slot is free when its code has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from kernel_worker.wire.instances import ENTER, EXIT, ORDER, SNAP
from notebook_ext.hooks import MethodDefinition
from notebook_ext.web import streams
from notebook_ext.web.endpoints import endpoints_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from notebook_ext.web.endpoints import Endpoint
    from notebook_ext.web.streams import Stream

    Event = dict[str, Any]
    AsgiApp = Callable[[Event, Callable[[], Awaitable[Event]], Callable[[Event], Any]], Any]

SERVE: Final = "_web_serve"
"""The name of the method that a slot's input runs."""
PIECE_BYTES: Final = 1 << 18
"""Larger bodies go in pieces, so that neither end holds much of them twice."""
_AHEAD: Final = 8
"""So many events of a request are read before the app asks for them."""
_LAST: Final = 1 << 40

_hosted: dict[str, Hosted] = {}
"""The apps of this worker, by the names of their functions."""


def equip(kind: Any) -> None:
    """Give a class with endpoints what serves them."""
    found = {
        "_web_preload": web_preload,
        "_web_enter": web_enter,
        "_web_exit": web_exit,
        SERVE: MethodDefinition(web_serve),
    }
    for name, value in found.items():
        setattr(kind, name, value)


def web_preload(self: Any) -> None:
    """Import in the template what takes a worker long."""
    kinds = {endpoint.kind for endpoint in endpoints_of(type(self)).values()}
    if "fastapi_endpoint" in kinds:
        import fastapi.routing  # noqa: F401, PLC0415  as said
    if "wsgi_app" in kinds:
        import a2wsgi  # noqa: F401, PLC0415  as said


async def web_enter(self: Any) -> None:
    """Make the apps, and start their lifespans."""
    for name, endpoint in endpoints_of(type(self)).items():
        app = await _made(endpoint, name, getattr(self, name))
        _hosted[name] = hosted = Hosted(app)
        await hosted.start()


async def web_exit(self: Any) -> None:  # noqa: ARG001  a hook's
    """End the lifespans."""
    for hosted in _hosted.values():
        await hosted.stop()
    _hosted.clear()


async def web_serve(self: Any, name: str, gateway: str, slot: str) -> None:  # noqa: ARG001  a method's
    """Be a slot of the endpoint `name`: dial `gateway`, and serve until it says no more."""
    stream = await streams.dial(gateway)
    if stream is None:
        raise ConnectionError(
            "the gateway cannot be dialled from here: it has ended, or is on another machine than "
            "this worker, where web endpoints cannot be served from"
        )
    stream.post([streams.SLOT, slot])
    one = _Slot(_hosted[name], stream)
    pump = asyncio.get_running_loop().create_task(one.pump())
    try:
        await one.serve()
    finally:
        pump.cancel()
        stream.close()


web_preload.__dict__[SNAP] = True
web_enter.__dict__.update({ENTER: True, ORDER: _LAST})
web_exit.__dict__.update({EXIT: True, ORDER: -_LAST})


async def _made(endpoint: Endpoint, name: str, function: Callable[..., Any]) -> AsgiApp:
    """Return the ASGI app of an endpoint."""
    if endpoint.kind == "fastapi_endpoint":
        return _fastapi(endpoint, name, function)
    if endpoint.kind == "web_server":
        from notebook_ext.web import forwarding  # noqa: PLC0415  it needs h11 and websockets

        return await forwarding.started(endpoint.port, endpoint.startup_seconds, function)
    made = function()
    if inspect.isawaitable(made):
        made = await made
    if not callable(made):
        raise TypeError(f"{name} returned {made!r}, which is no app")
    if endpoint.kind == "wsgi_app":
        from notebook_ext.web import wsgi  # noqa: PLC0415  it needs a2wsgi

        return wsgi.hosted(made)
    found: AsgiApp = made
    return found


def _fastapi(endpoint: Endpoint, name: str, function: Callable[..., Any]) -> AsgiApp:
    from fastapi import FastAPI  # noqa: PLC0415  optional

    paths: Any = {} if endpoint.docs else {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(title=name, description=function.__doc__ or "", **paths)
    app.add_api_route("/", function, methods=[endpoint.method], name=name)
    return cast("AsgiApp", app)


class Hosted:
    """An app and its lifespan.

    Source: the ASGI specification, "Lifespan Protocol". An app that raises at the lifespan's scope
    has none; one that says that its startup has failed fails the worker.
    """

    def __init__(self, app: AsgiApp) -> None:
        """Host `app`; nothing of it runs yet."""
        self.app = app
        self.state: dict[str, Any] = {}
        self._told: asyncio.Queue[Event] = asyncio.Queue()
        self._said: asyncio.Queue[str] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run the lifespan until its startup is complete.

        Raises:
            RuntimeError: the app says that it has failed.
        """
        self._task = asyncio.get_running_loop().create_task(self._live())
        await self._tell("lifespan.startup")

    async def stop(self) -> None:
        """End the lifespan."""
        if self._task is not None and not self._task.done():
            with contextlib.suppress(RuntimeError):
                await self._tell("lifespan.shutdown")

    async def _tell(self, event: str) -> None:
        self._told.put_nowait({"type": event})
        said = await self._said.get()
        if said.startswith("failed"):
            raise RuntimeError(f"the app's {event} has failed: {said[7:]}")

    async def _live(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }

        async def send(event: Event) -> None:
            _, _, word = event["type"].rpartition(".")
            self._said.put_nowait(f"{word} {event.get('message', '')}")

        try:
            await self.app(scope, self._told.get, send)
        except Exception:  # noqa: BLE001, S110  it has no lifespan, or has said that it failed
            pass
        finally:
            self._said.put_nowait("over")


class _LeftError(OSError):
    """What `send` raises where the client has left, or has its answer."""


class _Slot:
    """The worker's end of a slot: it runs one request at a time."""

    def __init__(self, hosted: Hosted, stream: Stream) -> None:
        self._hosted = hosted
        self._stream = stream
        self._requests: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._request: _Request | None = None
        self._task: asyncio.Task[None] | None = None

    async def pump(self) -> None:
        """Read what the gateway says, and notice at once where a client leaves."""
        while (message := await self._stream.read()) is not None:
            if message[0] == streams.REQUEST:
                self._request = _Request(self._stream, *message[1:])
                self._requests.put_nowait(self._request)
            elif message[0] == streams.GONE:
                self._leave()
            elif self._request is not None:
                await self._request.hear(message[1])
        self._leave()
        self._requests.put_nowait(None)

    def _leave(self) -> None:
        if self._request is not None:
            self._request.leave()
        if self._task is not None:
            self._task.cancel()

    async def serve(self) -> None:
        """Serve requests until the gateway hangs up."""
        loop = asyncio.get_running_loop()
        while (request := await self._requests.get()) is not None:
            if not request.has_left:
                self._task = loop.create_task(request.run(self._hosted))
                try:
                    await self._task
                except asyncio.CancelledError:
                    if not request.has_left:
                        raise  # the input is cancelled
                self._task = None
            request.end()
            if self._stream.is_closed:
                return


class _Request:
    """One request in a slot: what the app receives and sends, until it is over.

    Whatever of the app lives on (a thread, a task of its own) has nothing to say by the slot any
    more, which is another request's then, and takes nothing of what that one's client says.
    """

    def __init__(self, stream: Stream, scope: Event, first: Event) -> None:
        self._stream = stream
        self._scope = scope
        self._heard: deque[Event] = deque([first])
        self._changed = asyncio.Event()
        """Set whenever something was heard or taken, the client has left, or it is over."""
        self.has_left = False
        self._is_over = False
        self._word = streams.FAILED

    async def run(self, hosted: Hosted) -> None:
        """Run the app for it."""
        try:
            await hosted.app(_completed(self._scope, hosted.state), self._receive, self._send)
            self._word = streams.DONE
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  shown; others are served
            if not self.has_left:
                traceback.print_exc(file=sys.stderr)
        finally:
            self._is_over = True
            self._changed.set()

    def end(self) -> None:
        """Say that it has ended: the slot is free."""
        self._stream.post([self._word])

    def leave(self) -> None:
        """The client has left."""
        self.has_left = True
        self._changed.set()

    async def hear(self, event: Event) -> None:
        """Take what the client says; wait where the app has much of it to take."""
        while len(self._heard) >= _AHEAD and not self._is_deaf:
            await self._change()
        self._heard.append(event)
        self._changed.set()

    @property
    def _is_deaf(self) -> bool:
        return self.has_left or self._is_over

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _receive(self) -> Event:
        while not self._heard and not self._is_deaf:
            await self._change()
        if self._is_deaf:
            return {"type": f"{self._scope['type']}.disconnect", "code": 1006}
        self._changed.set()
        return self._heard.popleft()

    async def _send(self, event: Event) -> None:
        body = event.get("body", b"")
        if len(body) <= PIECE_BYTES:
            await self._post(event)
            return
        more = event.get("more_body", False)
        for start in range(0, len(body), PIECE_BYTES):
            piece = bytes(body[start : start + PIECE_BYTES])
            is_last = start + PIECE_BYTES >= len(body)
            await self._post({**event, "body": piece, "more_body": more or not is_last})

    async def _post(self, event: Event) -> None:
        if self._is_deaf:
            raise _LeftError("the client has left" if self.has_left else "the answer is over")
        self._stream.post([streams.EVENT, event])
        await self._stream.drain()


def _completed(scope: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return a scope as ASGI has it: msgpack knows no tuples, and the state never left."""
    scope["headers"] = [tuple(pair) for pair in scope["headers"]]
    for name in ("client", "server"):
        if scope.get(name) is not None:
            scope[name] = tuple(scope[name])
    scope["state"] = dict(state)
    return scope
