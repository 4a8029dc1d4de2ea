"""Which of the names that `-o` asks for a cell can never leave: said before anything runs; pure.

Theory. A name is there in the end if the cell binds it, or it is sent, or something binds it that
the tree does not show: text that is run (`exec`), a namespace that is written to (`globals()`),
`from … import *`, IPython's syntax, or a function of the notebook with `global`.

Guarantees: nothing is run or imported. Where anything may be bound (see `_BINDS_ANYTHING`), every
name passes, and it is seen in the end what is there.
"""

from __future__ import annotations

import ast
import functools
import inspect
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from notebook_ext.function import Function

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from notebook_ext.magics.cell_names import CellNames

_BINDS_ANYTHING: Final = frozenset(
    {"exec", "eval", "globals", "locals", "vars", "setattr", "get_ipython", "__main__", "__dict__"}
    | {"__builtins__", "_getframe", "modules", "f_globals", "__globals__", "currentframe"}
)
_CacheWrapper: Final = type(functools.lru_cache(len))


def never_left(
    asked: Iterable[str], tree: ast.Module, names: CellNames, notebook: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return those of `asked` that the cell cannot leave.

    Args:
        asked: the names of `-o`.
        tree: the cell.
        names: what it does with names.
        notebook: what the notebook has, whose functions the cell may call.
    """
    own = {*names.assigned, *names.changed, *names.deleted, *names.held, *notebook}
    missing = tuple(name for name in asked if name not in own)
    if not missing or names.stars or names.uses_shell:
        return ()
    words = {*_words(tree), *(word for code in _codes(notebook.values()) for word in code.co_names)}
    if words & _BINDS_ANYTHING:
        return ()
    return tuple(name for name in missing if name not in words)


def _words(tree: ast.Module) -> Iterator[str]:
    """Yield every word of the cell that may be a name, `global` ones included."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                yield word
            case ast.Global(names=words):
                yield from words
            case _:
                pass


def _codes(values: Iterable[Any]) -> Iterator[CodeType]:
    """Yield the code of the notebook's own functions, with those inside them."""
    pending = [code for value in values for code in _own(value)]
    while pending:
        code = pending.pop()
        yield code
        pending += [each for each in code.co_consts if isinstance(each, CodeType)]


def _own(value: Any) -> Iterator[CodeType]:
    """Yield the code of a function or class of the notebook; nothing else is touched."""
    if issubclass(type(value), type):  # `isinstance` would ask proxies
        if value.__module__ == "__main__":
            for each in vars(value).values():
                yield from _own(getattr(each, "fget", None) or getattr(each, "__func__", each))
        return
    if issubclass(type(value), Function):
        value = value.get_raw_f()
    if issubclass(type(value), (FunctionType, _CacheWrapper)):
        function = inspect.unwrap(value)
        if isinstance(function, FunctionType) and function.__module__ == "__main__":
            yield function.__code__
