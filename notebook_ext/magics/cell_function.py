"""The remote function that a cell is run by: its code says what travels.

Theory. What travels with a function is found in its code (`notebook_ext.capture`). So a cell gets a
function whose code reads the names that the cell needs and has its imports, and that hands its
globals to what runs cells in the worker. It lives in the notebook's namespace, so functions that
travel share their globals with the cell there as they do here.
"""

from __future__ import annotations

import ast
import marshal
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.model import FunctionKey
from notebook_ext import options as decorator_options
from notebook_ext.function import Function, scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import CodeType

    from notebook_ext.app import App

_AWAIT: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_FILE: Final = str(Path(__file__).with_name("a cell"))
"""One of ours: tracebacks leave it out."""
_RUNNER: Final = "kernel_worker.worker.cells"


class CellFunction(Function[..., Any]):
    """What runs one cell; a later cell's takes its place."""

    is_cell = True

    def __init__(self, raw: FunctionType, app: App, given: Mapping[str, Any]) -> None:
        """Wrap what `reader` made, with the options `given`."""
        defaults = {"rerun_on_crash": False, "single_use_containers": True}
        super().__init__(raw, app, decorator_options.parse({**defaults, **given}))
        self._key = FunctionKey(f"{scope()}/{app.key}/%%remote_run")


def compiled(module: ast.Module, filename: str, flags: int) -> tuple[bytes, bytes]:
    """Return the code of a cell's statements and of its last expression, ready to travel.

    Raises:
        SyntaxError: it cannot be compiled.
    """
    statements = list(module.body)
    last: ast.stmt | None = statements[-1] if statements else None
    if not isinstance(last, ast.Expr):
        return _code(ast.Module(statements, []), filename, "exec", flags), b""
    body = ast.Module(statements[:-1], [])
    data = _code(body, filename, "exec", flags) if statements[:-1] else b""
    return data, _code(ast.Expression(last.value), filename, "eval", flags)


def _code(tree: Any, filename: str, mode: str, flags: int) -> bytes:
    return marshal.dumps(compile(tree, filename, mode, flags | _AWAIT, dont_inherit=True))


def reader(
    module: ast.Module, names: Iterable[str], namespace: dict[str, Any], name: str
) -> FunctionType:
    """Return the function whose code reads `names` of `namespace` and what the cell imports.

    Args:
        module: the cell's tree.
        names: what it needs.
        namespace: the notebook's.
        name: what the function is called: `In[5]`.
    """
    nodes = list(ast.walk(module))
    attributes = dict.fromkeys(node.attr for node in nodes if isinstance(node, ast.Attribute))
    statements = [
        *(ast.unparse(each) for each in map(_import, nodes) if each is not None),
        *(f"cell.{attribute}" for attribute in attributes),  # some name submodules
    ]
    source = "\n".join(
        [
            "def cell(cell):",
            "    def imports():",
            *(f"        {each}" for each in statements or ["pass"]),
            "    if cell is None:",
            *(f"        {each}" for each in names),
            *(f"        cell.{attribute}" for attribute in attributes),
            "        pass",
            f"    from {_RUNNER} import run",
            "    return run(cell, globals())",
        ]
    )
    code: CodeType = compile(source, _FILE, "exec", dont_inherit=True).co_consts[0]
    function = FunctionType(code, namespace, name)
    function.__qualname__ = name
    function.__module__ = "__main__"
    return function


def _import(node: ast.AST) -> ast.stmt | None:
    """Return an import that may stand in a function."""
    match node:
        case ast.Import():
            return node
        case ast.ImportFrom(module=str(module), names=names, level=0) if module != "__future__":
            has_star = any(each.name == "*" for each in names)
            return ast.Import([ast.alias(module)]) if has_star else node
        case _:
            return None
