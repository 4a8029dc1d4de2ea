"""Remote functions for notebooks: write a function in a cell, run it on warm workers.

import notebook_ext as nb

app = nb.App()

@app.function()
def square(x):
    return x * x

list(square.map(range(4)))
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kernel_worker import context as _context
from kernel_worker.model import input_id as _input_id
from notebook_ext import exception
from notebook_ext.app import App
from notebook_ext.autoscaler import FunctionStats
from notebook_ext.call import FunctionCall
from notebook_ext.config import config
from notebook_ext.exception import Error
from notebook_ext.function import Function
from notebook_ext.gather import gather
from notebook_ext.integrations import joblib_backend as _joblib_backend
from notebook_ext.marks import batched, concurrent
from notebook_ext.options import Retries
from notebook_ext.secret import Secret
from notebook_ext.stored import put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from notebook_ext import call_graph, functions
    from notebook_ext.attaching import attach
    from notebook_ext.call_status import CallStatus, calls
    from notebook_ext.cls import Cls
    from notebook_ext.connecting import connect, disconnect
    from notebook_ext.event_stream import CallEvent, events
    from notebook_ext.hooks import enter, exit, method, parameter  # noqa: A004  documented names
    from notebook_ext.image import Image
    from notebook_ext.integrations.executor import Executor
    from notebook_ext.schedule import Cron, Period
    from notebook_ext.state.dicts import Dict
    from notebook_ext.state.queues import Queue
    from notebook_ext.state.volumes import Volume
    from notebook_ext.unfinished import last_map
    from notebook_ext.web.endpoints import (
        asgi_app,
        fastapi_endpoint,
        web_endpoint,
        web_server,
        wsgi_app,
    )

__version__ = "0.1.0"

__all__ = [
    "App",
    "CallEvent",
    "CallStatus",
    "Cls",
    "Cron",
    "Dict",
    "Error",
    "Executor",
    "Function",
    "FunctionCall",
    "FunctionStats",
    "Image",
    "Period",
    "Queue",
    "Retries",
    "Secret",
    "Volume",
    "asgi_app",
    "attach",
    "batched",
    "call_graph",
    "calls",
    "concurrent",
    "config",
    "connect",
    "current_function_call_id",
    "current_input_id",
    "disconnect",
    "enable_output",
    "enter",
    "events",
    "exception",
    "exit",
    "fastapi_endpoint",
    "functions",
    "gather",
    "is_local",
    "last_map",
    "method",
    "parameter",
    "put",
    "web_endpoint",
    "web_server",
    "wsgi_app",
]


_joblib_backend.register()


def is_local() -> bool:
    """Return whether this runs outside of workers."""
    return _context.worker_identity is None


def current_input_id() -> str | None:
    """Return the id of the input that runs here; None outside of workers."""
    running = _context.running_input()
    return None if running is None else _input_id(running.call, running.index)


def current_function_call_id() -> str | None:
    """Return the id of the call whose input runs here; None outside of workers."""
    running = _context.running_input()
    return None if running is None else running.shown_call


@contextlib.contextmanager
def enable_output(*, show_progress: bool = True) -> Iterator[None]:  # noqa: ARG001  Modal's
    """Do nothing: what workers print is shown with and without it."""
    yield


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Add the magics: `%load_ext notebook_ext`."""
    from notebook_ext import magics  # noqa: PLC0415  they need IPython

    magics.load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Remove the magics: `%unload_ext notebook_ext`."""
    from notebook_ext import magics  # noqa: PLC0415  they need IPython

    magics.unload(ipython)


_ROOMS = {
    "Cls": "cls",
    "CallEvent": "event_stream",
    "CallStatus": "call_status",
    "Cron": "schedule",
    "Dict": "state.dicts",
    "Executor": "integrations.executor",
    "Image": "image",
    "Period": "schedule",
    "Queue": "state.queues",
    "Volume": "state.volumes",
    "attach": "attaching",
    "call_graph": "",
    "calls": "call_status",
    "connect": "connecting",
    "disconnect": "connecting",
    "asgi_app": "web.endpoints",
    "enter": "hooks",
    "events": "event_stream",
    "exit": "hooks",
    "fastapi_endpoint": "web.endpoints",
    "functions": "",
    "last_map": "unfinished",
    "method": "hooks",
    "parameter": "hooks",
    "web_endpoint": "web.endpoints",
    "web_server": "web.endpoints",
    "widgets": "",
    "wsgi_app": "web.endpoints",
}
"""Where names lie that are imported when they are asked for; rooms lie where they are called.

No name here is also that of another room: the import of a room sets its name in this module.
"""


def __getattr__(name: str) -> Any:
    """Import what not everybody needs when it is asked for."""
    import importlib  # noqa: PLC0415  as said

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = importlib.import_module(f"notebook_ext.{_ROOMS[name] or name}")
    found = globals()[name] = getattr(room, name) if _ROOMS[name] else room
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
