"""`%%remote`: the cell's functions become remote ones, and the cell stays an ordinary cell.

A cell magic gets its body as text and would have to run it by itself: the line numbers of
tracebacks and syntax errors, `await`, the displayed value and the history would all be the magic's
and not the cell's. So the work is done on the way in instead:

1. An input transformer turns the line `%%remote …` into a call of `MARK`, one line for one line.
   Everything below it is transformed, parsed and run by IPython as in any other cell.
2. An AST transformer sees a module that begins with that call, and decorates every top-level
   function and class. The decorator carries the line number of its `def`, so that `co_firstlineno`
   is it.

Options are read when the cell runs, before anything else in it does. What is no plain function by
then (decorated by `@app.function`, say) is left alone, and so is a class that says nothing about
remote use (no `@nb.method()` or the like): its instances are values. A line says so, where somebody
may have expected otherwise.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import linecache
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from IPython import get_ipython
from IPython.core.error import UsageError

from kernel_worker.errors import Error
from notebook_ext.app import App
from notebook_ext.cls import is_remote_by_nature
from notebook_ext.magics import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from notebook_ext.function import Function
    from notebook_ext.magics.options import RemoteLine

MARK: Final = "__remote__"
_FIRST_LINE: Final = re.compile(r"%%remote(?:[ \t]+(?P<options>.*))?\s*$")
_MODULE: Final = "__import__('notebook_ext.magics.cell', fromlist=['decorate'])"

_apps: dict[str | None, App] = {}
_to_warm: list[tuple[Function[Any, Any], int]] = []


def transform_lines(lines: list[str]) -> list[str]:
    """Return the cell with its `%%remote` line as a statement, or as it is."""
    first = _FIRST_LINE.match(lines[0]) if lines else None
    if first is None:
        return lines
    return [f"{MARK}({first['options'] or ''!r})\n", *lines[1:]]


# While a line is being typed, `%%remote` is a cell magic: complete at an empty line, not before.
transform_lines.has_side_effects = True  # type: ignore[attr-defined]


class Decorating(ast.NodeTransformer):
    """Decorates the functions of a module that begins with a call of `MARK`."""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        """Return the module, changed in place if it is a `%%remote` cell."""
        line = _marked(module)
        if line is None:
            return module
        definitions = [node for node in module.body if _is_definition(node)]
        for definition in definitions:
            is_told = _is_for_itself(definition, definitions)
            decorator = _call("decorate", line, is_told, at=definition)
            definition.decorator_list.insert(0, decorator)
        if definitions:
            # Once all that they may refer to is there: another version would be warmed before.
            place = max(i for i, node in enumerate(module.body) if _is_definition(node))
            module.body.insert(place + 1, _statement("warm", at=module.body[place]))
        module.body[0] = _statement("prepare", line, len(definitions), at=module.body[0])
        return module


def _is_definition(
    node: ast.stmt,
) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _is_for_itself(definition: ast.stmt, all_of_them: Iterable[ast.stmt]) -> bool:
    """Whether it is a function, or a class that was hardly written for what is beside it.

    Those are: what other definitions of the cell use, what has bases (exceptions, enums, named
    tuples) or decorators (dataclasses), and what has no method but special ones.
    """
    if not isinstance(definition, ast.ClassDef):
        return True
    if definition.bases or definition.keywords or definition.decorator_list:
        return False
    others = (node for each in all_of_them if each is not definition for node in ast.walk(each))
    if any(isinstance(node, ast.Name) and node.id == definition.name for node in others):
        return False
    methods = (each for each in definition.body if _is_definition(each))
    return any(not each.name.startswith("_") for each in methods)


def _marked(module: ast.Module) -> str | None:
    match module.body[:1]:
        case [ast.Expr(ast.Call(ast.Name(id=name), [ast.Constant(str() as line)]))]:
            return line if name == MARK else None
        case _:
            return None


def _statement(function: str, *arguments: object, at: ast.stmt) -> ast.stmt:
    return ast.copy_location(ast.Expr(_call(function, *arguments, at=at)), at)


def _call(function: str, *arguments: object, at: ast.stmt) -> ast.expr:
    """Return a call of a function of this module, all of it on the line where `at` begins."""
    source = f"{_MODULE}.{function}({', '.join(map(repr, arguments))})"
    expression = ast.parse(source, mode="eval").body
    for node in ast.walk(expression):
        if isinstance(node, ast.expr):
            node.lineno = node.end_lineno = at.lineno
            node.col_offset = node.end_col_offset = at.col_offset
    return expression


def prepare(line: str, count: int) -> None:
    """Check the options of a cell with `count` definitions before anything in it runs.

    Raises:
        UsageError: what cannot be, in one line.
    """
    show_as_typed(f"%%remote {line}", sys._getframe(1).f_code.co_filename)  # noqa: SLF001  the cell's name
    _to_warm.clear()
    wanted = _read(line)
    if "name" in wanted.given and count > 1:
        raise UsageError(f"%%remote: --name is for one function, and this cell defines {count}")
    if not count:
        sys.stderr.write("%%remote: this cell defines no function or class; all of it runs here.\n")


def show_as_typed(line: str, filename: str) -> None:
    """Let tracebacks show the cell's first line as it was typed, in a form that still parses."""
    cached = linecache.cache.get(filename)
    if cached is not None and len(cached) == 4 and cached[2]:  # noqa: PLR2004  a loaded entry
        cached[2][0] = f"#{line}".rstrip() + "\n"


def decorate(line: str, is_told: bool = True) -> Callable[[Any], Any]:  # noqa: FBT001, FBT002  written by `Decorating`
    """Return the decorator that makes a function or class remote, with the options of `line`.

    `is_told`: a line says where it stays local.
    """
    wanted = _read(line)

    def decorated(function: Any) -> Any:
        if inspect.isclass(function) and is_remote_by_nature(function):
            with _one_line():
                return _app(wanted.app).cls(**wanted.given)(function)
        if not inspect.isfunction(function):
            if is_told:
                _tell(function)
            return function
        with _one_line():
            remote = _app(wanted.app).function(**wanted.given)(function)
        _to_warm.append((remote, wanted.given.get("min_containers") or 0))
        return remote

    return decorated


def _tell(local: Any) -> None:
    """Say why something that the cell defines stays local, unless it is remote already."""
    kind = type(local)
    if hasattr(kind, "__remote_reference__"):
        return
    if inspect.isclass(local):
        why = f"{local.__name__} stays a local class: none of its methods has @nb.method()"
    else:
        name = getattr(local, "__name__", None) or "a definition"
        why = (
            f"{name} stays local: its decorators make it a {kind.__module__}.{kind.__qualname__}, "
            "which is no plain function; put @app.function() (app = nb.App()) above them"
        )
    sys.stderr.write(f"%%remote: {why}.\n")


def warm() -> None:
    """Warm the pools of the functions that this cell has defined, where it asks for that."""
    while _to_warm:
        function, count = _to_warm.pop()
        with _one_line():
            if count:
                function.keep_warm(count)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except Error as error:
        raise UsageError(f"%%remote: {' '.join(str(error).split())}") from error


def _read(line: str) -> RemoteLine:
    shell = get_ipython()
    return options.parse(shell.var_expand(line, 2) if shell is not None and line else line)


def _app(name: str | None) -> App:
    if name not in _apps:
        _apps[name] = App(name)
    return _apps[name]
