"""Pickling what has no importable name: functions and classes of a notebook, by value.

Theory. `cloudpickle` sends such a class with every instance and, on the other side, finds the class
that it made before by a tracker id. But it also *assigns the class's attributes again*, at every
load: the notebook's own class would get its methods replaced by copies from a worker, with globals
of their own. Here a class is filled in only where it was made by unpickling; one that was defined
here, or that came with a function's code (`worker.binding`), is left as it is. The definition that
travels with an instance is made once and stays closed where the class is known.

Guarantees: an instance that comes back is an instance of the very class that it left with, and
that class is untouched.
Not guaranteed: that a value can be loaded by another Python minor version.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import types
import typing
import weakref
import zlib
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudpickle import cloudpickle

from kernel_worker.errors import DeserializationError
from kernel_worker.model import short_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    BufferCallback = Callable[[pickle.PickleBuffer], object]

CacheWrapper = type(functools.lru_cache(lambda: None))
_NAMELESS = frozenset({type(None), type(...), type(NotImplemented)})
_BASES_OF_CLASS = 2
TRACKER_OF_CLASS = 4
TRACKER_OF_ENUM = 5
DATACLASS_SENTINELS = {
    type(dataclasses.MISSING): "MISSING",
    type(dataclasses.KW_ONLY): "KW_ONLY",
    dataclasses._HAS_DEFAULT_FACTORY_CLASS: "_HAS_DEFAULT_FACTORY",  # type: ignore[attr-defined]  # noqa: SLF001
}

_made_here: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
"""Classes that are in this process because a value brought them, with the definition's digest."""

_given: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that are in this process because a function's code brought them."""


def dumps(value: object, buffer_callback: BufferCallback | None = None) -> bytes:
    """Return the pickle of `value`; whatever `__main__` defines travels by value."""
    with io.BytesIO() as file:
        ValuePickler(file, 5, buffer_callback).dump(value)
        return file.getvalue()


def tracker_of(kind: type) -> str:
    """Return the id under which the other side knows this class."""
    return str(cloudpickle._get_or_create_tracker_id(kind))  # noqa: SLF001


def track(kind: type, tracker: str) -> None:
    """Let values that name the class `tracker` be of `kind`, and the other way round."""
    _given.add(kind)
    with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:  # noqa: SLF001
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker] = kind  # noqa: SLF001
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind] = tracker  # noqa: SLF001


def is_by_reference(thing: object) -> bool:
    """Say whether a function, class or module is found by its name on the other side."""
    return bool(cloudpickle._should_pickle_by_reference(thing))  # noqa: SLF001


def is_builtin_type(kind: object) -> bool:
    """Say whether this is a class of the interpreter that may have no name (`NoneType`)."""
    return kind in _NAMELESS or kind in cloudpickle._BUILTIN_TYPE_NAMES  # noqa: SLF001


def is_class(thing: object) -> bool:
    """Say whether `thing` is a class, without asking proxies that lie about it."""
    return issubclass(type(thing), type)


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """What the picklers of values and of code share: objects that `cloudpickle` gets wrong."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how `obj` is rebuilt, or NotImplemented for pickle's own way."""
        kind = type(obj)
        if kind in DATACLASS_SENTINELS:
            return DATACLASS_SENTINELS[kind]
        if kind is CacheWrapper and _has_no_name(obj):
            parameters = obj.cache_parameters()
            return make_cache, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
        if kind is typing.NewType and _has_no_name(obj):
            return make_new_type, (obj.__qualname__, obj.__supertype__, obj.__module__)
        if kind is types.CodeType:
            make, arguments = cloudpickle._code_reduce(obj)  # noqa: SLF001
            # A copy: whether two codes name one string is chance, and would show in the bytes.
            return code_of_file, ("".join(obj.co_filename), make, arguments)
        if kind is types.MethodType and _is_shell_getter(obj):
            return current_shell_getter, ()
        if kind is types.TracebackType:
            from kernel_worker.wire import failures  # noqa: PLC0415  which imports this

            return failures.unpacked_traceback, (failures.packed_traceback(obj),)
        return super().reducer_override(obj)


def code_of_file(filename: str, make: Callable[..., types.CodeType], arguments: Any) -> Any:
    """Return code that knows its file, which cloudpickle drops since 3.1.3: tracebacks need it."""
    return make(*arguments).replace(co_filename=filename)


def make_new_type(qualname: str, supertype: Any, module: str) -> Any:
    """Return a `typing.NewType` like the notebook's, which pickle would look for by its name."""
    made = typing.NewType(qualname, supertype)  # type: ignore[misc]  # the name is known when it runs
    made.__module__ = module
    return made


class ValuePickler(ByValuePickler):
    """Pickles arguments, results and exceptions; classes are named, with a ready definition."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how `obj` is rebuilt, or NotImplemented for pickle's own way."""
        if is_class(obj) and not is_builtin_type(obj) and not is_by_reference(obj):
            definition = _definers[-1](obj)
            return defined_class, (tracker_of(obj), definition.digest, definition.packed)
        return super().reducer_override(obj)


class DefinitionPickler(ByValuePickler):
    """Pickles a class with all that it is made of."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how `obj` is rebuilt, or NotImplemented for pickle's own way."""
        reduced = super().reducer_override(obj)
        if not is_class(obj) or not isinstance(reduced, tuple):
            return reduced
        return class_by_value(reduced)


class Definition(NamedTuple):
    """A class as bytes; opened only by a process that does not know the class."""

    digest: bytes
    packed: bytes


def define(kind: type) -> Definition:
    """Return the definition of a class as it is now."""
    with io.BytesIO() as file:
        DefinitionPickler(file, 5).dump(kind)
        packed = zlib.compress(file.getvalue())
    return Definition(short_digest(packed, 8), packed)


_defined: weakref.WeakKeyDictionary[type, tuple[tuple[Any, ...], Definition]]
_defined = weakref.WeakKeyDictionary()


def define_once(kind: type) -> Definition:
    """Return the definition of a class, made again only when an attribute was assigned.

    Right for a worker, where a class is what a notebook sent; where it is written, what its methods
    reach may change as well.
    """
    attributes = tuple(vars(kind).values())
    last = _defined.get(kind)
    if last is None or len(last[0]) != len(attributes) or not all(map(is_, last[0], attributes)):
        last = _defined[kind] = (attributes, _define_leniently(kind))
    return last[1]


def _define_leniently(kind: type) -> Definition:
    """Return a definition; none where what a method reaches in this worker cannot be pickled.

    Whoever sent the class here does not need it.
    """
    try:
        return define(kind)
    except Exception:
        if kind in _given or kind in _made_here:
            return Definition(b"", b"")
        raise


_definers: list[Callable[[type], Definition]] = [define_once]


def use_definer(definer: Callable[[type], Definition]) -> None:
    """Let `definer` say what definition of a class travels with its instances."""
    _definers[:] = [definer]


def defined_class(tracker: str, digest: bytes, packed: bytes) -> type:
    """Return the class that is known as `tracker`, made from its definition where it is not."""
    there = known(tracker)
    if there is None and not packed:
        message = "an instance of a class that only the notebook which defined it can load"
        raise DeserializationError(message)
    if there is None or (packed and there in _made_here and _made_here[there] != digest):
        made: type = pickle.loads(zlib.decompress(packed))
        _made_here[made] = digest
        return made
    return there


def class_by_value(reduced: Any) -> Any:
    """Return the reduction of a class with our two steps in place of cloudpickle's."""
    make, arguments, *rest = as_written(reduced)
    if make is cloudpickle._make_skeleton_class:  # noqa: SLF001
        return (make_class, arguments, rest[0], None, None, fill_class)
    if make is cloudpickle._make_skeleton_enum:  # noqa: SLF001
        return (make_enum, arguments, rest[0], None, None, fill_class)
    return reduced


def as_written(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a class with plain bases, and with its slots.

    A remote class among the bases Python has replaced; cloudpickle takes what was written. It also
    makes classes without slots: an instance would have a `__dict__`, and thus a state that the
    class with slots, where it was written, does not take back.
    """
    make, arguments, *rest = reduced
    if make is not cloudpickle._make_skeleton_class:  # noqa: SLF001
        return reduced
    bases = tuple(
        base.get_raw_f() if hasattr(type(base), "__remote_reference__") else base
        for base in arguments[_BASES_OF_CLASS]
    )
    namespace, *others = arguments[_BASES_OF_CLASS + 1 :]
    attributes, _ = rest[0]
    if "__slots__" in attributes and typing.NamedTuple not in bases:  # which sets its own
        namespace = namespace | {"__slots__": attributes["__slots__"]}
    return (make, (*arguments[:_BASES_OF_CLASS], bases, namespace, *others), *rest)


def is_own(kind: type) -> bool:
    """Say whether a class that has no importable name was defined in this process."""
    is_named = is_builtin_type(kind) or is_by_reference(kind)
    return not is_named and kind not in _given and kind not in _made_here


def adopt(kind: type) -> bool:
    """Let a class that a value has just brought count as defined here; False where it did not."""
    return _made_here.pop(kind, None) is not None


def make_class(*arguments: Any) -> type:
    """Return the class that these arguments of cloudpickle name, made where it is not known."""
    tracker = arguments[TRACKER_OF_CLASS]
    return known(tracker) or _made(cloudpickle._make_skeleton_class(*arguments))  # noqa: SLF001


def make_enum(*arguments: Any) -> type:
    """Return the enumeration that these arguments of cloudpickle name, made if it is not known."""
    tracker = arguments[TRACKER_OF_ENUM]
    return known(tracker) or _made(cloudpickle._make_skeleton_enum(*arguments))  # noqa: SLF001


def fill_class(kind: type, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Set the attributes of a class that a value brought; leave others alone."""
    if kind in _made_here:
        cloudpickle._class_setstate(kind, state)  # noqa: SLF001


def make_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> object:  # noqa: FBT001
    """Return `function` behind an empty `functools.lru_cache`."""
    return functools.lru_cache(maxsize, typed)(function)


def current_shell_getter() -> object:
    """Return `get_ipython` as it is in this process."""
    from IPython.core.getipython import get_ipython  # noqa: PLC0415  only where it is used

    return get_ipython


def known(tracker: str) -> type | None:
    """Return the class that is known under this id, or None."""
    found: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)  # noqa: SLF001
    return found


def _made(kind: type) -> type:
    _made_here[kind] = b""
    return kind


def _has_no_name(wrapper: Any) -> bool:
    return cloudpickle._lookup_module_and_qualname(wrapper) is None  # noqa: SLF001


def _is_shell_getter(method: types.MethodType) -> bool:
    return method.__name__ == "get_ipython" and hasattr(method.__self__, "user_ns")
