"""Whether anything that a walk has seen is another thing now: asked at every call, in microseconds.

Theory. Python names are bound to objects: if every name is bound to the same object as before, and
no such object has changed in place, a new walk would find the same. The first is a comparison of
identities (the compared objects are held, so that no id is used twice). For the second, values of
immutable types are trusted, and all others are pickled again and compared.
"""

from __future__ import annotations

import pickle
import time
import types
from itertools import repeat
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel_worker.wire import byvalue
from kernel_worker.wire.payload import PLAIN_TYPES
from notebook_ext.capture import local_modules, picklers
from notebook_ext.companions import collecting, gathering

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from notebook_ext.capture.reach import Reach, Slot

_MISSING = object()
_IMMUTABLE_TYPES = PLAIN_TYPES | {
    complex,
    range,
    object,
    type(...),
    type(NotImplemented),
    types.BuiltinFunctionType,
    types.ModuleType,
    *byvalue.DATACLASS_SENTINELS,
    byvalue.CacheWrapper,
}
_IMMUTABLE_NAMES = frozenset(
    {
        "re.Pattern",
        "datetime.date",
        "datetime.time",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "logging.Logger",
        "logging.RootLogger",
    }
)


class _Scope(NamedTuple):
    """Names of one namespace and what they were bound to."""

    namespace: dict[str, Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]


class _Function(NamedTuple):
    """A function and what can be replaced in it."""

    function: types.FunctionType
    parts: tuple[Any, ...]
    attributes: tuple[Any, ...]
    keywords: tuple[Any, ...]


class _Content(NamedTuple):
    """A value that may change in place, and how to see whether it did."""

    value: Any
    fingerprint: Fingerprint | None
    """None: plain pickle does not take it."""
    encoded: picklers.Encoded
    label: str
    """For people."""
    seconds: float
    """What making the fingerprint took."""


class Watch:
    """Compares the present with what one walk saw."""

    def __init__(self, reach: Reach, modules: local_modules.Found) -> None:
        self._reach = reach
        self._scopes = [
            _Scope(namespace, tuple(reads), _values(namespace, tuple(reads)))
            for namespace, reads in zip(reach.namespaces, reach.reads, strict=True)
        ]
        self._functions = [_function(i) for i in reach.items if isinstance(i, types.FunctionType)]
        classes = [item for item in reach.items if not isinstance(item, types.FunctionType)]
        self._classes = [(kind, tuple(vars(kind).values())) for kind in classes]
        self._cells = [(cell, _contents(cell)) for cell in reach.cells]
        pairs = zip(reach.slots, reach.encoded, strict=True)
        self._contents = [_content(s, e) for s, e in pairs if not is_immutable(s.value)]
        self._files = [module.stamp for module in modules.local]
        self._missing = modules.missing

    def costs(self, large: int) -> Iterator[tuple[str, int, float]]:
        """Yield name, bytes and seconds of each value of `large` bytes that is looked at."""
        for content in self._contents:
            size = content.encoded.nbytes
            if size >= large:
                yield content.label, size, content.seconds

    def is_unchanged(self) -> bool:
        """Say whether a new walk would find the same."""
        return (
            self._have_names_same_values()
            and self._are_functions_same()
            and (not self._cells or all(_contents(cell) is value for cell, value in self._cells))
            and (not self._classes or all(_same(vars(k), before) for k, before in self._classes))
            and (not self._files or all(local_modules.stamp_of(f.path) == f for f in self._files))
            and not any(map(local_modules.locate, self._missing))
            and all(map(self._has_same_content, self._contents))
        )

    def _have_names_same_values(self) -> bool:
        for namespace, names, values in self._scopes:
            if not all(map(is_, map(namespace.get, names, repeat(_MISSING)), values)):
                return False
        return True

    def _are_functions_same(self) -> bool:
        for function, parts, attributes, keywords in self._functions:
            code, defaults, keyword_defaults, attribute_dict = _parts(function)
            if (
                code is not parts[0]
                or defaults is not parts[1]
                or keyword_defaults is not parts[2]
                or ((attribute_dict or attributes) and not _same(attribute_dict, attributes))
                or (keywords and not _same(keyword_defaults, keywords))
            ):
                return False
        return True

    def _has_same_content(self, content: _Content) -> bool:
        if content.fingerprint is not None:
            return fingerprint(content.value) == content.fingerprint
        try:
            encoded = picklers.encode(content.value, self._reach)
        except Exception:  # noqa: BLE001  the walk will say what is wrong
            return False
        return encoded.is_like(content.encoded) and self._reach.is_complete


Fingerprint = tuple[bytes, tuple[bytes, ...]]
"""A pickle, and the digests of its buffers."""


def fingerprint(value: Any) -> Fingerprint | None:
    """Return what differs when `value` was changed: a plain pickle, much faster than ours.

    Code in it is there by name only: that code is watched for itself, and a name that has got
    another object makes pickle fail. So are objects that were put, and remote functions.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = gathering({}, collecting, {}, _plain_pickle, value, buffers)
        return data, tuple(picklers.digest(buffer.raw()) for buffer in buffers) if buffers else ()
    except Exception:  # noqa: BLE001  users' code may raise anything
        return None


def _plain_pickle(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    return pickle.dumps(value, 5, buffer_callback=buffers.append)


def _content(slot: Slot, encoded: picklers.Encoded) -> _Content:
    begun = time.perf_counter()
    seen = fingerprint(slot.value)
    return _Content(slot.value, seen, encoded, slot.label, time.perf_counter() - begun)


def is_immutable(value: Any) -> bool:
    """Say whether `value` stays as it is as long as it is the same object."""
    kind = type(value)
    if kind in _IMMUTABLE_TYPES:
        return True
    if picklers.is_remote_reference(value) or picklers.is_stored(value):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(is_immutable, value))
    if isinstance(value, types.FunctionType) or byvalue.is_class(value):
        return True
    return f"{kind.__module__}.{kind.__qualname__}" in _IMMUTABLE_NAMES


def _values(namespace: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(map(namespace.get, names, repeat(_MISSING)))


_parts = attrgetter("__code__", "__defaults__", "__kwdefaults__", "__dict__")


def _function(function: types.FunctionType) -> _Function:
    parts: tuple[Any, ...] = _parts(function)
    keywords = tuple((function.__kwdefaults__ or {}).values())
    return _Function(function, parts, tuple(vars(function).values()), keywords)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _same(present: Mapping[str, Any], before: tuple[Any, ...]) -> bool:
    return len(present) == len(before) and all(map(is_, present.values(), before))
