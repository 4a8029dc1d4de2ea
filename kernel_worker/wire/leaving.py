"""What a cell leaves, pickled: its names, and the value of its last expression.

Theory. All of it is one pickle, so that objects which several names share are shared on the other
side too. Functions and classes that the cell has defined are pickled with their globals left open:
on the other side these are the notebook's names, as if it had run there.

Guarantees: a name that cannot be pickled keeps no other from arriving, and is named. A class that
arrives counts as defined where it arrived: values that come later change nothing in it.
Not guaranteed: that a changed object is the notebook's own object; it is a copy.
"""

from __future__ import annotations

import io
import pickle
import types
import weakref
from typing import TYPE_CHECKING, Any

from kernel_worker.wire import bundle, byvalue, culprit
from kernel_worker.wire.cell import CellResult, NoLast, Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class CellNames(dict[str, Any]):
    """What a cell has left, by name, where no notebook receives it."""

    value: Any = None
    """That of the cell's last expression."""

    def __repr__(self) -> str:
        """Return names alone: values may be large."""
        return f"<names of a cell: {', '.join(self) or 'none'}>"


def pack(
    names: Mapping[str, Any],
    last: object,
    namespace: dict[str, Any],
    gone: tuple[str, ...] = (),
    kept: tuple[str, ...] = (),
) -> tuple[CellResult, dict[str, str], bool]:
    """Return what a cell has left, ready to travel.

    Args:
        names: what comes back.
        last: the value of the last expression, or `NoLast`.
        namespace: the globals that the cell ran in.
        gone: names that the cell has deleted.
        kept: names that do not come back.

    Returns:
        The result; the names that cannot be pickled, each with the reason; whether `last` travels.
    """
    buffers: list[memoryview] = []
    refused: dict[str, str] = {}
    travels = last is not NoLast
    try:
        data = _dumps((dict(names), last), namespace, buffers)
    except Exception:  # noqa: BLE001  what is wrong is found below
        if travels:
            travels = _reason(last, "value", namespace) == ""
        refused = {name: _reason(value, name, namespace) for name, value in names.items()}
        refused = {name: why for name, why in refused.items() if why}
        buffers.clear()
        fine = {name: value for name, value in names.items() if name not in refused}
        data = _dumps((fine, last if travels else NoLast), namespace, buffers)
    packed = Packed(data, tuple(buffers), gone, (*kept, *refused))
    return CellResult(packed), refused, travels


def unpack(packed: Packed, namespace: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the names and the last value; functions among them get `namespace` as their globals.

    Raises:
        Exception: whatever unpickling raises.
    """
    with bundle.Assembly([namespace], 0).in_use():
        names, last = pickle.loads(packed.data, buffers=packed.buffers)
    return names, last


def as_object(packed: Packed) -> CellNames:
    """Return the names where nothing is there to receive them."""
    namespace = CellNames(__name__="__main__")
    names, last = unpack(packed, namespace)
    namespace.pop("__name__", None)
    namespace.update(names)
    namespace.value = None if last is NoLast else last
    return namespace


# ---- pickling with open globals -------------------------------------------------------------


def _dumps(value: object, namespace: dict[str, Any], buffers: list[memoryview]) -> bytes:
    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    with io.BytesIO() as file:
        _OpenPickler(file, namespace, keep).dump(value)
        return file.getvalue()


def _reason(value: object, name: str, namespace: dict[str, Any]) -> str:
    """Return why a value cannot be pickled; empty where it can."""
    try:
        _dumps(value, namespace, [])
    except Exception as error:  # noqa: BLE001  users' objects may raise anything
        path = culprit.find(value, name, byvalue.dumps)
        where = "" if path.startswith(f"{name} (") else f"{path}: "
        return f"{where}{type(error).__name__}: {error}"
    return ""


class _OpenPickler(byvalue.ValuePickler):
    """Pickles names of a namespace; what was defined in it gets the other side's globals."""

    def __init__(self, file: io.BytesIO, namespace: dict[str, Any], keep: Any) -> None:
        super().__init__(file, 5, keep)
        self._namespace = namespace

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.FunctionType:
            own = obj.__globals__ is self._namespace and not byvalue.is_by_reference(obj)
            return _function(obj) if own else super().reducer_override(obj)
        if type(obj) is types.CellType:
            return _cell(obj)
        if byvalue.is_class(obj) and byvalue.is_own(obj):
            return _class(
                byvalue.class_by_value(super(byvalue.ValuePickler, self).reducer_override(obj))
            )
        return super().reducer_override(obj)


_STATE = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


def _function(function: types.FunctionType) -> tuple[Any, ...]:
    make = (function.__code__, bundle.NamespaceNumber(0), function.__closure__ or ())
    state = {name: getattr(function, name) for name in _STATE}
    state |= {"__annotations__": function.__annotations__, "__dict__": vars(function)}
    return bundle.make_function, make, state, None, None, bundle.fill_function


def _cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), contents, None, None, _fill_cell


def _fill_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    (cell.cell_contents,) = contents


def _class(reduced: Any) -> Any:
    make, arguments, *rest = reduced
    return _own_class, (make, arguments), rest[0], None, None, _fill_class


_new: weakref.WeakSet[type] = weakref.WeakSet()


def _own_class(make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """Return a class that counts as defined here from now on: nothing that arrives changes it."""
    kind = make(*arguments)
    if byvalue.adopt(kind):
        _new.add(kind)
    return kind


def _fill_class(kind: type, state: Any) -> None:
    if kind in _new:
        _new.discard(kind)
        bundle.fill_class(kind, state)
