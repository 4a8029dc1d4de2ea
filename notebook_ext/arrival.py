"""The code of a function that is known here by its key alone, for `.local`.

In a worker that is a function which the tree of calls refers to; anywhere, one that is deployed.
"""

from __future__ import annotations

import functools
import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from kernel_worker import context
from notebook_ext import process
from notebook_ext.companions import loading
from notebook_ext.package import entry_of, tree_table, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.model import DeployedFunction, Digest, FunctionKey


def load(key: FunctionKey, own_table: Digest) -> Callable[..., Any]:
    """Return the plain function behind `key`, as this tree of calls sees it.

    Raises:
        InvalidError: this is no worker.
        NotFoundError: the tree of calls does not refer to it.
    """
    running, identity = context.running_input(), context.worker_identity
    load_function = getattr(identity, "load_function", None)
    tree = tree_table(running)
    if tree is None or load_function is None:
        raise unreachable(key)
    table, spec, snapshot = entry_of(key, tree, own_table)
    return _load(spec.code, snapshot, partial(loading, table, load_function))


def load_deployed(found: DeployedFunction) -> Callable[..., Any]:
    """Return the plain function of what is deployed; the same one for the same code and values."""
    return _load_here(found.spec.code, found.snapshot, found.table)


@functools.lru_cache(maxsize=32)
def _load_here(code: Digest, snapshot: Digest, table: Digest) -> Callable[..., Any]:
    # By name: the client does not see the worker's room but for this.
    loader: Any = importlib.import_module("kernel_worker.worker.binding").load_function
    return _load(code, snapshot, partial(loading, table, loader))


def _load(
    code: Digest, snapshot: Digest, loader: Callable[[bytes, bytes], Any]
) -> Callable[..., Any]:
    session = process.current()
    content = session.ask("object", code, bytes)
    values = session.ask("object", snapshot, bytes).join() if snapshot else b""
    function: Callable[..., Any] = loader(content.join(), values)
    return function
