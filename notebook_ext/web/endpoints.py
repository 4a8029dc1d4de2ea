"""`@fastapi_endpoint`, `@asgi_app`, `@wsgi_app`, `@web_server`: what a function is to the web.

A decorator here returns the function that it was given, with a mark on it, which `@app.function`
above it, or `@app.cls` around it, reads.
"""

from __future__ import annotations

import inspect
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from kernel_worker.errors import InvalidError
from notebook_ext import cloud
from notebook_ext.marks import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Kind = Literal["fastapi_endpoint", "asgi_app", "wsgi_app", "web_server"]
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "fastapi_endpoint": ("uvicorn", "fastapi"),
    "asgi_app": ("uvicorn",),
    "wsgi_app": ("uvicorn", "a2wsgi"),
    "web_server": ("uvicorn", "h11", "websockets"),
}
"""What each kind needs of the optional group `web`."""
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NOT_IN_LABELS: Final = re.compile(r"[^a-z0-9]+")
_MOST_LABEL: Final = 60


class Endpoint(NamedTuple):
    """What a decorator said."""

    kind: Kind
    method: str = "GET"
    label: str = ""
    docs: bool = False
    needs_token: bool = False
    port: int = 0
    startup_seconds: float = 5.0

    @property
    def is_builder(self) -> bool:
        """Whether the function makes what answers requests, rather than answer them itself."""
        return self.kind != "fastapi_endpoint"


def fastapi_endpoint(
    raw: None = None,
    /,
    *,
    method: str = "GET",
    label: str | None = None,
    docs: bool = False,
    custom_domains: Any = None,
    requires_proxy_auth: bool = False,
) -> Callable[[T], T]:
    """Let a function be called by HTTP: its parameters are FastAPI's; below `@app.function()`.

    Args:
        raw: nothing; the decorator is written with parentheses.
        method: the HTTP method.
        label: what its port is remembered by, instead of the names of app and function.
        docs: whether FastAPI's documentation is served at `/docs`.
        custom_domains: means something on a cloud only.
        requires_proxy_auth: whether requests need the token also on the loopback address.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    _refuse_bare("fastapi_endpoint", raw)
    if str(method).upper() not in METHODS:
        raise InvalidError(f"method={method!r}: allowed is one of {', '.join(METHODS)}.")
    cloud.warn_once("custom_domains", custom_domains)
    endpoint = Endpoint(
        "fastapi_endpoint",
        method.upper(),
        _label(label),
        _flag("docs", docs),
        _flag("requires_proxy_auth", requires_proxy_auth),
    )
    return _marking(endpoint)


web_endpoint = fastapi_endpoint


def asgi_app(
    raw: None = None,
    /,
    *,
    label: str | None = None,
    custom_domains: Any = None,
    requires_proxy_auth: bool = False,
) -> Callable[[T], T]:
    """Serve the ASGI app (FastAPI, Starlette, …) that a function without arguments returns.

    Args:
        raw: nothing; the decorator is written with parentheses.
        label: as of `fastapi_endpoint`.
        custom_domains: means something on a cloud only.
        requires_proxy_auth: as of `fastapi_endpoint`.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    _refuse_bare("asgi_app", raw)
    return _serving("asgi_app", label, custom_domains, requires_proxy_auth)


def wsgi_app(
    raw: None = None,
    /,
    *,
    label: str | None = None,
    custom_domains: Any = None,
    requires_proxy_auth: bool = False,
) -> Callable[[T], T]:
    """Serve the WSGI app (Flask, Django, …) that a function without arguments returns.

    Its requests run on threads of the worker.

    Args:
        raw: nothing; the decorator is written with parentheses.
        label: as of `fastapi_endpoint`.
        custom_domains: means something on a cloud only.
        requires_proxy_auth: as of `fastapi_endpoint`.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    _refuse_bare("wsgi_app", raw)
    return _serving("wsgi_app", label, custom_domains, requires_proxy_auth)


def _serving(
    kind: Kind, label: str | None, custom_domains: Any, requires_proxy_auth: Any
) -> Callable[[T], T]:
    """Return the decorator of what makes an app by itself."""
    cloud.warn_once("custom_domains", custom_domains)
    needs_token = _flag("requires_proxy_auth", requires_proxy_auth)
    return _marking(Endpoint(kind, label=_label(label), needs_token=needs_token))


def web_server(
    port: int,
    /,
    *,
    startup_timeout: float = 5.0,
    label: str | None = None,
    custom_domains: Any = None,
    requires_proxy_auth: bool = False,
) -> Callable[[T], T]:
    """Serve what a function without arguments starts: a server of its own that listens at `port`.

    The function starts it (a process, a thread) and returns. Two servers cannot listen at one port:
    such a function has one worker, which serves 100 requests at once unless `@concurrent` says
    otherwise.

    Args:
        port: where it listens, on the loopback address or on all of the worker.
        startup_timeout: within how many seconds it has to.
        label: as of `fastapi_endpoint`.
        custom_domains: means something on a cloud only.
        requires_proxy_auth: as of `fastapi_endpoint`.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    number: object = port
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number < 2**16:
        raise InvalidError(f"@web_server({port!r}): allowed is a port, an int from 1 to 65535.")
    given: object = startup_timeout
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1e6:  # noqa: PLR2004  days
        raise InvalidError(f"startup_timeout={given!r}: allowed is a number of seconds above 0.")
    cloud.warn_once("custom_domains", custom_domains)
    return _marking(
        Endpoint(
            "web_server",
            label=_label(label),
            needs_token=_flag("requires_proxy_auth", requires_proxy_auth),
            port=port,
            startup_seconds=float(given),
        )
    )


def endpoints_of(kind: type) -> dict[str, Endpoint]:
    """Return the endpoints among the members of a class, by name."""
    found: dict[str, Endpoint] = {}
    for owner in reversed(kind.__mro__):
        for name, value in vars(owner).items():
            raw = value.__func__ if isinstance(value, staticmethod) else value
            endpoint = getattr(raw, "__dict__", {}).get(ENDPOINT)
            if endpoint is not None:
                found[name] = endpoint
            else:
                found.pop(name, None)
    return found


def check_installed(kind: Kind) -> None:
    """Raise `InvalidError` where something is missing that this kind of endpoint needs."""
    missing = [name for name in MODULES[kind] if find_spec(name) is None]
    if missing:
        raise InvalidError(
            f"@{kind} needs {', '.join(missing)}, which is not installed: "
            "pip install 'notebook-ext[web]'."
        )


def default_label(app: str | None, name: str, method: str = "") -> str:
    """Return the label of an endpoint that was given none."""
    parts = filter(None, (app, name, method))
    text = "-".join(_NOT_IN_LABELS.sub("-", part.lower()).strip("-") for part in parts)
    return text[:_MOST_LABEL].strip("-") or "endpoint"


def _marking(endpoint: Endpoint) -> Callable[[T], T]:
    check_installed(endpoint.kind)

    def mark(thing: T) -> T:
        shown = getattr(thing, "__qualname__", repr(thing))
        if hasattr(thing, "__remote_reference__") or hasattr(thing, "get_raw_f"):
            raise InvalidError(
                f"@{endpoint.kind} on {shown}: put it below @app.function(), on the plain "
                "function (a method needs no @nb.method())."
            )
        if not inspect.isfunction(thing):
            raise InvalidError(f"@{endpoint.kind} on {shown}: allowed is a function or a method.")
        if ENDPOINT in vars(thing):
            raise InvalidError(
                f"@{endpoint.kind} on {shown}: it is an endpoint already; keep one of them."
            )
        if inspect.isgeneratorfunction(thing) or inspect.isasyncgenfunction(thing):
            raise InvalidError(
                f"@{endpoint.kind} on {shown}: it is a generator; allowed is a function. To "
                "stream, return a StreamingResponse of one."
            )
        setattr(thing, ENDPOINT, endpoint)
        return thing

    return mark


def _refuse_bare(name: str, raw: object) -> None:
    if raw is not None:
        shown = getattr(raw, "__qualname__", repr(raw))
        raise InvalidError(f"@{name} on {shown}: write it with parentheses, @{name}().")


def _label(label: object) -> str:
    if label is None:
        return ""
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise InvalidError(
            f"label={label!r}: allowed are up to 63 small letters, digits and '-', with a letter "
            "or digit at either end."
        )
    return label


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r}: allowed is True or False.")
    return value
