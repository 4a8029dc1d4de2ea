"""Which part of a value cannot be pickled: the path to it, for the message of an error.

Theory: a value that cannot be pickled has a part that cannot. Starting at the value, go down into
the first part that fails by itself, until none does: that one is the culprit.

Guarantees: bounded work (`_MAX_DEPTH`, `_MAX_TRIES`), no exception of users' code escapes.
Not guaranteed: the innermost part. A class whose `__reduce__` raises is named itself, and a value
that the walk does not see through is named where the walk ended.
"""

from __future__ import annotations

import contextlib
import types
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Pickler = Callable[[object], object]

_MAX_DEPTH = 40
_MAX_TRIES = 5_000
_STATE = 2
"""Where `__reduce_ex__` has the state; list items and dict items follow it."""


def find(value: object, name: str, dump: Pickler) -> str:
    """Return the path to what makes `dump(value)` fail, with its type.

    Args:
        value: what could not be pickled.
        name: what the path starts with: `args`, `global 'client'`.
        dump: the pickling function that failed.

    Returns:
        For example `args[1].client._lock (a _thread.lock)`.
    """
    path, tries, seen = name, 0, {id(value)}
    for _ in range(_MAX_DEPTH):
        for step, part in _parts(value):
            tries += 1
            if tries > _MAX_TRIES:
                return describe(path, value)
            if id(part) not in seen and not _can(dump, part):
                value, path = part, path + step
                seen.add(id(part))
                break
        else:
            break
    return describe(path, value)


def describe(path: str, value: object) -> str:
    """Return `path (a type)`."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return f"{path} ({article} {name})"


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _can(dump: Pickler, part: object) -> bool:
    try:
        dump(part)
    except Exception:  # noqa: BLE001  users' code may raise anything
        return False
    return True


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield what `value` is made of, each with the step that leads to it."""
    with contextlib.suppress(Exception):  # what users' code raises here ends the walk
        if isinstance(value, dict):
            yield from _items(value)
        if isinstance(value, list | tuple):
            yield from ((f"[{index}]", part) for index, part in enumerate(value))
        elif isinstance(value, set | frozenset):
            yield from (("{…}", part) for part in value)
        elif isinstance(value, types.FunctionType):
            yield from _function_parts(value)
        elif isinstance(value, types.MethodType):
            yield from ((".__self__", value.__self__), (".__func__", value.__func__))
        elif isinstance(value, type):
            yield from ((f".{name}", part) for name, part in vars(value).items())
        yield from _state_parts(value)


def _items(value: dict[object, object]) -> Iterator[tuple[str, object]]:
    for key, part in value.items():
        yield f"[{_short(key)}]", part
        yield f".keys()[{_short(key)}]", key


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001  users' code may raise anything
        text = object.__repr__(key)
    limit = 60
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _function_parts(value: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = value.__code__
    for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):
            yield f".<closure {name!r}>", cell.cell_contents
    names = code.co_names
    yield from ((f".<global {n!r}>", value.__globals__[n]) for n in names if n in value.__globals__)
    yield from ((f".<default {i}>", part) for i, part in enumerate(value.__defaults__ or ()))
    yield from _items(cast("dict[object, object]", dict(value.__kwdefaults__ or {})))


def _state_parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of the state that pickle would save: attributes, slots or a whole."""
    kind = type(value)
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        state: object = value.__getstate__()
    else:
        reduced = value.__reduce_ex__(4)
        if not isinstance(reduced, tuple):
            return
        yield from ((".<constructor>", part) for part in reduced[1])
        state = reduced[_STATE] if len(reduced) > _STATE else None
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", attribute) for name, attribute in part.items())
        elif part is not None:
            yield ".<state>", part
