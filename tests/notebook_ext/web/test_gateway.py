"""What comes by HTTP is served by workers: one broker, and a pool for each kind of endpoint."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

import notebook_ext as nb
from notebook_ext.config import afresh, current
from notebook_ext.web import here
from notebook_ext.web.gateway import Gateway
from notebook_ext.web.places import Places
from tests.waiting import PATIENCE, wait_until

MIB = 1 << 20
ECHO = Subprotocol("echo")


class Answer(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


def fetch(
    url: str,
    path: str = "/",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> Answer:
    request = urllib.request.Request(url + path, body, headers or {}, method=method)  # noqa: S310  ours
    try:
        with urllib.request.urlopen(request, timeout=60 * PATIENCE) as answer:  # noqa: S310  ours
            return Answer(answer.status, answer.read().decode(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), dict(error.headers))


@pytest.fixture(scope="module", autouse=True)
def _gateway(live: nb.App) -> Iterator[None]:
    yield
    here.close()


@pytest.fixture(scope="module")
def site(live: nb.App) -> Any:
    """Return an endpoint that does what its path says."""
    from tests.notebook_ext.web.site import app

    @live.function(max_containers=1, timeout=60)
    @nb.concurrent(max_inputs=20)
    @nb.asgi_app()
    def site() -> Any:
        return app

    assert site.web_url == site.get_web_url() == asyncio.run(site.get_web_url.aio())
    return site


def test_a_request_is_answered_on_a_worker(site: Any) -> None:
    url = site.web_url
    assert url.startswith("http://127.0.0.1:")
    assert fetch(url, "/a/b?c=d")[:2] == (201, "GET /a/b c=d False")
    assert fetch(url, "/state").body.startswith("with its lifespan")
    assert fetch(url, "/large").body == "x" * 3 * MIB
    assert site.local() is not None
    assert site.get_current_stats().num_total_runners >= 1


def test_bodies_go_up_to_the_limit(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(site.web_url, "/size", b"x" * 5 * MIB).body == str(5 * MIB)
    monkeypatch.setattr(here.gateway().places, "most_bytes", MIB)
    assert fetch(site.web_url, "/size", b"x" * MIB).body == str(MIB)
    assert fetch(site.web_url, "/size", b"x" * (MIB + 1)).status == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * (MIB // 20)

    connection = http.client.HTTPConnection(site.web_url.partition("//")[2])
    connection.request("POST", "/size", pieces(), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_an_answer_is_streamed_and_who_leaves_cancels_it(site: Any) -> None:
    with urllib.request.urlopen(site.web_url + "/stream-until-left", timeout=60) as answer:  # noqa: S310  ours
        assert [answer.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
        wait_until(lambda: "'waits': True" in fetch(site.web_url, "/state").body)
    wait_until(lambda: "'cancelled': 1" in fetch(site.web_url, "/state").body)


def test_what_the_app_raises_is_one_requests_500(site: Any) -> None:
    assert fetch(site.web_url, "/boom").status == 500
    assert fetch(site.web_url, "/").status == 201


def test_a_websocket_goes_both_ways(site: Any) -> None:
    url = site.web_url.replace("http", "ws")
    with connect(url, subprotocols=[Subprotocol("other"), ECHO]) as socket:
        assert socket.subprotocol == "echo"
        for word in ("one", "two"):
            socket.send(word)
            assert socket.recv() == word.upper()
        socket.send("bye")
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert socket.close_code == 3001
    with connect(url, subprotocols=[ECHO]) as socket:
        socket.send("die")
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert socket.close_code == 1012


def test_a_dead_worker_costs_its_own_requests_only(site: Any) -> None:
    before = fetch(site.web_url, "/slow").body
    assert fetch(site.web_url, "/die").status == 502
    with pytest.raises(http.client.IncompleteRead):
        fetch(site.web_url, "/stream-and-die")
    assert fetch(site.web_url, "/slow").body != before


def test_a_crowd_is_served_at_once(site: Any) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: fetch(site.web_url, "/slow"), range(40)))
    assert {each.status for each in found} == {200}


def test_a_redefinition_is_served_from_the_next_request_on(live: nb.App) -> None:
    def define(answer: str) -> Any:
        @live.function(name="changing")
        @nb.fastapi_endpoint(method="POST", docs=True)
        def changing(x: int, y: int = 2) -> dict[str, Any]:
            """Add two numbers."""
            is_main = threading.current_thread() is threading.main_thread()
            return {"sum": x + y, "answer": answer, "main": is_main}

        return changing

    first = define("a")
    url = first.web_url
    assert fetch(url, "/?x=1", method="POST").body == '{"sum":3,"answer":"a","main":false}'
    assert fetch(url, "/?x=z", method="POST").status == 422
    assert fetch(url, "/?x=1").status == 405
    assert "Swagger" in fetch(url, "/docs").body
    second = define("b")
    assert '"answer":"b"' in fetch(url, "/?x=1", method="POST").body
    assert second.web_url == url
    with pytest.raises(nb.exception.InvalidError, match=r"called by HTTP at changing\.web_url"):
        second.remote(1)


def test_workers_come_as_requests_wait_and_make_the_app_anew_where_it_reads_otherwise(
    live: nb.App,
) -> None:
    title = "one"

    @live.function(max_containers=2)
    @nb.asgi_app()
    def titled() -> Any:
        made = title

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"  # it has no lifespan
            await asyncio.sleep(float(scope["path"][1:] or 0))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            body = f"{made} {os.getpid()}".encode()
            await send({"type": "http.response.body", "body": body})

        return app

    url = titled.web_url
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = {each.body for each in pool.map(lambda _: fetch(url, "/0.5"), range(4))}
    assert len(found) == 2
    assert all(each.startswith("one ") for each in found)
    title = "two"
    wait_until(lambda: fetch(url).body.startswith("two "))


def test_a_request_has_the_functions_timeout(live: nb.App) -> None:
    from tests.notebook_ext.web.site import app

    @live.function(name="late", timeout=0.5, startup_timeout=60)
    @nb.asgi_app()
    def late() -> Any:
        return app

    answer = fetch(late.web_url, "/endless")
    assert answer[:2] == (504, "late ran longer than its timeout\n")


def test_an_app_that_cannot_be_made_is_a_500_that_says_which(live: nb.App) -> None:
    @live.function()
    @nb.asgi_app()
    def broken() -> None:
        return None

    answer = fetch(broken.web_url)
    assert answer.status >= 500
    assert "broken cannot be run" in answer.body


def test_wsgi_and_a_server_of_the_users_own(live: nb.App) -> None:
    @live.function()
    @nb.wsgi_app()
    def wsgi() -> Any:
        def app(environ: Any, start: Any) -> Any:
            start("200 OK", [("content-type", "text/plain")])
            return [environ["wsgi.input"].read(), b" of ", environ["PATH_INFO"].encode()]

        return app

    assert fetch(wsgi.web_url, "/w", b"body").body == "body of /w"
    port = Places(current()).bind("for-a-test-dev")
    port[0].close()
    number = int(port[1].rpartition(":")[2])

    @live.function()
    @nb.web_server(number, startup_timeout=20)
    def own() -> None:
        async def echo(socket: Any) -> None:
            async for word in socket:
                await socket.send(word * 2)

        def plain(connection: Any, request: Any) -> Any:
            if request.headers.get("upgrade") is None:
                return connection.respond(200, f"own {request.path}\n")
            return None

        def run() -> None:
            from websockets.sync.server import serve

            def twice(socket: Any) -> None:
                for word in socket:
                    socket.send(word * 2)

            with serve(twice, "127.0.0.1", number, process_request=plain) as server:
                server.serve_forever()

        threading.Thread(target=run, daemon=True).start()

    assert fetch(own.web_url, "/x?y=z")[:2] == (200, "own /x?y=z\n")
    with connect(own.web_url.replace("http", "ws")) as socket:
        socket.send("ab")
        assert socket.recv() == "abab"


def test_a_method_of_a_class(live: nb.App) -> None:
    @live.cls()
    class Shop:
        name: str = nb.parameter(default="base")

        @nb.enter()
        def load(self) -> None:
            self.loaded = self.name.upper()

        @nb.fastapi_endpoint(requires_proxy_auth=True)
        def price(self, x: int) -> str:
            return str(self.discount(f"{self.loaded} {x}"))

        @nb.method()
        def discount(self, text: str) -> str:
            return f"{text} less"

    remote: Any = Shop
    price = remote("toys").price
    assert fetch(price.web_url, "/?x=3").status == 401
    bearer = {"Authorization": f"Bearer {here.gateway().places.token()}"}
    assert fetch(price.web_url, "/?x=3", headers=bearer).body == '"TOYS 3 less"'
    assert remote("toys").discount.remote("2") == "2 less"
    assert remote("toys").price.local(4) == "TOYS 4 less"


def test_off_the_loopback_address_a_token_is_needed(live: nb.App, monkeypatch: Any) -> None:
    from tests.notebook_ext.web.site import app

    @live.function()
    @nb.asgi_app()
    def guarded() -> Any:
        return app

    monkeypatch.setenv("NOTEBOOK_EXT_WEB_ADDRESS", "0.0.0.0")  # noqa: S104  the case
    places = Places(afresh())
    gateway = Gateway(places)
    try:
        monkeypatch.setattr(here._Here, "gateway", gateway)
        port = guarded.web_url.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": places.token()}):
            assert fetch(url, headers=headers).status == 401
        assert fetch(url, headers={"Authorization": f"Bearer {places.token()}"}).status == 201
        assert places.token_file.stat().st_mode & 0o777 == 0o600
    finally:
        gateway.close()
