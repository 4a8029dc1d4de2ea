"""Who a name in a cell belongs to: the notebook, a comprehension, a class, a function; pure.

`Scopes` walks what is no matter of paths (`cell_names` adds these): names, assignments, imports,
definitions, comprehensions. What it finds are names of the notebook.
"""

# ruff: noqa: D102  a method is named after the node that it walks

from __future__ import annotations

import ast
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from notebook_ext.magics.cell_state import Function, Later, State, later_of, type_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    Exports = Callable[[str], Collection[str] | None]


class Scopes(ast.NodeVisitor):
    """The walk; `state` is None where nothing can come to."""

    def __init__(self, exports: Exports) -> None:
        self.needed: dict[str, None] = {}
        self.assigned: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self.deleted: dict[str, None] = {}
        self.stars: dict[str, None] = {}
        self.uses_shell = False
        self.state: State | None = State()
        self._exports = exports
        self._hidden: list[frozenset[str]] = []
        """Variables of the comprehensions that are being walked."""
        self._classes: list[str] = []
        """What the names of the classes that are being walked begin with."""
        self._class_globals: set[str] = set()
        self._running: set[Later] = set()
        self._has_lazy_annotations = False

    def body(self, statements: Iterable[ast.AST]) -> None:
        """Walk statements one after the other."""
        for statement in statements:
            self.visit(statement)

    def end(self) -> None:
        """Let the functions that the cell leaves read what they read."""
        for name in list(self.state.later) if self.state is not None else ():
            self._use(name, writes=False)

    # ---- names ----------------------------------------------------------------------------------

    def _read(self, name: str) -> None:
        if name == "get_ipython":
            self.uses_shell = True
            return
        if self.state is None or any(name in hidden for hidden in self._hidden):
            return
        if self._classes and not self._hidden and self._own(name) in self.state.settled:
            return
        self._read_global(name)

    def _read_global(self, name: str) -> None:
        if self.state is not None and name not in self.state.settled:
            self.needed.setdefault(name)
        self._use(name, writes=True)

    def _use(self, name: str, *, writes: bool) -> None:
        """Let the functions that may go by `name` run."""
        for later in self.state.later.get(name, ()) if self.state is not None else ():
            if later in self._running:
                continue
            self._running.add(later)
            for each in later.reads:
                self._read_global(each)
            if writes:
                self.assigned.update(dict.fromkeys(later.writes))
            self._running.discard(later)

    def _bind(self, name: str, later: Later | None = None) -> None:
        if self._classes and name not in self._class_globals:
            self._settle(self._own(name))
            return
        self.assigned.setdefault(name)
        self._settle(name)
        if self.state is not None:
            self.state.gone -= {name}
            self.state.later.pop(name, None)
            if later is not None:
                self.state.later[name] = frozenset({later})

    def _settle(self, name: str) -> None:
        if self.state is not None:
            self.state.settled |= {name}

    def _lose(self, name: str) -> None:
        self._settle(name)
        if self.state is not None:
            self.state.gone |= {name}
            self.state.later.pop(name, None)

    def _own(self, name: str) -> str:
        return self._classes[-1] + name

    def _is_of_the_notebook(self, name: str) -> bool:
        hidden = any(name in each for each in self._hidden)
        in_class = bool(self._classes) and name not in self._class_globals
        return not hidden and not in_class

    def _change(self, target: ast.expr) -> None:
        """Note whose part is assigned or deleted."""
        base = target
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name) and self._is_of_the_notebook(base.id):
            self.changed.setdefault(base.id)

    def visit_Name(self, node: ast.Name) -> None:
        match node.ctx:
            case ast.Load():
                self._read(node.id)
            case ast.Store():
                self._bind(node.id)
            case _:
                self._read(node.id)
                if self._is_of_the_notebook(node.id):
                    self.deleted.setdefault(node.id)
                    self._lose(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._change(node)
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._change(node)
        self.visit(node.value)
        self.visit(node.slice)

    # ---- assignments ----------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        match node:
            case ast.Assign([ast.Name(id=name)], ast.Lambda() as function):
                self.visit(function.args)
                self._bind(name, later_of(function) if not self._hidden else None)
            case _:
                self.visit(node.value)
                self.body(node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id)
            self.visit(node.value)
        else:
            self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.generic_visit(node.target)
        self._annotation(node.annotation)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target.id)

    def visit_TypeAlias(self, node: Any) -> None:
        parameters = type_parameters(node)
        reads = [n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)]
        kept = tuple(dict.fromkeys(name for name in reads if name not in parameters))
        self._bind(node.name.id, Later(kept, ()))

    def visit_Import(self, node: ast.Import) -> None:
        for found in node.names:
            self._bind(found.asname or found.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "__future__":
            self._has_lazy_annotations |= any(a.name == "annotations" for a in node.names)
        for found in node.names:
            if found.name == "*":
                self._star(node.module or "", node.level)
            else:
                self._bind(found.asname or found.name)

    def _star(self, module: str, level: int) -> None:
        known = self._exports(module) if not level else None
        if known is None:
            self.stars.setdefault(module)
        for name in sorted(known or ()):
            self._bind(name)

    # ---- functions and classes ------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        self.body(node.decorator_list)
        with self._hiding(type_parameters(node)):
            self.visit(node.args)
            if node.returns is not None:
                self._annotation(node.returns)
        self._define(node)

    def _define(self, node: Function | ast.ClassDef) -> None:
        later = later_of(node) if not self._classes else None
        self._bind(node.name, later)
        if node.decorator_list:  # who decorates it may call it
            self._use(node.name, writes=True)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        with self._hiding(frozenset()):  # inside, names of a class are not seen
            for name in later_of(node).reads:
                self._read(name)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)
        for parameter in (
            *node.posonlyargs, *node.args, node.vararg, *node.kwonlyargs, node.kwarg
        ):  # fmt: skip
            if parameter is not None and parameter.annotation is not None:
                self._annotation(parameter.annotation)

    def _annotation(self, node: ast.expr) -> None:
        if not self._has_lazy_annotations:
            self.visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.body(node.decorator_list)
        with self._hiding(type_parameters(node)):
            self.body((*node.bases, *node.keywords))
        outer, self._class_globals = self._class_globals, set()
        self._classes.append(f"{'.'.join(self._classes)}{node.name}.{node.lineno}.")
        self.body(node.body)
        self._classes.pop()
        self._class_globals = outer
        self._define(node)

    def visit_Global(self, node: ast.Global) -> None:
        if self._classes:
            self._class_globals.update(node.names)

    @contextmanager
    def _hiding(self, names: frozenset[str]) -> Iterator[None]:
        self._hidden.append(names)
        yield
        self._hidden.pop()
