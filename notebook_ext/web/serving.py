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
        from a2wsgi import WSGIMiddleware  # noqa: PLC0415  optional

        return WSGIMiddleware(made)  # type: ignore[return-value]
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
    """What `send` raises where the client has left."""


class _Slot:
    """The worker's end of a slot: it runs one request at a time."""

    def __init__(self, hosted: Hosted, stream: Stream) -> None:
        self._hosted = hosted
        self._stream = stream
        self._inbox: asyncio.Queue[list[Any] | None] = asyncio.Queue(_AHEAD)
        self._task: asyncio.Task[None] | None = None
        self._is_gone = False

    async def pump(self) -> None:
        """Read what the gateway says, and notice at once where a client leaves."""
        while True:
            message = await self._stream.read()
            if message is None or message[0] == streams.GONE:
                self._is_gone = True
                if self._task is not None:
                    self._task.cancel()
            if message is None or message[0] != streams.GONE:
                await self._inbox.put(message)
            if message is None:
                return

    async def serve(self) -> None:
        """Serve requests until the gateway hangs up."""
        loop = asyncio.get_running_loop()
        while (message := await self._inbox.get()) is not None:
            if message[0] != streams.REQUEST:
                continue  # an event that came when its request had ended
            self._is_gone = False
            self._task = loop.create_task(self._run(*message[1:]))
            try:
                await self._task
            except _LeftError:
                pass
            except asyncio.CancelledError:
                if not self._is_gone:
                    raise
            self._task = None
            if self._stream.is_closed:
                return

    async def _run(self, scope: dict[str, Any], first: Event) -> None:
        """Run the app for one request, and say that it has ended."""
        word: int | None = streams.DONE
        pending: list[Event] = [first]

        async def receive() -> Event:
            if pending:
                return pending.pop()
            message = None if self._is_gone else await self._inbox.get()
            if message is None or message[0] != streams.EVENT:
                if message is None and not self._is_gone:
                    self._inbox.put_nowait(None)  # for `serve`
                self._is_gone = True
                return {"type": f"{scope['type']}.disconnect", "code": 1006}
            event: Event = message[1]
            return event

        try:
            await self._hosted.app(_completed(scope, self._hosted.state), receive, self._send)
        except (asyncio.CancelledError, _LeftError):
            word = streams.FAILED if self._is_gone else None  # or the input is cancelled
            raise
        except Exception:  # noqa: BLE001  as a server does: it is shown, and others are served
            word = streams.FAILED
            if not self._is_gone:
                traceback.print_exc(file=sys.stderr)
        finally:
            if word is not None:
                self._stream.post([word])

    async def _send(self, event: Event) -> None:
        if self._is_gone:
            raise _LeftError("the client has left")
        body = event.get("body", b"")
        if len(body) <= PIECE_BYTES:
            self._stream.post([streams.EVENT, event])
        else:
            more = event.get("more_body", False)
            for start in range(0, len(body), PIECE_BYTES):
                piece = bytes(body[start : start + PIECE_BYTES])
                is_last = start + PIECE_BYTES >= len(body)
                said = {**event, "body": piece, "more_body": more or not is_last}
                self._stream.post([streams.EVENT, said])
                await self._stream.drain()
        await self._stream.drain()


def _completed(scope: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Return a scope as ASGI has it: msgpack knows no tuples, and the state never left."""
    scope["headers"] = [tuple(pair) for pair in scope["headers"]]
    for name in ("client", "server"):
        if scope.get(name) is not None:
            scope[name] = tuple(scope[name])
    scope["state"] = dict(state)
    return scope
