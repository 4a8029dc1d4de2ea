"""The gateway of this process: endpoints of functions that are defined here.

It is made by the first `web_url` that is asked for, and ends with the process. What it serves is
what the notebook says now: a slot that is opened reads the function as any call does, and where a
cell has defined it anew, none of the slots before is used any more.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InvalidError
from notebook_ext import process
from notebook_ext.config import current
from notebook_ext.web.endpoints import default_label
from notebook_ext.web.gateway import Gateway, Target
from notebook_ext.web.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.cls import Cls, Obj
    from notebook_ext.function import Function
    from notebook_ext.web.endpoints import Endpoint


class _Here:
    """The gateway, if there is one."""

    gateway: Gateway | None = None
    lock = threading.Lock()


def gateway() -> Gateway:
    """Return the gateway of this process, made now if there is none.

    Raises:
        InvalidError: calls go to a broker on another machine.
    """
    if process.is_far():
        raise InvalidError(
            "web endpoints are served on the machine of their broker, and calls go to one "
            "elsewhere; define and serve them there"
        )
    with _Here.lock:
        if _Here.gateway is None:
            _Here.gateway = Gateway(Places(current()))
        return _Here.gateway


def serve(cls: Cls, instance: Callable[[Cls], Obj], name: str, endpoint: Endpoint) -> str:
    """Serve an endpoint of an instance of a class that is defined here; return its URL.

    Args:
        cls: the class.
        instance: returns the instance of the class as it is defined when a slot is opened.
        name: of the endpoint's function in the class.
        endpoint: what it is to the web.
    """
    app = cls._app
    shown = getattr(cls, "shown_endpoint", f"{cls.name}.{name}")
    label = endpoint.label or default_label(None if app is None else app.name, shown)
    target = Target(
        f"{label}-dev",
        shown,
        lambda gateway_, slot: slot_of(instance(cls.newest()), name, shown).remote.aio(
            name, gateway_, slot
        ),
        cls.newest,
        cls._options.timeout_seconds,
        endpoint.needs_token,
    )
    return gateway().serve(target)


def slot_of(instance: Obj, name: str, shown: str) -> Function[..., Any]:
    """Return the method of an instance that serves slots of its endpoint `name`."""
    from notebook_ext.instance import Method  # noqa: PLC0415  it needs classes
    from notebook_ext.web.serving import SERVE  # noqa: PLC0415  likewise

    known = instance.__dict__.setdefault("_slots", {})
    method: Method | None = known.get(name)
    if method is None:
        method = known[name] = Method(instance, SERVE)
        method._name = shown  # noqa: SLF001  what people know it by
        method.says_why_it_waits = False
    return method


def close() -> None:
    """Serve nothing any more."""
    with _Here.lock:
        found, _Here.gateway = _Here.gateway, None
    if found is not None:
        found.close()


def _forget() -> None:
    """Leave the parent's gateway alone in a process that was forked."""
    _Here.gateway = None
    _Here.lock = threading.Lock()


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
