"""The walk from a function over all that it can get at by name.

Numbers (of items, namespaces, cells) are given in the order of the walk, and what it finds is
written into a stream of tokens in that order: two walks with equal streams have equal numbers, so
the bundle of the one fits the snapshot of the other.
"""

from __future__ import annotations

import enum
import functools
import re
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudpickle import cloudpickle

from kernel_worker.errors import SerializationError
from kernel_worker.wire import bundle, byvalue, culprit
from kernel_worker.wire.bundle import Place
from kernel_worker.wire.payload import PLAIN_TYPES
from notebook_ext.capture import local_modules, names, picklers, tokens

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Iterable

    from kernel_worker.model import Digest

NAMESPACE_ATTRIBUTES = ("__name__", "__package__", "__file__", "__doc__")
_NOT_CAPTURED = frozenset({*NAMESPACE_ATTRIBUTES, "__builtins__", "__loader__", "__spec__"})
_CLASS_NOISE = frozenset(
    {
        "__dict__",
        "__weakref__",
        "_abc_impl",
        "__slotnames__",  # pickle's own cache
        "__static_attributes__",  # in no fixed order
        "__annotations__",  # walked for themselves
        "__annotations_cache__",
        "__annotate_func__",
        "__annotate__",
    }
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MEMBER_CODE = (types.FunctionType, property, functools.cached_property, staticmethod, classmethod)


class Slot(NamedTuple):
    """A value and where it is bound."""

    place: Place
    label: str
    value: Any


class Reach:
    """Everything that a function reaches; implements `picklers.Numbering`."""

    def __init__(self, root: Any) -> None:
        """Walk from `root`.

        Raises:
            SerializationError: a captured value cannot be pickled.
        """
        self.root = root
        self.root_in_snapshot = False
        self.items: list[Any] = []
        self.namespaces: list[dict[str, Any]] = []
        self.cells: list[types.CellType] = []
        self.reads: list[dict[str, None]] = []
        """Per namespace: the names that are read from it."""
        self.files: dict[str, int] = {}
        self.bindings: dict[Place, Any] = {}
        """What is bound to code, or to what is found by name."""
        self.slots: list[Slot] = []
        self.encoded: list[picklers.Encoded] = []
        """The pickles of the slots' values."""
        self.references: dict[int, Any] = {}
        self.stored: dict[Digest, bytes] = {}
        """Objects that were put and whose handles are captured."""
        self.module_names: dict[str, None] = {}
        self.needed: dict[str, None] = {}
        """Modules that code imports whenever it runs."""
        self.submodules: dict[str, None] = {}
        self.tokens: list[bytes] = []
        self._numbers: dict[tuple[type, int], int] = {}
        self._visited = 0
        self._slot_places: set[Place] = set()
        self._start()
        self._finish()

    # ---- numbers -----------------------------------------------------------------------------

    def item(self, thing: Any) -> int:
        """Return the number of a function or class that travels by value."""
        return self._number(self.items, thing)

    def cell(self, found: types.CellType) -> int:
        """Return the number of a closure cell."""
        return self._number(self.cells, found)

    def namespace(self, names_: dict[str, Any]) -> int:
        """Return the number of a globals dictionary."""
        number = self._number(self.namespaces, names_)
        if number == len(self.reads):
            self.reads.append({})
        return number

    def _number(self, kind: list[Any], thing: Any) -> int:
        key = (type(thing), id(thing))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(kind)
            kind.append(thing)
        return number

    @property
    def is_complete(self) -> bool:
        """Every item that was met has been walked."""
        return self._visited == len(self.items)

    # ---- what picklers tell ------------------------------------------------------------------

    def note_module(self, name: str | None) -> None:
        """Remember that something refers to this module."""
        if isinstance(name, str):
            self.module_names[name] = None

    def note_reference(self, thing: Any) -> None:
        """Remember a remote function that is captured."""
        self.references[id(thing)] = thing

    def note_stored(self, thing: Any) -> None:
        """Remember an object that was put."""
        digest, content = thing.__stored_object__()
        self.stored[digest] = content

    def is_elsewhere(self, function: types.FunctionType, place: Place) -> bool:  # noqa: ARG002
        """Say whether the value at `place` is in the snapshot."""
        return place in self._slot_places

    # ---- the walk ----------------------------------------------------------------------------

    def _start(self) -> None:
        root = self.root
        if self._is_named(root) or isinstance(root, types.BuiltinFunctionType):
            self._reference_token(root)
        elif isinstance(root, types.FunctionType) or byvalue.is_class(root):
            self.item(root)
        else:
            self.root_in_snapshot = True
            self._slot(Place(bundle.ROOT), "the function", root)

    def _finish(self) -> None:
        """Walk items and pickle values until neither brings a new item."""
        while not self.is_complete or len(self.encoded) < len(self.slots):
            if self.is_complete:
                self._encode_next()
            else:
                number = self._visited
                self._visited += 1
                self._visit(number, self.items[number])

    def _encode_next(self) -> None:
        slot = self.slots[len(self.encoded)]
        self.encoded.append(self._encode(slot.value, slot.label))

    def _encode(self, value: Any, label: str) -> picklers.Encoded:
        try:
            return picklers.encode(value, self)
        except Exception as error:
            path = culprit.find(value, label, lambda part: picklers.encode(part, self))
            message = f"{path} cannot be pickled: {type(error).__name__}: {error}"
            raise SerializationError(message) from error

    def _visit(self, number: int, thing: Any) -> None:
        if isinstance(thing, types.FunctionType):
            self._visit_function(number, thing)
        else:
            self._visit_class(number, thing)

    def _visit_function(self, number: int, function: types.FunctionType) -> None:
        code = function.__code__
        scope = self.namespace(function.__globals__)
        self._token(
            "function",
            tokens.constant((function.__qualname__, function.__module__, scope)),
            tokens.code(code),
            self._file_token(code.co_filename),
        )
        found = names.of(code)
        self._imports(found.imports, function.__globals__)
        if number == 0:  # others may not be called
            self.needed.update(dict.fromkeys(found.needed))
        for name in found.reads:
            self._read_global(scope, name)
        self._submodules(function, found.reads)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            self._read_cell(cell, f"closure variable {name!r} of {function.__qualname__}")
        self._defaults(number, function)
        self._annotations(picklers.annotations_of(function))
        for name, value in vars(function).items():
            label = f"attribute {name!r} of {function.__qualname__}"
            self._put(Place(bundle.ATTRIBUTE, number, name), label, value, inline=True)

    def _file_token(self, filename: str) -> bytes:
        index = self.files.setdefault(filename, len(self.files))
        if tokens.is_cell(filename):
            return tokens.constant(("cell", index))
        return tokens.constant(("file", filename))

    def _imports(self, imports: Iterable[names.Import], scope: dict[str, Any]) -> None:
        for found in imports:
            for name in local_modules.full(found, str(scope.get("__package__") or "")):
                self.note_module(name)

    def _read_global(self, scope: int, name: str) -> None:
        reads = self.reads[scope]
        if name in reads or name in _NOT_CAPTURED:
            return
        reads[name] = None
        namespace = self.namespaces[scope]
        if name in namespace:
            self._put(Place(bundle.GLOBAL, scope, name), f"global {name!r}", namespace[name])

    def _submodules(self, function: types.FunctionType, reads: Iterable[str]) -> None:
        """Note submodules that are used as attributes of a package: `import a.b` gives only `a`."""
        scope = function.__globals__
        packages = [scope[n] for n in reads if isinstance(scope.get(n), types.ModuleType)]
        find = cloudpickle._find_imported_submodules  # noqa: SLF001
        for module in find(function.__code__, packages) if packages else ():
            self.note_module(module.__name__)
            self.submodules[module.__name__] = None

    def _read_cell(self, cell: types.CellType, label: str) -> None:
        before = len(self.cells)
        number = self.cell(cell)
        self._token("cell", tokens.constant(number))
        if number < before:
            return
        try:
            contents = cell.cell_contents
        except ValueError:
            return
        self._put(Place(bundle.CELL, number), label, contents)

    def _defaults(self, number: int, function: types.FunctionType) -> None:
        for position, value in enumerate(function.__defaults__ or ()):
            place = Place(bundle.DEFAULT, number, str(position))
            self._put(place, f"default of {function.__qualname__}", value, inline=True)
        for name, value in (function.__kwdefaults__ or {}).items():
            place = Place(bundle.KEYWORD_DEFAULT, number, name)
            self._put(place, f"default {name!r} of {function.__qualname__}", value, inline=True)

    def _annotations(self, annotations: dict[str, Any]) -> None:
        for name, value in annotations.items():
            self._token("annotation", tokens.constant(name))
            self._opaque(value)

    # ---- classes -----------------------------------------------------------------------------

    def _visit_class(self, number: int, kind: type) -> None:
        self._token("class", tokens.constant((kind.__qualname__, kind.__module__)))
        for part in (type(kind), *kind.__bases__):
            self._opaque(part)
        self._annotations(picklers.annotations_of(kind))
        attributes = self._class_attributes(kind)
        for name in sorted(attributes):
            self._token("attribute", tokens.constant(name))
            self._attribute(number, kind, name, attributes[name])

    def _class_attributes(self, kind: type) -> dict[str, Any]:
        found = {n: v for n, v in vars(kind).items() if n not in _CLASS_NOISE}
        if isinstance(kind, enum.EnumMeta):
            members: dict[str, Any] = {n: kind.__members__[n].value for n in kind.__members__}
            kept = {name: v for name, v in found.items() if isinstance(v, _MEMBER_CODE)}
            return {**kept, **members}
        return found

    def _attribute(self, number: int, kind: type, name: str, value: Any) -> None:
        match value:
            case types.FunctionType():
                self._code_or_reference(value)
            case staticmethod() | classmethod():
                self._attribute(number, kind, name, value.__func__)
            case property():
                for accessor in (value.fget, value.fset, value.fdel):
                    self._opaque(accessor)
            case functools.cached_property():
                self._opaque(value.func)
            case types.MemberDescriptorType() | types.GetSetDescriptorType():
                pass
            case _ if name == "__dataclass_fields__":
                self._dataclass_fields(value)
            case _ if _is_slot(kind, name, value):
                label = f"{kind.__qualname__}.{name}"
                self._put(Place(bundle.ATTRIBUTE, number, name), label, value)
            case _:
                self._opaque(value)

    def _dataclass_fields(self, fields: dict[str, dataclasses.Field[Any]]) -> None:
        for name, field in fields.items():
            self._token("field", tokens.constant(name))
            self._opaque(field.default_factory)

    # ---- what a name leads to ------------------------------------------------------------------

    def _put(self, place: Place, label: str, value: Any, *, inline: bool = False) -> None:
        """Bind `value` at `place`: in the bundle where it is code, else in the snapshot.

        Args:
            place: where it is bound.
            label: for people.
            value: what is bound.
            inline: the bundle holds the value itself where it is code or plain.
        """
        self._token("place", tokens.constant((place.kind, place.owner, place.name)))
        if self._is_code(value):
            self._code_or_reference(value)
            if not inline:
                self.bindings[place] = value
        elif inline and type(value) in PLAIN_TYPES and place.kind != bundle.ATTRIBUTE:
            self._token("plain", tokens.constant(value))
        else:
            self._slot(place, label, value)

    def _slot(self, place: Place, label: str, value: Any) -> None:
        self.slots.append(Slot(place, label, value))
        self._slot_places.add(place)

    def _is_code(self, value: Any) -> bool:
        if picklers.is_remote_reference(value):
            return False
        return isinstance(value, types.FunctionType | types.ModuleType) or byvalue.is_class(value)

    def _code_or_reference(self, value: Any) -> None:
        if self._is_named(value):
            self._reference_token(value)
        else:
            self._token("item", tokens.constant(self.item(value)))

    def _is_named(self, value: Any) -> bool:
        if isinstance(value, types.ModuleType):
            return True
        if not isinstance(value, types.FunctionType) and not byvalue.is_class(value):
            return False
        if byvalue.is_class(value) and byvalue.is_builtin_type(value):
            return True
        return byvalue.is_by_reference(value) or picklers.raw_place(value) is not None

    def _reference_token(self, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            self.note_module(value.__name__)
            self._token("module", value.__name__.encode())
        else:
            self.note_module(value.__module__)
            self._token("named", tokens.reference(value))

    def _opaque(self, value: Any) -> None:
        """Walk what lies inside a value that the bundle pickles as part of code."""
        if type(value) in PLAIN_TYPES or isinstance(value, tuple | frozenset):
            self._token("constant", tokens.constant(value))
        elif self._is_code(value):
            self._code_or_reference(value)
            return
        else:
            self._token("opaque", _ADDRESS.sub("", _type_repr(value)).encode())
        before = len(self.items)
        try:
            picklers.encode(value, self)
        except Exception:  # noqa: BLE001  pickling the bundle will name it
            return
        self._token("items", tokens.constant((before, len(self.items))))

    def _token(self, tag: str, *parts: bytes) -> None:
        self.tokens.append(tokens.framed(tag, *parts))


def _is_slot(kind: type, name: str, value: Any) -> bool:
    """Say whether a class attribute is data that is bound anew when it changes.

    Not where a metaclass may have its own idea of what assigning to a class means.
    """
    if name.startswith("__") or hasattr(type(value), "__get__") or byvalue.is_class(value):
        return False
    if type(kind).__setattr__ is not type.__setattr__ or isinstance(kind, enum.EnumMeta):
        return False
    return not (issubclass(kind, tuple) and name.startswith("_field"))


def _type_repr(value: Any) -> str:
    """Return what tells an annotation or the like from another one: its text."""
    if isinstance(value, types.GenericAlias | types.UnionType) or _is_typing(value):
        return repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_typing(value: Any) -> bool:
    return type(value).__module__ == "typing"
