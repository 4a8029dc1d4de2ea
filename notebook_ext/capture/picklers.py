"""The two picklers of a capture: of code into a bundle, of values into a snapshot."""

from __future__ import annotations

import hashlib
import io
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kernel_worker.wire import bundle, byvalue

if TYPE_CHECKING:
    import pickle

OUT_OF_BAND_BYTES = 1024 * 1024
"""Larger buffers are hashed where they are instead of being pickled to see whether they changed."""


class Numbering(Protocol):
    """What a pickler needs of the walk: numbers for code, and to be told what it meets."""

    def item(self, thing: Any) -> int:
        """Return the number of a function or class that travels by value."""

    def namespace(self, names: dict[str, Any]) -> int:
        """Return the number of a globals dictionary."""

    def cell(self, found: types.CellType) -> int:
        """Return the number of a closure cell."""

    def note_module(self, name: str | None) -> None:
        """Remember that something refers to this module."""

    def note_reference(self, thing: Any) -> None:
        """Remember a remote function that is captured."""

    def note_stored(self, thing: Any) -> None:
        """Remember an object that was put."""

    def is_elsewhere(self, function: types.FunctionType, place: bundle.Place) -> bool:
        """Say whether a value at this place is in the snapshot, and so not in the bundle."""


class Encoded(NamedTuple):
    """One pickled value."""

    data: bytes
    buffers: tuple[memoryview, ...]
    buffer_digests: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        """How large it is, buffers and all."""
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)

    def is_like(self, other: Encoded) -> bool:
        """Say whether both are pickles of equal content."""
        return self.data == other.data and self.buffer_digests == other.buffer_digests


def encode(value: object, numbering: Numbering) -> Encoded:
    """Return the pickle of a captured value, in which code is named by its number."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    with io.BytesIO() as file:
        SnapshotPickler(file, numbering, keep).dump(value)
        data = file.getvalue()
    if not buffers:
        return Encoded(data, (), ())
    return Encoded(data, tuple(buffers), tuple(map(digest, buffers)))


def digest(buffer: memoryview) -> bytes:
    """Return the content address of a buffer; SHA-256 is what processors have instructions for."""
    return hashlib.sha256(buffer).digest()


def raw_place(thing: Any) -> tuple[str, str] | None:
    """Return module and name of a function that its module has only in decorated form."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    found = _imported(module)
    if found is None or "<locals>" in name:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    getter = getattr(found, "get_raw_f", None) if is_remote_reference(found) else None
    return (str(module), name) if getter is not None and getter() is thing else None


def _imported(module: object) -> Any:
    if not isinstance(module, str) or module in {"__main__", "__mp_main__"}:
        return None
    return sys.modules.get(module)


def is_remote_reference(thing: object) -> bool:
    """Say whether `thing` is a remote function or the like, which travels as a reference."""
    return hasattr(type(thing), "__remote_reference__")


def is_stored(thing: object) -> bool:
    """Say whether `thing` is the handle of an object that was put."""
    return hasattr(type(thing), "__stored_object__")


class _CapturePickler(byvalue.ByValuePickler):
    def __init__(self, file: io.BytesIO, numbering: Numbering, keep: Any = None) -> None:
        super().__init__(file, 5, keep)
        self.numbering = numbering

    def reducer_override(self, obj: Any) -> Any:
        """Return how `obj` is rebuilt, or NotImplemented for pickle's own way."""
        if is_remote_reference(obj):
            self.numbering.note_reference(obj)
            return NotImplemented
        if is_stored(obj):
            self.numbering.note_stored(obj)
            return obj.__stored_reference__()
        if isinstance(obj, types.FunctionType):
            return self._code(obj)
        if isinstance(obj, types.ModuleType):
            self.numbering.note_module(obj.__name__)
        elif byvalue.is_class(obj):
            return self._code(obj)
        elif isinstance(obj, types.BuiltinFunctionType):
            self.numbering.note_module(obj.__module__)
        return super().reducer_override(obj)

    def _code(self, obj: Any) -> Any:
        if byvalue.is_by_reference(obj):
            self.numbering.note_module(obj.__module__)
            return super().reducer_override(obj)
        place = raw_place(obj)
        if place is not None:
            self.numbering.note_module(place[0])
            return bundle.raw_function, place
        return self._by_value(obj)

    def _by_value(self, obj: Any) -> Any:
        raise NotImplementedError


class SnapshotPickler(_CapturePickler):
    """Pickles a value; functions and classes of the notebook are numbers of items."""

    def _by_value(self, obj: Any) -> Any:
        if byvalue.is_builtin_type(obj):
            return super(_CapturePickler, self).reducer_override(obj)
        return bundle.item, (self.numbering.item(obj),)


class BundlePickler(_CapturePickler):
    """Pickles the items of a bundle, with numbers for their namespaces and cells."""

    def _by_value(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            self.numbering.item(obj)
            return self._function(obj)
        reduced = super(_CapturePickler, self).reducer_override(obj)
        if not isinstance(reduced, tuple):
            return reduced
        if not byvalue.is_builtin_type(obj):
            self.numbering.item(obj)
        return bundle.untracked_class(reduced)

    def _function(self, function: types.FunctionType) -> Any:
        cells = tuple(
            bundle.CellNumber(self.numbering.cell(cell)) for cell in function.__closure__ or ()
        )
        names = bundle.NamespaceNumber(self.numbering.namespace(function.__globals__))
        make = (function.__code__, names, cells)
        state = self._state(function)
        return bundle.make_function, make, state, None, None, bundle.fill_function

    def _state(self, function: types.FunctionType) -> dict[str, Any]:
        state: dict[str, Any] = {
            name: getattr(function, name)
            for name in ("__name__", "__qualname__", "__module__", "__doc__")
        }
        state["__annotations__"] = annotations_of(function)
        if parameters := getattr(function, "__type_params__", ()):
            state["__type_params__"] = parameters
        number = self.numbering.item(function)

        def bundled(kind: int, name: str, value: Any) -> Any:
            place = bundle.Place(kind, number, name)
            return None if self.numbering.is_elsewhere(function, place) else value

        defaults = function.__defaults__
        state["__defaults__"] = defaults and tuple(
            bundled(bundle.DEFAULT, str(i), value) for i, value in enumerate(defaults)
        )
        keywords = function.__kwdefaults__
        state["__kwdefaults__"] = keywords and {
            name: bundled(bundle.KEYWORD_DEFAULT, name, value) for name, value in keywords.items()
        }
        state["__dict__"] = {
            name: value
            for name, value in vars(function).items()
            if not self.numbering.is_elsewhere(
                function, bundle.Place(bundle.ATTRIBUTE, number, name)
            )
        }
        return state


def annotations_of(thing: Any) -> dict[str, Any]:
    """Return the annotations; none where evaluating them fails (names that do not exist yet)."""
    if byvalue.is_class(thing) and sys.version_info < (3, 14):
        return dict(vars(thing).get("__annotations__", {}))  # asking the class would add them
    try:
        return dict(thing.__annotations__)
    except Exception:  # noqa: BLE001  users' expressions are evaluated here since Python 3.14
        return {}
