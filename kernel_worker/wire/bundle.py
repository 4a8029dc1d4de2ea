"""A function on the wire: its code (`Bundle`) and what that code captured (`Snapshot`).

Theory. Code is *items* (functions and classes that travel by value), *namespaces* (the globals that
items share), *cells* (closure variables that they share) and sources of local modules. A bundle
holds all of these; where an item, a namespace or a cell is meant inside a pickle, it is named by
its number, and `Assembly` says what that number is while the pickle is loaded. A snapshot holds
values, each with the *places* at which it is bound: a global, a cell, a default, an attribute.
So items are the same objects for every snapshot, and a snapshot of other values changes no code.

A bundle is written by `notebook_ext.capture` and read by `kernel_worker.worker.binding`.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import types
from typing import TYPE_CHECKING, Any

import msgspec
from cloudpickle import cloudpickle

from kernel_worker.errors import DeserializationError
from kernel_worker.packages import Versions
from kernel_worker.wire import byvalue

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1

GLOBAL = 0
"""Owner: a namespace; name: the variable."""
CELL = 1
"""Owner: a cell."""
DEFAULT = 2
"""Owner: an item; name: the position of a positional default."""
KEYWORD_DEFAULT = 3
"""Owner: an item; name: the parameter."""
ATTRIBUTE = 4
"""Owner: an item; name: the attribute of the function or class."""
ROOT = 5
"""The function itself, where it is an object such as `functools.partial`."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a value is bound."""

    kind: int
    owner: int = 0
    name: str = ""


class ModuleSource(msgspec.Struct, frozen=True, array_like=True):
    """A local module: what `import name` runs in the worker."""

    name: str
    path: str
    source: bytes
    is_package: bool


class Bundle(msgspec.Struct, frozen=True, array_like=True):
    """The code of a function."""

    format: int
    python: tuple[int, int]
    name: str
    namespaces: tuple[dict[str, str], ...]
    """The attributes that each starts with: `__name__` and its like."""
    cells: int
    modules: tuple[ModuleSource, ...]
    files: tuple[str, ...]
    """The file names that the code objects carry; a snapshot has the present ones."""
    is_async: bool
    is_generator: bool
    payload: bytes
    """Pickle of `(items, bindings, root, modules)`; see `Contents`."""
    packages: Versions = ()
    """What it was captured with: compared on other machines (`packages`)."""
    needs: tuple[str, ...] = ()
    """Those of them without which it cannot run, though nothing here refers to them."""


class Value(msgspec.Struct, frozen=True, array_like=True):
    """One captured value."""

    places: tuple[Place, ...]
    """More than one where the same object was captured more than once."""
    label: str
    """For people: `global 'client'`."""
    digest: str
    data: bytes
    buffers: tuple[bytes, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """What a function's code captured, as it is at a call."""

    files: tuple[str, ...]
    """The present name of each of the bundle's files …"""
    sources: tuple[str, ...]
    """… and its text, for tracebacks (empty where unknown)."""
    classes: tuple[tuple[int, str], ...]
    """Items that are classes, with the ids under which values name them."""
    values: tuple[Value, ...]


Contents = tuple[list[Any], list[tuple[Place, Any]], Any, tuple[Any, ...]]
"""Items, what is bound in the bundle itself, the function (None: by the snapshot), modules."""


class Assembly:
    """The items, namespaces and cells of one loaded bundle."""

    def __init__(self, namespaces: list[dict[str, Any]], cells: int) -> None:
        self.namespaces = namespaces
        self.cells = [types.CellType() for _ in range(cells)]
        self.items: list[Any] = []

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let pickles that this thread loads mean this assembly's numbers."""
        before = getattr(_loading, "assembly", None)
        _loading.assembly = self
        try:
            yield
        finally:
            _loading.assembly = before


_loading = threading.local()


def _assembly() -> Assembly:
    found: Assembly | None = getattr(_loading, "assembly", None)
    if found is None:
        message = "code that refers to a bundle was loaded without it"
        raise DeserializationError(message)
    return found


# ---- what the pickles call ------------------------------------------------------------------


def item(number: int) -> Any:
    """Return an item of the bundle."""
    return _assembly().items[number]


def namespace(number: int) -> dict[str, Any]:
    """Return a namespace of the bundle."""
    return _assembly().namespaces[number]


def cell(number: int) -> types.CellType:
    """Return a closure cell of the bundle."""
    return _assembly().cells[number]


class NamespaceNumber:
    """Stands for a namespace in a pickle."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return namespace, (self._number,)


class CellNumber:
    """Stands for a cell in a pickle."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return cell, (self._number,)


def make_function(
    code: types.CodeType, names: dict[str, Any], cells: tuple[types.CellType, ...]
) -> types.FunctionType:
    """Return a function that is code only; `fill_function` gives it the rest."""
    return types.FunctionType(code, names, code.co_name, None, cells or None)


def fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    """Give a function its name, defaults, annotations and attributes."""
    vars(function).update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(function, name, value)


def fill_class(kind: type, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a class its attributes."""
    cloudpickle._class_setstate(kind, state)  # noqa: SLF001


def raw_function(module: str, qualname: str) -> Any:
    """Return the plain function or class that a decorated name of an importable module wraps."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    getter = getattr(found, "get_raw_f", None)
    return found if getter is None else getter()


def module_or_none(name: str) -> types.ModuleType | None:
    """Import a module that code may need; one that cannot be had fails where it is used."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None


def modules(name: str, *inner: str) -> types.ModuleType:
    """Return a module, once those that lie in it are imported: what a stand-in stands for."""
    for each in inner:
        importlib.import_module(each)
    return importlib.import_module(name)


def member(module: types.ModuleType, name: str) -> Any:
    """Return what `from module import name` gives."""
    if hasattr(module, name):
        return getattr(module, name)
    return importlib.import_module(f"{module.__name__}.{name}")


def untracked_class(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return cloudpickle's reduction of a class with the tracker id left out.

    The bundle of a version outlives the class objects of one run of a cell: which class of the
    notebook an item stands for is said by the snapshot.
    """
    make, arguments, *rest = reduced = byvalue.as_written(reduced)
    position = {
        cloudpickle._make_skeleton_class: byvalue.TRACKER_OF_CLASS,  # noqa: SLF001
        cloudpickle._make_skeleton_enum: byvalue.TRACKER_OF_ENUM,  # noqa: SLF001
    }.get(make)
    if position is None:
        return reduced
    untracked = (*arguments[:position], None, *arguments[position + 1 :])
    return (make, untracked, rest[0], None, None, fill_class)
