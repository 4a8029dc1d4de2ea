"""Which names a cell needs from the notebook, and which it leaves there; pure.

Theory. The cell's tree is walked in the order in which it runs, with what is *settled* at each
point: the names whose value the cell has determined by then on every path that leads there. A name
is needed where it is read and not settled: there is a path on which the notebook's value counts.
Paths part at `if`, loops, `try`, `match`, `and`, and meet again; a loop may run no round, a body
of `try` may stop anywhere; `with` runs all of its block (but that of `suppress`).

A function's body runs when it is called: what it reads counts where the function is first used, or
at the end of the cell where it is not; so does what the methods of a class read. A comprehension
and a class body run at once, in scopes of their own. Text of `%magic` lines counts as the Python
that it is, in `!commands` what stands in braces or behind a dollar sign.

Guarantees: nothing is run, imported or looked up. A name that the cell reads before it is settled
is always among the needed ones, unless it is read by a string (`eval`, `globals()[...]`).
Not guaranteed: that each needed name is read in fact: which way the cell goes is seen when it runs.
Objects that are changed by a method call (`xs.append(1)`) are not seen to be changed.
"""

# ruff: noqa: N802  a method is named after the node that it walks

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from notebook_ext.magics import shell_syntax
from notebook_ext.magics.cell_scopes import Scopes
from notebook_ext.magics.cell_state import State, met

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from notebook_ext.magics.cell_scopes import Exports

    Parse = Callable[[str], ast.Module]

_BUILTIN: Final = frozenset(dir(builtins)) | {"__name__", "__builtins__", "__file__", "__doc__"}
_IDENTIFIER: Final = re.compile(r"[^\W\d]\w*")
_SUPPRESSES: Final = frozenset({"suppress", "raises"})


@dataclass(frozen=True, slots=True)
class CellNames:
    """What a cell does with the names of the notebook, each in the order of the cell."""

    needed: tuple[str, ...]
    """Read where the notebook's value counts, on some path at least."""
    assigned: tuple[str, ...]
    """Bound, on some path at least, and not gone again (as the `e` of `except … as e` is)."""
    changed: tuple[str, ...]
    """Not bound, but changed in place: `x[0] = 1`, `x.size = 2`, `del x[0]`."""
    deleted: tuple[str, ...]
    """Targets of `del`."""
    stars: tuple[str, ...]
    """Modules of `from … import *` whose names are not known."""
    held: tuple[str, ...]
    """Bound by `with … as`: what they hold is over when the block is."""
    uses_shell: bool
    """Has IPython's syntax in it."""

    @property
    def coming_back(self) -> tuple[str, ...]:
        """What the notebook gets."""
        return tuple(dict.fromkeys((*self.assigned, *self.changed)))


def of(
    module: ast.Module,
    *,
    notebook: Collection[str] = frozenset(),
    exports: Exports = lambda _module: None,
    parse: Parse = ast.parse,
) -> CellNames:
    """Return what the cell `module` does with names.

    Args:
        module: the cell's tree, after IPython's transformation.
        notebook: names that the notebook has: a builtin among them is needed like any other.
        exports: what `from module import *` brings; None where that is not known.
        parse: reads text with IPython's syntax, for the bodies of magics.

    Returns:
        The names, in the order in which the cell comes to them.
    """
    walk = _Walk(exports, parse)
    walk.body(module.body)
    walk.end()
    gone = walk.state.gone if walk.state is not None else frozenset()
    hidden = _BUILTIN - set(notebook)
    return CellNames(
        needed=tuple(name for name in walk.needed if name not in hidden),
        assigned=tuple(name for name in walk.assigned if name not in gone),
        changed=tuple(
            name for name in walk.changed if name not in walk.assigned and name not in hidden
        ),
        deleted=tuple(walk.deleted),
        stars=tuple(walk.stars),
        held=tuple(walk.held),
        uses_shell=walk.uses_shell,
    )


class _Walk(Scopes):
    """The paths through a cell; `state` is None where nothing can come to."""

    def __init__(self, exports: Exports, parse: Parse) -> None:
        super().__init__(exports)
        self.held: dict[str, None] = {}
        self._parse = parse
        self._breaks: list[list[State | None]] = []
        """Where the loops that are being walked were left."""

    # ---- comprehensions -------------------------------------------------------------------------

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)

    def _comprehension(self, generators: list[ast.comprehension], *results: ast.expr) -> None:
        self.visit(generators[0].iter)
        before = self.state.copy() if self.state is not None else None
        with self._hiding(frozenset()):  # inside, names of a class are not seen
            for number, generator in enumerate(generators):
                if number:
                    self.visit(generator.iter)
                bound = [n for n in ast.walk(generator.target) if isinstance(n, ast.Name)]
                self._hidden[-1] |= {n.id for n in bound if isinstance(n.ctx, ast.Store)}
                for condition in generator.ifs:
                    self.state, _ = self._condition(condition)
            self.body(results)
        self.state = before  # there may have been nothing to go through

    # ---- paths ----------------------------------------------------------------------------------

    def _from(self, state: State | None, statements: Iterable[ast.AST]) -> State | None:
        """Walk statements from `state`; return what is known after them."""
        self.state = state.copy() if state is not None else None
        self.body(statements)
        return self.state

    def _condition(self, node: ast.expr) -> tuple[State | None, State | None]:
        """Walk a condition; return what is known where it holds, and where it does not."""
        match node:
            case ast.UnaryOp(ast.Not(), operand):
                holds, fails = self._condition(operand)
                return fails, holds
            case ast.BoolOp(operator, values):
                goes_on_if = isinstance(operator, ast.And)
                stopped = []
                for value in values:
                    holds, fails = self._condition(value)
                    self.state, stops = (holds, fails) if goes_on_if else (fails, holds)
                    stopped.append(stops)
                going = self.state
                other = met(stopped)
                return (going, other) if goes_on_if else (other, going)
            case ast.Constant(value):
                return (self.state, None) if value else (None, self.state)
            case _:
                self.visit(node)
                return self.state, self.state.copy() if self.state is not None else None

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.state = met(self._condition(node))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        holds, fails = self._condition(node.test)
        self.state = met([self._from(holds, [node.body]), self._from(fails, [node.orelse])])

    def visit_If(self, node: ast.If) -> None:
        holds, fails = self._condition(node.test)
        self.state = met([self._from(holds, node.body), self._from(fails, node.orelse)])

    def visit_Assert(self, node: ast.Assert) -> None:
        holds, fails = self._condition(node.test)
        if node.msg is not None:
            self._from(fails, [node.msg])
        self.state = holds

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        before = self.state
        after, breaks = self._round(before, [node.target, *node.body])
        done = self._from(met([before, after]), node.orelse)
        self.state = met([done, *breaks])

    visit_AsyncFor = visit_For  # noqa: N815  the name of the node

    def visit_While(self, node: ast.While) -> None:
        holds, fails = self._condition(node.test)
        after, breaks = self._round(holds, node.body)
        ends = None if fails is None else met([fails, after])
        self.state = met([self._from(ends, node.orelse), *breaks])

    def _round(
        self, state: State | None, statements: Iterable[ast.AST]
    ) -> tuple[State | None, list[State | None]]:
        """Walk a round of a loop; return what is known after it, and where it was left."""
        self._breaks.append([])
        after = self._from(state, statements)
        return after, self._breaks.pop()

    def visit_Break(self, _node: ast.Break) -> None:
        self._breaks[-1].append(self.state)
        self.state = None

    def visit_Continue(self, _node: ast.Continue) -> None:
        self.state = None  # what a round has settled is not counted on after the loop

    def visit_Raise(self, node: ast.Raise) -> None:
        self.generic_visit(node)
        self.state = None

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
                bound = [n.id for n in ast.walk(item.optional_vars) if isinstance(n, ast.Name)]
                self.held |= dict.fromkeys(bound)
        before = self.state
        after = self._from(before, node.body)
        self.state = met([before, after]) if any(map(_suppresses, node.items)) else after

    visit_AsyncWith = visit_With  # noqa: N815  likewise

    def visit_Try(self, node: Any) -> None:
        before = self.state.copy() if self.state is not None else None
        done = self._from(before, node.body)
        ends = [self._from(done, node.orelse)]
        ends += [self._from(before, [handler]) for handler in node.handlers]
        ended = met(ends)
        # However the rest ended, `finally` runs; it can rely on what was settled before alone.
        last = self._from(before, node.finalbody)
        if ended is not None and last is not None:
            ended.settled |= last.settled
            ended.later |= last.later
        self.state = ended if last is not None else None

    visit_TryStar = visit_Try  # noqa: N815  likewise

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name is None:
            self.body(node.body)
            return
        if self._is_of_the_notebook(node.name):
            self._lose(node.name)  # Python deletes it when the handler ends
        else:
            self._bind(node.name)
        self.body(node.body)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        going, ends = self.state, []
        for case in node.cases:
            self.state = going.copy() if going is not None else None
            self.visit(case.pattern)
            holds = self.state
            if case.guard is not None:
                holds, _ = self._condition(case.guard)
            ends.append(self._from(holds, case.body))
            if _always_matches(case.pattern) and case.guard is None:
                going = None
        self.state = met([*ends, going])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self._bind(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name is not None:
            self._bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self._bind(node.rest)

    # ---- IPython's syntax -----------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        magic = shell_syntax.read(node)
        if magic is None:
            self.generic_visit(node)
            return
        self.uses_shell = True
        for text in magic.python:
            try:
                self.body(self._parse(text).body)
            except SyntaxError:
                for name in _IDENTIFIER.findall(text):
                    self._read_if_notebook(name)
        for text in magic.expansions:
            for name in shell_syntax.expanded(text):
                self._read_if_notebook(name)
        for name in magic.assigns:
            self._bind(name)

    def _read_if_notebook(self, name: str) -> None:
        if name not in _BUILTIN:
            self._read(name)


def _suppresses(item: ast.withitem) -> bool:
    match item.context_expr:
        case ast.Call(ast.Name(id=name)) | ast.Call(ast.Attribute(attr=name)):
            return name in _SUPPRESSES
        case _:
            return False


def _always_matches(pattern: ast.pattern) -> bool:
    match pattern:
        case ast.MatchAs(pattern=inner):
            return inner is None or _always_matches(inner)
        case ast.MatchOr(patterns=patterns):
            return any(map(_always_matches, patterns))
        case _:
            return False
