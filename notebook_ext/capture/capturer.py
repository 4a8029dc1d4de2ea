"""Reads a function as it is now: its version, its code and its snapshot as objects to send."""

from __future__ import annotations

import functools
import inspect
import io
import linecache
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kernel_worker import packages
from kernel_worker.errors import SerializationError
from kernel_worker.model import Digest, digest_of
from kernel_worker.wire import bundle, byvalue, culprit
from kernel_worker.wire.bundle import Bundle, Snapshot, Value
from notebook_ext.capture import local_modules, picklers, surroundings, tokens
from notebook_ext.capture.apart import LARGE_BYTES, Apart, notice
from notebook_ext.capture.reach import NAMESPACE_ATTRIBUTES, Reach, Slot
from notebook_ext.capture.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from notebook_ext.capture.local_modules import Found
    from notebook_ext.capture.surroundings import Surroundings

_MAX_BUNDLES = 256


@dataclass(frozen=True, slots=True)
class Captured:
    """A function as it was when it was read."""

    version: Digest
    """The code version: equal for equal code, also in another kernel."""
    code: Digest
    """The object that holds the code."""
    environment: Digest
    """The object that holds the `Environment`."""
    imports: tuple[str, ...]
    """Installed modules that the code imports, sorted."""
    snapshot: Digest
    """The object that holds the captured values."""
    objects: dict[Digest, bytes]
    """Those three objects."""
    references: tuple[object, ...]
    """Remote functions and the like that the function captures."""
    stored: Mapping[Digest, bytes] = field(default_factory=dict)
    """Objects that were put and whose handles it captures, and large captured values."""
    handles: tuple[object, ...] = ()
    """What keeps the large values."""


class Capturer:
    """Reads one function, as often as it is called; safe from several threads."""

    def __init__(self, function: Callable[..., Any], options: bytes = b"") -> None:
        """Read nothing yet.

        Args:
            function: anything callable: a function, a builtin, a partial, a bound method.
            options: what else makes a version, encoded by the caller.
        """
        self._function = function
        self._options = options
        self._lock = threading.RLock()  # as that of `Source`
        self._watch: Watch | None = None
        self._surroundings: Surroundings | None = None
        self._captured: Captured | None = None

    def read(self) -> Captured:
        """Return the function as it is now; the same object as the last time if nothing changed.

        Raises:
            SerializationError: something that it captures cannot be pickled; names the path to it.
        """
        with self._lock:
            around = surroundings.current()
            if (
                self._captured is not None
                and self._watch is not None
                and around is self._surroundings
                and self._watch.is_unchanged()
            ):
                return self._captured
            self._watch = None
            reach = Reach(self._function)
            modules = local_modules.find(reach.module_names)
            self._captured = self._capture(reach, modules, around)
            self._surroundings = around
            self._watch = Watch(reach, modules)
            for label, size, seconds in self._watch.costs(LARGE_BYTES):
                notice(_name(reach.root), label, size, seconds)
            return self._captured

    def _capture(self, reach: Reach, modules: Found, around: Surroundings) -> Captured:
        version = _version(reach, modules, self._options)
        code, code_bytes, imports = _code_object(version, reach, modules)
        apart = None if byvalue.is_class(self._function) else Apart()
        snapshot_bytes = msgspec.msgpack.encode(_snapshot(reach, apart))
        snapshot = digest_of(snapshot_bytes)
        handles = tuple(apart.handles) if apart is not None else ()
        large = dict(handle.__stored_object__() for handle in handles)
        return Captured(
            version=version,
            code=code,
            environment=around.digest,
            imports=imports,
            snapshot=snapshot,
            objects={
                code: code_bytes,
                around.digest: around.encoded,
                snapshot: snapshot_bytes,
            },
            references=tuple(reach.references.values()),
            stored={**reach.stored, **large},
            handles=handles,
        )


def _version(reach: Reach, modules: Found, options: bytes) -> Digest:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    local = [
        part
        for module in modules.local
        for part in (module.source.name.encode(), module.source.source)
    ]
    return digest_of(
        f"{bundle.FORMAT} {python} {len(local)}".encode(), options, *local, *reach.tokens
    )


# ---- the code object ------------------------------------------------------------------------


class _Code(NamedTuple):
    """The code object of a version, and what it imports."""

    digest: Digest
    encoded: bytes
    imports: tuple[str, ...]


_bundles: OrderedDict[Digest, _Code] = OrderedDict()
"""By version: two pickles of one function can differ in bytes, so each is made once."""


def _code_object(version: Digest, reach: Reach, modules: Found) -> _Code:
    known = _bundles.get(version)
    if known is None:
        encoded = msgspec.msgpack.encode(_bundle(reach, modules))
        known = _bundles[version] = _Code(digest_of(encoded), encoded, modules.installed)
        if len(_bundles) > _MAX_BUNDLES:
            _bundles.popitem(last=False)
    else:
        _bundles.move_to_end(version)
    return known


def _bundle(reach: Reach, modules: Found) -> Bundle:
    payload = _payload(reach)
    body = _body(reach.root)
    versions = packages.captured(modules.installed)
    return Bundle(
        format=bundle.FORMAT,
        python=(sys.version_info.major, sys.version_info.minor),
        name=_name(reach.root),
        namespaces=tuple(map(_attributes, reach.namespaces)),
        cells=len(reach.cells),
        modules=tuple(module.source for module in modules.local),
        files=tuple(reach.files),
        is_async=inspect.iscoroutinefunction(body),
        is_generator=inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body),
        payload=payload,
        packages=versions,
        needs=tuple(sorted({*map(packages.top_of, reach.needed)} & dict(versions).keys())),
    )


def _payload(reach: Reach) -> bytes:
    root = None if reach.root_in_snapshot else reach.root
    submodules = tuple(map(_SubmoduleName, reach.submodules))
    contents = (reach.items, list(reach.bindings.items()), root, submodules)
    try:
        with io.BytesIO() as file:
            picklers.BundlePickler(file, reach).dump(contents)
            return file.getvalue()
    except Exception as error:
        path = culprit.find(reach.root, "the function", byvalue.dumps)
        message = f"{path} cannot be pickled: {type(error).__name__}: {error}"
        raise SerializationError(message) from error


class _SubmoduleName:
    """A module that must be imported with the code, and may be missing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return bundle.module_or_none, (self._name,)


def _attributes(namespace: dict[str, Any]) -> dict[str, str]:
    found = {name: namespace.get(name) for name in NAMESPACE_ATTRIBUTES}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _name(root: Any) -> str:
    return str(getattr(root, "__qualname__", type(root).__qualname__))


def _body(function: Any) -> Any:
    """Return the plain function whose kind says what a call gives."""
    while isinstance(function, functools.partial):
        function = function.func
    plain = inspect.isroutine(function) or byvalue.is_class(function)
    return function if plain else type(function).__call__


# ---- the snapshot object --------------------------------------------------------------------


def _snapshot(reach: Reach, apart: Apart | None) -> Snapshot:
    classes = tuple(
        (number, byvalue.tracker_of(item))
        for number, item in enumerate(reach.items)
        if byvalue.is_class(item)
    )
    sources = tuple("".join(linecache.getlines(name)) for name in reach.files)
    return Snapshot(tuple(reach.files), sources, classes, _values(reach, apart))


def _values(reach: Reach, apart: Apart | None) -> tuple[Value, ...]:
    """Return the captured values; an object that was captured twice is one value."""
    groups: dict[object, list[int]] = {}
    for index, slot in enumerate(reach.slots):
        alone = type(slot.value) in _NEVER_SHARED
        groups.setdefault(("alone", index) if alone else id(slot.value), []).append(index)
    return tuple(
        _value([reach.slots[i] for i in indices], reach.encoded[indices[0]], apart)
        for indices in groups.values()
    )


_NEVER_SHARED = frozenset({int, float, str, bytes, bool, type(None), tuple, frozenset})
"""Nobody may ask whether two of these are one object; small ones often are by chance."""


def _value(slots: list[Slot], encoded: picklers.Encoded, apart: Apart | None) -> Value:
    places = tuple(slot.place for slot in slots)
    label = slots[0].label
    where = tokens.constant(tuple((p.kind, p.owner, p.name) for p in places))
    digest = digest_of(where, encoded.data, *encoded.buffer_digests)
    if apart is not None and encoded.nbytes >= LARGE_BYTES:
        return Value(places, label, digest, apart.data(label, encoded))
    return Value(places, label, digest, encoded.data, tuple(map(bytes, encoded.buffers)))
