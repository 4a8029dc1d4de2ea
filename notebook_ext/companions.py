"""Functions, and objects that were put, as arguments: what they need goes along with the inputs.

Theory. A function that another one *captures* is found when that one is read, and the tree's table
says which version of it the tree sees. One that is an *argument* is found when the argument is
pickled: `Function.__reduce__` asks here (`note`) whether somebody gathers, and is then resolved:
its package goes along with the call, and the pickle names the table in which the worker finds it.
It is resolved once a call, however often it is among the inputs. What is loaded in a worker as a
part of such a function (for its `.local`) finds other functions in that table too (`loading`).
An object that was put (`stored`) is noted the same way, as a package without a function.

Not guaranteed: anything where nobody gathers (users' own pickles): a function is a name there, and
the pickle of a handle holds the object.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from kernel_worker.model import Digest, FunctionKey
from notebook_ext.submission import Package

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.source import Source

P = ParamSpec("P")
T = TypeVar("T")

Companions = dict[FunctionKey, Package]


class _Here(threading.local):
    found: Companions | None = None
    seen: dict[FunctionKey, Source] | None = None
    table: Digest = Digest("")


_here = _Here()


def gathering(found: Companions, encode: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `encode(...)`; the functions that are pickled meanwhile are added to `found`."""
    outer, _here.found = _here.found, found
    try:
        return encode(*args, **kwargs)
    finally:
        _here.found = outer


def collecting(
    seen: dict[FunctionKey, Source],
    encode: Callable[P, T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Return `encode(...)`; the functions that are pickled meanwhile are added to `seen`.

    They are not resolved: whoever collects them refers to them, as to captured ones.
    """
    outer, _here.seen = _here.seen, seen
    try:
        return encode(*args, **kwargs)
    finally:
        _here.seen = outer


def loading(table: Digest, load: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `load(...)`; the functions that are unpickled meanwhile are found in `table`."""
    outer, _here.table = _here.table, table
    try:
        return load(*args, **kwargs)
    finally:
        _here.table = outer


def table_here() -> Digest:
    """Return where functions are found that are being unpickled; `""` for no such place."""
    return _here.table


def note(function: Source) -> Digest:
    """Note that `function` is being pickled; return its table, or `""` where nobody gathers."""
    if _here.seen is not None:
        _here.seen[function.key] = function
        return function.own_table
    found = _here.found
    if found is None:
        return function.own_table
    package = found.get(function.key)
    if package is None:
        _here.found = None  # what it captures is in its table
        try:
            package = found[function.key] = function.as_argument()
        finally:
            _here.found = found
    return package.table


def note_object(digest: Digest, content: bytes) -> bool:
    """Note that the handle of an object that was put is being pickled; false: nobody gathers."""
    if _here.found is None:
        return False
    _here.found[FunctionKey(f"put/{digest}")] = Package.of_object(digest, content)
    return True
