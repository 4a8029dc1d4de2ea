"""An instance of a user's class: what it is made from, and what is run when.

Both sides make instances: workers for remote calls, the notebook for local ones. What a class says
about itself are attributes of its functions (`ENTER`, `SNAP`, `EXIT`), so that hooks stay plain
methods; what is called remotely is found behind `get_raw_f`.

Guarantees: hooks run in the order in which they stand in the class, those of base classes first; a
hook that a subclass overrides runs in its place, once, if the override is marked too.
"""

from __future__ import annotations

import inspect
import pickle
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.errors import DeserializationError, NotFoundError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

ENTER = "__notebook_ext_enter__"
"""Set on a function: run it in each worker, before its first input."""
SNAP = "__notebook_ext_enter_snap__"
"""Set on a function: run it in the template, whose workers share what it has made."""
EXIT = "__notebook_ext_exit__"
"""Set on a function: run it before the worker ends."""
ORDER = "__notebook_ext_order__"
"""Set on a function: run it before those of its class with a greater number; others have 0."""


running: list[str] = []
"""The hooks that run in this process, for messages; mostly none."""


class Parameters(msgspec.Struct, frozen=True, array_like=True):
    """What makes one instance; every value has a pickle of its own."""

    args: tuple[bytes, ...] = ()
    """For `__init__` …"""
    kwargs: tuple[tuple[str, bytes], ...] = ()
    """… by name …"""
    values: tuple[tuple[str, bytes], ...] = ()
    """… or attributes to set, for a class with declared parameters."""
    origin: bytes = b""
    """A pickle of the class as the caller's side knows it; it adopts what is made here."""


_decoder = msgspec.msgpack.Decoder(Parameters)


def encode(parameters: Parameters) -> bytes:
    """Return the object to send."""
    return msgspec.msgpack.encode(parameters)


def decode(encoded: bytes) -> Parameters:
    """Return what `encode` was given.

    Raises:
        DeserializationError: it is nothing of the kind.
    """
    try:
        return _decoder.decode(encoded)
    except msgspec.DecodeError as error:
        raise DeserializationError(f"no parameters of an instance: {error}") from error


def pickled(value: object, path: str) -> bytes:
    """Return the pickle of one parameter.

    Raises:
        SerializationError: it has none; the message says `path`, and where in it.
    """
    try:
        data = pickle.dumps(value, 5)
        if b"__main__" not in data:
            return data
    except Exception:  # noqa: BLE001, S110  the other way has a good message
        pass
    from kernel_worker.wire import byvalue, culprit  # noqa: PLC0415  cloudpickle: 20 ms

    try:
        return byvalue.dumps(value)
    except Exception as error:
        place = culprit.find(value, path, byvalue.dumps)
        message = f"{place} cannot be pickled: {type(error).__name__}: {error}"
        raise SerializationError(message) from error


def construct(kind: Callable[..., Any], parameters: Parameters) -> Any:
    """Return a new instance; no hook has run on it."""
    args = [_value(data, str(place)) for place, data in enumerate(parameters.args)]
    kwargs = {name: _value(data, name) for name, data in parameters.kwargs}
    instance = kind(*args, **kwargs)
    for name, data in parameters.values:
        setattr(instance, name, _value(data, name))
    return instance


def _value(data: bytes, name: str) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        text = f"parameter {name} cannot be unpickled here: {type(error).__name__}: {error}"
        raise DeserializationError(text) from error


def hooks(kind: type, mark: str) -> list[str]:
    """Return the names of the methods that carry `mark`, in the order in which they run."""
    names: dict[str, None] = {}
    for owner in reversed(kind.__mro__):
        functions = [(n, v) for n, v in vars(owner).items() if inspect.isfunction(v)]
        functions.sort(key=lambda pair: _place(pair[1]))
        names.update((name, None) for name, value in functions if _is_marked(value, mark))
    return [name for name in names if _is_marked(inspect.getattr_static(kind, name), mark)]


def run_hooks(
    instance: Any, marks: Iterable[str], run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """Run the hooks with these marks, one mark after the other; `run` runs what is `async`."""
    for mark in marks:
        for name in hooks(type(instance), mark):
            running.append(f"{type(instance).__qualname__}.{name}")
            try:
                result = getattr(instance, name)()
                if inspect.iscoroutine(result):
                    run(result)
            finally:
                running.pop()


def method(kind: type, name: str) -> Callable[..., Any]:
    """Return the plain function behind a method that is called remotely.

    Raises:
        NotFoundError: the class has no such method.
    """
    getter = getattr(inspect.getattr_static(kind, name, None), "get_raw_f", None)
    if getter is None:
        raise NotFoundError(f"{kind.__qualname__} has no method {name!r} with @nb.method()")
    found: Callable[..., Any] = getter()
    return found


def _place(function: Any) -> tuple[int, int]:
    return getattr(function, ORDER, 0), function.__code__.co_firstlineno


def _is_marked(function: object, mark: str) -> bool:
    return mark in getattr(function, "__dict__", ())
