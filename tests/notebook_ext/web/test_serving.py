"""Slots and the gateway with all that can go wrong in an app; both are in this process here."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.config import current, reload
from notebook_ext.web import serving
from notebook_ext.web.gateway import Gateway, Target
from notebook_ext.web.places import Places
from notebook_ext.web.streams import FAILED, GONE, REQUEST
from tests.waiting import PATIENCE, wait_until

Call = Callable[[str, str], Any]


class Site:
    """An app, behind a gateway of its own."""

    def __init__(self, app: Any, call: Call | None = None, *, needs_token: bool = False) -> None:
        self.places = Places(current())
        self.gateway = Gateway(self.places)
        serving._hosted["site"] = serving.Hosted(app)
        target = Target("slots-dev", "site", call or _call, lambda: None, 60.0, needs_token)
        self.port = int(self.gateway.serve(target).rpartition(":")[2])

    def fetch(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def say(self, text: str) -> socket.socket:
        end = socket.create_connection(("127.0.0.1", self.port))
        end.sendall(text.encode())
        return end


async def _call(gateway: str, slot: str) -> None:
    await serving.web_serve(None, "site", gateway, slot)


@pytest.fixture
def served(own_directories: object) -> Iterator[Callable[..., Site]]:
    reload()
    sites: list[Site] = []

    def serve(app: Any, call: Call | None = None, *, needs_token: bool = False) -> Site:
        sites.append(Site(app, call, needs_token=needs_token))
        return sites[-1]

    yield serve
    for site in sites:
        site.gateway.close()
    serving._hosted.clear()


async def answer(send: Any, body: bytes, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


def test_what_an_app_leaves_behind_has_no_part_in_other_requests(
    served: Callable[..., Site],
) -> None:
    left: list[asyncio.Future[str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def speak() -> str:
            with contextlib.suppress(OSError):
                while True:
                    await send({"type": "http.response.body", "body": b"mine", "more_body": True})
                    await asyncio.sleep(0.005)
            return "refused"

        async def listen() -> str:
            await receive()  # the request itself
            return str((await receive())["type"])

        if scope["path"] == "/leaves":
            await answer(send, b"done")
            left.extend(asyncio.ensure_future(each) for each in (listen(), speak()))
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.03)
            await answer(send, scope["path"].encode())

    site = served(app)
    assert site.fetch("/leaves") == (200, "done")
    assert [site.fetch(f"/{at}") for at in range(3)] == [(200, f"/{at}") for at in range(3)]
    wait_until(lambda: len(left) == 2 and all(each.done() for each in left))
    assert [each.result() for each in left] == ["http.disconnect", "refused"]


def test_a_client_that_leaves_before_the_app_began_is_not_run_for(
    served: Callable[..., Site],
) -> None:
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await answer(send, b"")

    async def run() -> list[int]:
        posted: list[int] = []

        class Stream:
            """Says that a request came and its client left, in one."""

            is_closed = False
            said: Any = iter([[REQUEST, {"type": "http", "path": "/", "headers": []}, {}], [GONE]])

            async def read(self) -> Any:
                return next(self.said, None)

            def post(self, message: list[int]) -> None:
                posted.append(message[0])

        slot = serving._Slot(serving.Hosted(app), Stream())  # type: ignore[arg-type]
        await asyncio.gather(slot.pump(), slot.serve())
        return posted

    assert asyncio.run(run()) == [FAILED]
    assert asked == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_an_app_is_its_requests_failure(
    served: Callable[..., Site], kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/exit":
            raise kind
        await answer(send, b"there")

    site = served(app)
    assert site.fetch("/exit")[0] == 500
    assert site.fetch("/") == (200, "there")
    assert kind.__name__ in capfd.readouterr().err


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, nb.exception.NotFoundError])
def test_an_exit_where_the_app_is_made_does_not_end_the_gateway(
    served: Callable[..., Site], kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(gateway: str, slot: str) -> None:
        raise kind("on purpose")

    site = served(None, fail)
    wanted = 404 if kind is nb.exception.NotFoundError else 503
    assert [site.fetch("/")[0] for _ in range(2)] == [wanted] * 2


@pytest.mark.parametrize(
    "headers",
    [[(b"x", b"a\r\nset-cookie: b")], [(b"content-length", b"1")], [("str", "str")]],
)
def test_an_answer_that_is_none_is_cut_and_its_slot_ends(
    served: Callable[..., Site], headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            await answer(send, b"there")
            return
        await answer(send, b"longer", headers)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    site = served(app)
    with caplog.at_level(logging.ERROR), pytest.raises(http.client.HTTPException):
        site.fetch("/none")
    wait_until(lambda: cancelled == ["/none"])
    assert site.fetch("/") == (200, "there")
    assert "site gave what is no answer" in caplog.text


def test_the_token_is_the_gateways(served: Callable[..., Site]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        shown = [name.decode() for name, _ in scope["headers"]]
        await answer(send, " ".join(shown).encode())

    site = served(app, needs_token=True)
    bearer = {"Authorization": f"bearer {site.places.token()}", "X-Own": "1"}
    status, names = site.fetch("/", bearer)
    assert (status, "x-own" in names, "authorization" in names) == (200, True, False)
    assert site.fetch("/", {"Authorization": "Bearer no"})[0] == 401


def test_a_body_that_nobody_reads_holds_nothing_up(served: Callable[..., Site]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["method"].encode())

    site = served(app)
    with contextlib.closing(site.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")):
        assert site.fetch("/") == (200, "GET")
