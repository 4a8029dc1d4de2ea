"""What endpoints refuse: cases for `tests/notebook_ext/test_invalid_errors.py`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext import process, script
from notebook_ext.config import _State, current
from notebook_ext.web import deployed, endpoints, here, reloading
from notebook_ext.web.deployed import Deployed
from notebook_ext.web.places import Places

app = nb.App("refused")


def plain() -> int:
    return 3


def items() -> Any:
    yield 3


def nothing(x: int = 0) -> Any:
    return None


class Kind:
    @nb.asgi_app()
    def web(self) -> Any:
        return None


def served() -> Any:
    return app.function(name="served")(nb.asgi_app()(lambda: None))


def member() -> Any:
    kind: Any = app.cls()(Kind)
    return kind().web


def at(changed: dict[str, Any], does: Callable[[], object]) -> object:
    """Do something under other settings."""
    with pytest.MonkeyPatch.context() as patch:
        settings = _replaced(current(), changed)
        patch.setattr(_State, "loaded", settings)
        return does()


def patched(thing: Any, name: str, value: Any, does: Callable[[], object]) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thing, name, value)
        return does()


def _replaced(settings: Any, changed: dict[str, Any]) -> Any:
    return dataclasses.replace(settings, **changed)


def listed(*labels: str) -> object:
    """Deploy endpoints with these labels where another app has one."""
    found = object.__new__(Deployed)
    found._listed = [{"app": "other", "label": "taken", "shown": "f"}]
    return found._replace("shop", [{"label": label, "shown": label} for label in labels])


def serving_nothing() -> object:
    loaded = script.Script("shop.py", "", {"app": nb.App("none")})
    return patched(
        script,
        "load",
        lambda *_, **__: loaded,
        lambda: reloading.serve("shop.py", is_module=False, users_errors=contextlib.nullcontext),
    )


CASES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "fastapi_endpoint bare": (lambda: nb.fastapi_endpoint(plain), ("plain", "parentheses")),  # type: ignore[arg-type]
    "a method of HTTP": (lambda: nb.fastapi_endpoint(method="SHOUT"), ("'SHOUT'", "GET, POST")),
    "a label": (lambda: nb.wsgi_app(label="No!"), ("'No!'", "small letters")),
    "docs": (lambda: nb.fastapi_endpoint(docs=1), ("docs=1",)),  # type: ignore[arg-type]
    "a port": (lambda: nb.web_server(0), ("web_server(0)", "65535")),
    "a server's startup": (lambda: nb.web_server(80, startup_timeout=-1), ("startup_timeout=-1",)),
    "an endpoint above": (lambda: nb.asgi_app()(app.function()(plain)), ("plain", "below")),
    "a class as an endpoint": (lambda: nb.asgi_app()(int), ("int", "function or a method")),
    "an endpoint twice": (lambda: nb.asgi_app()(nb.wsgi_app()(lambda: None)), ("already",)),
    "a generator as an endpoint": (
        lambda: nb.fastapi_endpoint()(items),
        ("items", "StreamingResponse"),
    ),
    "an endpoint without what it needs": (
        lambda: patched(endpoints, "find_spec", lambda _: None, nb.asgi_app),
        ("uvicorn", "pip install 'notebook-ext[web]'"),
    ),
    "retries of an endpoint": (
        lambda: app.function(retries=2)(nb.asgi_app()(lambda: None)),
        ("retries=2", "allowed is 0"),
    ),
    "a batched endpoint": (
        lambda: app.function()(
            nb.batched(max_batch_size=2, wait_ms=1)(nb.asgi_app()(lambda x: None))
        ),
        ("max_batch_size=2", "one request at a time"),
    ),
    "two servers": (
        lambda: app.function(max_containers=2)(nb.web_server(80)(lambda: None)),
        ("max_containers=2", "allowed is 1"),
    ),
    "web_url of what is none": (lambda: app.function()(plain).web_url, ("plain.web_url",)),
    "remote of an endpoint": (lambda: served().remote, ("served.remote", "web_url")),
    "remote of a method by HTTP": (lambda: member().remote, ("web.remote", "web_url")),
    "endpoints of a broker elsewhere": (
        lambda: patched(process, "is_far", lambda: True, here.gateway),
        ("elsewhere",),
    ),
    "deployed endpoints of a broker elsewhere": (
        lambda: at({"connection_file": Path("/far.json")}, deployed.ensure),
        ("/far.json",),
    ),
    "what the gateway refuses": (
        lambda: deployed._checked({"error": "label='x': give another."}),
        ("label='x'",),
    ),
    "a label that is another app's": (lambda: listed("taken"), ("'taken'", "other")),
    "one label twice": (lambda: listed("mine", "mine"), ("'mine'", "two endpoints")),
    "an address of nobody": (
        lambda: Places(_replaced(current(), {"web_address": "203.0.113.1"})).bind("x"),
        ("203.0.113.1", "web_address"),
    ),
    "serve without watchfiles": (
        lambda: patched(reloading, "find_spec", lambda _: None, serving_nothing),
        ("watchfiles",),
    ),
    "serve of nothing": (serving_nothing, ("shop.py", "no endpoints")),
}
