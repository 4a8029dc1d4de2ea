"""The gateway: uvicorn, in front of the slots of each endpoint; one for a process, in a thread.

Guarantees: a request without the token is refused wherever one is needed (always off the loopback
address), before anything else of it is looked at; one with a larger body than `max_request_mib` is
answered by 413. An answer that was begun and cannot be ended is cut, so that no client takes a part
for the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel_worker.errors import Error, ExecutionError, NotFoundError
from notebook_ext.web import streams
from notebook_ext.web.slots import Slots

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine

    import uvicorn

    from notebook_ext.web.places import Places
    from notebook_ext.web.slots import Slot
    from notebook_ext.web.streams import Stream

    Event = dict[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]

LIMIT_SECONDS: Final = 30.0
_MIB: Final = 1 << 20
_BEARER: Final = b"bearer "
_CUT: Final = 1012
"""Websocket: service restart (RFC 6455's registry); of a worker that has died."""
_SCOPE: Final = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
    "subprotocols",
    "extensions",
)

_log = logging.getLogger(__name__)


class Target(NamedTuple):
    """What is served: how a slot of it is called, and what is asked of who comes."""

    label: str
    name: str
    """For people."""
    call: Callable[[str, str], Coroutine[Any, Any, None]]
    """Called with the gateway's name and a slot's id."""
    newest: Callable[[], object]
    """What it is now: slots of another one are not used any more."""
    timeout_seconds: float
    needs_token: bool = False


class Gateway:
    """Serves endpoints; its methods are called from any thread."""

    def __init__(self, places: Places) -> None:
        """Start the thread; nothing is served yet."""
        self.name = f"nbx-web-{secrets.token_hex(16)}"
        """Where slots dial."""
        self.asked: dict[str, Callable[[Any], Any]] = {}
        """What other processes may ask, and who answers."""
        self.places = places
        self._served: dict[str, _Served] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="notebook-ext-web", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def serve(self, target: Target) -> str:
        """Serve an endpoint, in the place of another one with its label; return its URL.

        Raises:
            InvalidError: its address cannot be listened on.
        """
        with self._lock:
            url: str = self._do(self._serve(target))
        return url

    def withdraw(self, label: str) -> None:
        """Serve this endpoint no more."""
        with self._lock:
            self._do(self._withdraw(label))

    def url(self, label: str) -> str | None:
        """Return where an endpoint is served, if it is."""
        found = self._served.get(label)
        return None if found is None else found.url

    @property
    def labels(self) -> list[str]:
        """What is served."""
        return list(self._served)

    def close(self) -> None:
        """Serve nothing any more."""
        with contextlib.suppress(RuntimeError):
            self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_SECONDS)

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(LIMIT_SECONDS)

    # ---- the gateway's thread -------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> None:
        self._dialled = await streams.listen(self.name, self._met)

    async def _met(self, stream: Stream) -> None:
        message = await stream.read()
        if message is not None and message[0] == streams.SLOT:
            for served in self._served.values():
                if served.slots.is_mine(message[1]):
                    served.slots.dialled(message[1], stream)
                    return
        elif message is not None and message[0] == streams.ASK and message[1] in self.asked:
            answer = self.asked[message[1]]
            reply = await self._loop.run_in_executor(None, answer, message[2])
            stream.post(reply)
            with contextlib.suppress(OSError):
                await stream.drain()
        stream.close()

    async def _serve(self, target: Target) -> str:
        found = self._served.get(target.label)
        if found is not None:
            found.retarget(target)
            return found.url
        listening, url = self.places.bind(target.label)
        served = _Served(target, self, url)
        await served.start(listening)
        self._served[target.label] = served
        return url

    async def _withdraw(self, label: str) -> None:
        served = self._served.pop(label, None)
        if served is not None:
            await served.stop()

    async def _close(self) -> None:
        for label in list(self._served):
            await self._withdraw(label)
        self._dialled.close()


class _Served:
    """One endpoint: a uvicorn server whose app gives each request to a slot."""

    def __init__(self, target: Target, gateway: Gateway, url: str) -> None:
        self.url = url
        self._target = target
        self._newest: object = target.newest()
        self._gateway = gateway
        self._server: uvicorn.Server
        self._running: asyncio.Task[None]
        self.slots = Slots(self._open, target.timeout_seconds)

    async def _open(self, slot: str) -> None:
        try:
            await self._target.call(self._gateway.name, slot)
        except (
            KeyboardInterrupt,
            SystemExit,
        ) as error:  # the worker's: here, it would end the loop
            raise ExecutionError(f"it raised {error!r}") from None

    def retarget(self, target: Target) -> None:
        """Serve another function from now on."""
        self._target = target
        self.slots.renew(target.timeout_seconds)

    async def start(self, listening: socket.socket) -> None:
        import uvicorn  # noqa: PLC0415  optional

        config = uvicorn.Config(
            self,
            lifespan="off",
            log_config=None,
            log_level="critical",  # what it says of an answer that is cut, is meant
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            backlog=2048,
            ws_max_size=self._gateway.places.most_bytes,
        )
        self._server = uvicorn.Server(config)
        loop = asyncio.get_running_loop()
        self._running = loop.create_task(self._server.serve([listening]))
        while not self._server.started:
            if self._running.done():
                self._running.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        self.slots.close()
        await asyncio.wait({self._running}, timeout=5)
        self._running.cancel()

    # ---- a request ------------------------------------------------------------------------------

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Be uvicorn's app."""
        request = _Request(scope, receive, send, self._gateway.places.most_bytes)
        places = self._gateway.places
        if (places.is_open or self._target.needs_token) and not request.takes(places.token()):
            await request.refuse(401, "a token is needed: Authorization: Bearer TOKEN")
            return
        newest = self._target.newest()
        if newest is not self._newest:
            self._newest = newest
            self.slots.renew()
        first = await receive()
        if first["type"].endswith(".disconnect"):
            return
        if request.is_too_large(first):
            await request.refuse(413, f"a body may have {places.most_bytes >> 20} MiB")
            return
        request.watch(first)
        try:
            slot = self.slots.idle() or await request.until_left(self.slots.acquire())
        except NotFoundError as error:
            await request.refuse(404, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, it is answered
            _log.exception("no worker serves %s", self._target.name)
            status = 503 if isinstance(error, Error) else 500
            await request.refuse(
                status, f"{self._target.name} cannot be run: {type(error).__name__}"
            )
        else:
            if slot is not None:
                await self._by(slot, request, first)
        finally:
            request.end()

    async def _by(self, slot: Slot, request: _Request, first: Event) -> None:
        """Have a slot answer a request."""
        try:
            is_free = await self._answered(slot.stream, request, first)
        except BaseException as error:
            slot.stream.close()  # which ends what runs for it
            if isinstance(error, Exception):
                _log.error("%s gave what is no answer: %s", self._target.name, error)
            raise
        request.detach()
        if is_free:
            self.slots.release(slot)
            if not request.has_ended:
                await request.fail(500, "Internal Server Error")
            return
        slot.stream.close()
        if not request.has_ended:
            if await slot.timed_out():
                await request.fail(504, f"{self._target.name} ran longer than its timeout")
            else:
                await request.fail(502, f"the worker that ran {self._target.name} has died")

    async def _answered(self, stream: Stream, request: _Request, first: Event) -> bool:
        """Hand on what goes to and fro; return whether the slot is free at the end, or has died."""
        stream.post([streams.REQUEST, request.scope(), first])
        request.forward_to(stream)
        while (message := await stream.read()) is not None:
            if message[0] != streams.EVENT:
                return True
            await request.send(message[1])
        return False


class _Request:
    """One connection of ASGI, from the gateway's side."""

    def __init__(self, scope: Event, receive: Receive, send: Send, most_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._most = most_bytes
        self._size = 0
        self._is_http = scope["type"] == "http"
        self._has_begun = False
        self.has_ended = False
        self._stream: Stream | None = None
        self._events: list[Event] = []
        self._left = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def takes(self, token: str) -> bool:
        """Return whether who comes has the token: that is the gateway's, and travels no further."""
        for at, (name, value) in enumerate(self._scope["headers"]):
            if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
                if not hmac.compare_digest(value[len(_BEARER) :].strip(), token.encode()):
                    return False
                headers = self._scope["headers"]
                self._scope = {**self._scope, "headers": [*headers[:at], *headers[at + 1 :]]}
                return True
        return False

    def scope(self) -> Event:
        """Return what of the scope travels."""
        return {name: self._scope[name] for name in _SCOPE if name in self._scope}

    def is_too_large(self, event: Event) -> bool:
        """Count a body, and say whether it is beyond the limit."""
        self._size += len(event.get("body", b""))
        if self._size > self._most:
            return True
        if self._size == len(event.get("body", b"")):  # the first of it
            for name, value in self._scope["headers"]:
                if name == b"content-length" and value.isdigit():
                    return int(value) > self._most
        return False

    # ---- what comes from the client -------------------------------------------------------------

    def watch(self, first: Event) -> None:
        """Read what the client says behind `first`, and notice where it leaves."""
        if first.get("more_body", False) or not self._is_http:
            return  # not before somebody takes it
        self._reader = asyncio.get_running_loop().create_task(self._read())

    def forward_to(self, stream: Stream) -> None:
        """Let the worker have what the client says from now on."""
        self._stream = stream
        if self._left.is_set():
            stream.post([streams.GONE])
        elif self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        while not self.has_ended:
            event = await self._receive()
            is_last = event["type"].endswith(".disconnect")
            if is_last and self._is_http:
                self._leave()
                return
            if self.is_too_large(event):
                if not self._has_begun:
                    await self.refuse(413, f"a body may have {self._most >> 20} MiB")
                self._leave()
                return
            if self._stream is not None:
                self._stream.post([streams.EVENT, event])
                try:
                    await self._stream.drain()
                except OSError:
                    return
            if is_last:
                return

    async def until_left(self, acquiring: Coroutine[Any, Any, Slot]) -> Slot | None:
        """Return a slot; None where the client leaves before there is one."""
        task = asyncio.get_running_loop().create_task(acquiring)
        await asyncio.sleep(0)
        if task.done():
            return task.result()
        left = asyncio.get_running_loop().create_task(self._left.wait())
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            return None
        finally:
            left.cancel()

    def detach(self) -> None:
        """Say no more to the worker: its slot is another request's from now on."""
        self._stream = None
        if self._reader is not None:
            self._reader.cancel()

    def end(self) -> None:
        """Read no more."""
        self.has_ended = True
        self.detach()

    def _leave(self) -> None:
        """Have what runs for it cancelled."""
        self._left.set()
        if self._stream is not None:
            self._stream.post([streams.GONE])

    # ---- what goes to it ------------------------------------------------------------------------

    async def send(self, event: Event) -> None:
        """Send an event of the app, unless the client has left or has its answer."""
        if self.has_ended or self._left.is_set():
            return
        self._has_begun = True
        kind = event["type"]
        self.has_ended = (
            kind in {"http.response.body", "websocket.http.response.body"}
            and not event.get("more_body", False)
        ) or kind == "websocket.close"
        try:
            await self._send(event)
        except OSError:
            self._leave()

    async def fail(self, status: int, text: str) -> None:
        """Say that there is no answer; where one has begun, cut it."""
        if self._left.is_set() or self.has_ended:
            return
        if not self._has_begun:
            await self.refuse(status, text)
        elif self._is_http:
            self.has_ended = True
            raise _CutError(text)
        else:
            await self.send({"type": "websocket.close", "code": _CUT, "reason": text})

    async def refuse(self, status: int, text: str) -> None:
        """Answer in the place of the app."""
        if self._is_http:
            body = f"{text}\n".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            headers.append((b"content-length", str(len(body)).encode()))
            if status == 401:  # noqa: PLR2004  HTTP's
                headers.append((b"www-authenticate", b"Bearer"))
            await self.send({"type": "http.response.start", "status": status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": 1008})


class _CutError(Exception):
    """Raised through uvicorn, which cuts the connection."""
