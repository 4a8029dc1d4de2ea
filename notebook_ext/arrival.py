"""In a worker: the code of a function that arrived as a reference, for `.local`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernel_worker import context
from kernel_worker.errors import InvalidError, NotFoundError
from notebook_ext import process
from notebook_ext.package import table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.model import FunctionKey


def load(key: FunctionKey) -> Callable[..., Any]:
    """Return the plain function behind `key`, as this tree of calls sees it.

    Raises:
        InvalidError: this is no worker.
        NotFoundError: the tree of calls does not refer to it.
    """
    running, identity = context.running_input(), context.worker_identity
    name = key.rpartition("/")[2]
    load_function = getattr(identity, "load_function", None)
    if running is None or load_function is None:
        raise InvalidError(f"{name} was defined in another process; here it is only a name.")
    found = table_of(running).get(key)
    if found is None:
        raise NotFoundError(f"{name} is not known to this tree of calls.")
    spec, snapshot = found
    session = process.current()
    code = session.ask("object", spec.code, bytes)
    values = session.ask("object", snapshot, bytes).join() if snapshot else b""
    function: Callable[..., Any] = load_function(code.join(), values)
    return function
