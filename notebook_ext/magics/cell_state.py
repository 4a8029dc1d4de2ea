"""What is known of a cell's names at one point of it, and what its functions do when called; pure.

`State` is what `cell_names` carries along the paths of a cell; `met` is what is known where several
meet. `Later` is what a function reads and sets among the notebook's names, found in its code.
"""

from __future__ import annotations

import ast
import dis
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Later:
    """What a function does when it is called."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(slots=True)
class State:
    """What is known at one point of the cell."""

    settled: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    """Settled, and not there any more."""
    later: dict[str, frozenset[Later]] = field(default_factory=dict)
    """Functions of the cell, by the names that they may go by."""

    def copy(self) -> State:
        """Return one that may go another way."""
        return State(self.settled, self.gone, dict(self.later))


def met(states: Iterable[State | None]) -> State | None:
    """Return what is known where several paths meet; None is a path that nothing takes."""
    found: State | None = None
    for state in states:
        if state is None:
            continue
        if found is None:
            found = state.copy()
            continue
        found.settled &= state.settled
        found.gone &= state.gone
        for name, what in state.later.items():
            found.later[name] = found.later.get(name, frozenset()) | what
    return found


def later_of(node: Function | ast.Lambda | ast.ClassDef) -> Later:
    """Return what a function, or the functions of a class, do when they are called."""
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    code = compile(_alone(node), "<cell>", "exec", dont_inherit=True)
    level = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    if isinstance(node, ast.ClassDef):  # its body has run by itself, and what lies in it has not
        level = _functions_in(level)
    for function in level:
        _scan(function, reads, writes)
    reads.pop("__class__", None)
    return Later(tuple(reads), tuple(writes))


def _functions_in(bodies: list[types.CodeType]) -> list[types.CodeType]:
    """Return the functions of class bodies and of the classes in them."""
    found = []
    for inner in (each for body in bodies for each in body.co_consts):
        if isinstance(inner, types.CodeType):
            is_function = bool(inner.co_flags & _OPTIMIZED)
            found += [inner] if is_function else _functions_in([inner])
    return found


_OPTIMIZED: Final = 0x1
"""A function's code knows its local variables; a class body's does not."""


def _scan(code: types.CodeType, reads: dict[str, None], writes: dict[str, None]) -> None:
    from notebook_ext.capture import names  # noqa: PLC0415  cloudpickle: 20 ms

    reads.update(dict.fromkeys(names.of(code).reads))
    todo = [code]
    for each in todo:
        for instruction in dis.get_instructions(each):
            if instruction.opname == "STORE_GLOBAL":
                writes[instruction.argval] = None
        todo += [inner for inner in each.co_consts if isinstance(inner, types.CodeType)]


def _alone(node: Function | ast.Lambda | ast.ClassDef) -> ast.Module:
    """Return a module with the definition and nothing that runs where it is made."""
    nothing: Any = ast.Constant(None)
    if isinstance(node, ast.ClassDef):
        bare: Any = ast.ClassDef(node.name, [], [], node.body, [])
    else:
        arguments = node.args
        kept = {
            "posonlyargs": list(map(_plain, arguments.posonlyargs)),
            "args": list(map(_plain, arguments.args)),
            "vararg": arguments.vararg and _plain(arguments.vararg),
            "kwonlyargs": list(map(_plain, arguments.kwonlyargs)),
            "kwarg": arguments.kwarg and _plain(arguments.kwarg),
            "defaults": [nothing for _ in arguments.defaults],
            "kw_defaults": [each and nothing for each in arguments.kw_defaults],
        }
        own: Any = ast.arguments(**kept)  # type: ignore[arg-type]  # as its own are
        if isinstance(node, ast.Lambda):
            bare = ast.Expr(ast.Lambda(own, node.body))
        else:
            bare = type(node)(node.name, own, node.body, [], None)
    if hasattr(ast, "TypeAlias"):
        bare.type_params = getattr(node, "type_params", [])
    module = ast.Module([bare], [])
    return ast.fix_missing_locations(module)


def _plain(parameter: ast.arg) -> ast.arg:
    return ast.arg(parameter.arg)


def type_parameters(node: ast.AST) -> frozenset[str]:
    """Return the `T` of `def f[T](): …`, of a class or of an alias."""
    return frozenset(each.name for each in getattr(node, "type_params", ()))
