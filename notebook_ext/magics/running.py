"""`%%remote_run` and `%%remote_spawn`: the whole cell runs on a worker.

As for `%%remote` (see `cell`), the work is done on the way in: the first line becomes a call, the
rest is transformed and parsed by IPython as any cell, and an AST transformer keeps the tree and
puts one call of `run` in its place. So a syntax error is the notebook's own, and lines are those of
the cell.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from IPython import get_ipython
from IPython.core import inputtransformer2
from IPython.core.error import UsageError

from kernel_worker.errors import Error
from kernel_worker.wire.cell import CARRIED, Cell
from notebook_ext.app import App
from notebook_ext.magics import cell_asked, cell_names, run_options, sessions, travel
from notebook_ext.magics.cell import show_as_typed
from notebook_ext.magics.cell_function import CellFunction, compiled, reader

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import FunctionType

    from notebook_ext.magics.cell_names import CellNames
    from notebook_ext.magics.run_options import RunLine

_FIRST_LINE: Final = re.compile(
    r"%%(?P<magic>remote_run|remote_spawn)(?:[ \t]+(?P<options>.*))?\s*$"
)
_MARK: Final = "__remote_cell__"
_MODULE: Final = "__import__('notebook_ext.magics.running', fromlist=['run'])"
_trees: dict[int, ast.Module] = {}
_numbers = itertools.count()
_app = App()


def transform_lines(lines: list[str]) -> list[str]:
    """Return the cell with its first line as a call, or as it is."""
    first = _FIRST_LINE.match(lines[0]) if lines else None
    if first is None:
        return lines
    blank = list(itertools.takewhile(lambda line: not line.strip(), lines[1:]))
    rest: list[str] = lines[1 + len(blank) :]
    for transform in (inputtransformer2.leading_indent, inputtransformer2.cell_magic):
        rest = transform(rest)  # type: ignore[no-untyped-call]
    return [f"{_MARK}({first['magic']!r}, {first['options'] or ''!r})\n", *blank, *rest]


# While a line is being typed, it is a cell magic: complete at an empty line, not before.
transform_lines.has_side_effects = True  # type: ignore[attr-defined]


class Keeping(ast.NodeTransformer):
    """Puts a call of `run` in the place of a module that begins with a call of the mark."""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        """Return the module, changed in place if it is such a cell."""
        match module.body[:1]:
            case [
                ast.Expr(
                    ast.Call(ast.Name(id=mark), [ast.Constant(str() as magic), ast.Constant(line)])
                ) as first
            ] if mark == _MARK:
                number = next(_numbers)
                _trees.clear()  # of a cell that was not run, as it had an error
                _trees[number] = ast.Module(module.body[1:], [])
                call = ast.parse(f"{_MODULE}.run({magic!r}, {line!r}, {number})", mode="eval").body
                for node in ast.walk(call):
                    if isinstance(node, ast.expr):
                        ast.copy_location(node, first)
                module.body[:] = [ast.copy_location(ast.Expr(call), first)]
        return module


def run(magic: str, line: str, number: int) -> Any:
    """Run a kept cell; return what is to be shown as the value of its last expression."""
    __tracebackhide__ = True
    shell: Any = get_ipython()
    filename = sys._getframe(1).f_code.co_filename  # noqa: SLF001  the cell's name
    show_as_typed(f"%%{magic} {line}", filename)
    typed = RunningCell(shell, magic, _trees.pop(number), filename)
    wanted = run_options.parse(magic, shell.var_expand(line, 2) if line else line)
    try:
        return typed.started(wanted)
    except UsageError:
        raise
    except Exception as error:
        vars(error).pop(CARRIED, None)
        _show_remote_frames_alone(shell, error)
        raise


class RunningCell:
    """One cell that is to run on a worker."""

    def __init__(self, shell: Any, magic: str, tree: ast.Module, filename: str) -> None:
        """Read what the cell does with names."""
        self._shell = shell
        self._magic = magic
        self._tree = tree
        self._filename = filename
        _, self._label = shell.compile.format_code_name(filename)
        self._grammar = run_options.GRAMMARS[magic]
        self.names: CellNames = cell_names.of(
            tree, notebook=_visible(shell), exports=_exports, parse=self._parse
        )

    def started(self, wanted: RunLine) -> Any:
        """Run it, or show what would travel; return the last expression's value, or the call."""
        __tracebackhide__ = True
        if not self._tree.body:
            raise self._grammar.error("this cell is empty below its first line")
        sent = self._sent(wanted)
        back = self.names.coming_back if wanted.back is None else self._back(wanted)
        if wanted.dry_run:
            return travel.Report(sent, back, self.reader, self.namespace, wanted.session)
        if wanted.session is not None:
            session = sessions.of(wanted, self._grammar)
            return session.run(self, wanted, sent, back)
        given = {"timeout": run_options.MONTH_SECONDS, **wanted.given}
        function = CellFunction(self.reader(sent), _app, given)
        return self.called(function, wanted, self.cell(wanted, back))

    def cell(self, wanted: RunLine, back: tuple[str, ...]) -> Any:
        """Return what the worker is to run."""
        body, last = compiled(self._tree, self._filename, self._shell.compile.flags)
        return Cell(
            body,
            last,
            self._filename,
            "".join(linecache.getlines(self._filename)),
            back,
            asked=wanted.back is not None,
            held=self.names.held if wanted.back is None else (),
            deleted=self.names.deleted,
            has_stars=bool(self.names.stars) and wanted.back is None,
            uses_shell=self.names.uses_shell,
            number=int(self._label[3:-1]),
            is_quiet=self._shell.displayhook.quiet(),
            stays=wanted.session is not None,
        )

    def called(self, function: Any, wanted: RunLine, *args: Any) -> Any:
        """Call what runs cells, in the foreground or behind."""
        __tracebackhide__ = True
        if self._magic == "remote_run":
            return function.remote(*args)
        call = function.spawn(*args)
        if wanted.variable is None:
            return call
        self._shell.user_ns[wanted.variable] = call
        return None

    def reader(self, names: Collection[str], *, alone: bool = False) -> FunctionType:
        """Return the function whose code reads `names`; `alone`: and has no imports of the cell."""
        tree = ast.Module([], []) if alone else self._tree
        return reader(tree, names, self.namespace, self._label)

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's."""
        names: dict[str, Any] = self._shell.user_ns
        return names

    def _sent(self, wanted: RunLine) -> tuple[str, ...]:
        visible = _visible(self._shell)
        if wanted.sent is None:
            return tuple(name for name in self.names.needed if name in visible)
        for name in wanted.sent:
            if name not in visible:
                raise self._grammar.error(f"-i {name}: the notebook has no {name}")
        return wanted.sent

    def _back(self, wanted: RunLine) -> tuple[str, ...]:
        asked = wanted.back or ()
        if wanted.session is None:  # it may have them from earlier cells
            for name in cell_asked.never_left(asked, self._tree, self.names, self.namespace):
                raise self._grammar.error(f"-o {name}: the cell never assigns {name}")
        return asked

    def _parse(self, text: str) -> ast.Module:
        plain: str = self._shell.input_transformer_manager.transform_cell(text)
        return ast.parse(plain)


def _visible(shell: Any) -> Collection[str]:
    """Return the names that the notebook has, without those that IPython has put there."""
    own = {"get_ipython", "exit", "quit", "open", "display"}
    hidden = shell.user_ns_hidden
    names = shell.user_ns
    return {n for n in names if n not in own or names[n] is not hidden.get(n, names)}


def _exports(module: str) -> Collection[str] | None:
    """Return what `from module import *` brings, where the module is imported here already."""
    found = sys.modules.get(module)
    if found is None:
        return None
    listed = getattr(found, "__all__", None)
    return list(listed) if listed is not None else [n for n in vars(found) if n[:1] != "_"]


def _show_remote_frames_alone(shell: Any, error: Exception) -> None:
    """Let the traceback begin where the cell's own lines do, on the worker."""
    frames = error.__traceback__
    while frames is not None and not _is_remote(frames.tb_frame):
        frames = frames.tb_next
    if frames is None or isinstance(error, Error):
        return

    def render() -> list[str]:
        stack: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, frames, tb_offset=0
        )
        return stack

    error._render_traceback_ = render  # type: ignore[attr-defined]


def _is_remote(frame: Any) -> bool:
    return "__stop__" in frame.f_globals


def complete_line(magic: str, line: str, symbol: str) -> list[str]:
    """Return what Tab offers on the first line of a cell."""
    return run_options.GRAMMARS[magic].complete(line, symbol)
