"""What IPython's syntax in a cell reads and assigns, seen in the calls that IPython makes of it.

`%time f(x)` is `get_ipython().run_line_magic('time', 'f(x)')` when the cell is parsed, `!ls {d}` is
`get_ipython().system('ls {d}')`. Some magics run their text as Python; IPython puts values into the
text of all: `{expression}` and `$name`.
"""

from __future__ import annotations

import ast
import re
import string
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN_PYTHON: Final = frozenset({"time", "timeit", "prun", "memit", "mprun", "lprun", "debug"})
"""Magics that run their line, and the cell below them, as Python."""
_RUN_CELL: Final = frozenset({"capture", "python_cell", "with"})
"""Magics that run the cell below them alone."""
_NAMES: Final = frozenset({"pinfo", "pinfo2", "psource", "pdoc", "pdef", "who", "store", "xdel"})
"""Magics whose line names variables."""
_OPTIONS: Final = re.compile(r"^(?:\s*--?[A-Za-z][\w-]*(?:[ =]?\d+)?)+(?=\s|$)")
_DOLLAR: Final = re.compile(r"(?<!\$)\$\{?([^\W\d]\w*)")
_WORD: Final = re.compile(r"[^\W\d]\w*")


class Magic(NamedTuple):
    """What one use of IPython's syntax does with names."""

    python: tuple[str, ...] = ()
    """Text that runs as Python."""
    expansions: tuple[str, ...] = ()
    """Text into which IPython puts values."""
    assigns: tuple[str, ...] = ()


def read(node: ast.Call) -> Magic | None:
    """Return what this call does, if it is one that IPython has made of its syntax."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=method),
            args=[ast.Constant(value=str(first)), *rest],
        ):
            texts = [each.value for each in rest if isinstance(each, ast.Constant)]
            return _magic(method, first, [text for text in texts if isinstance(text, str)])
        case _:
            return None


def _magic(method: str, first: str, texts: list[str]) -> Magic | None:
    match method, texts:
        case "system" | "getoutput", _:
            return Magic(expansions=(first,))
        case "run_line_magic", [line, *_]:
            return _line(first, line)
        case "run_cell_magic", [line, body, *_]:
            below = (body,) if first in _RUN_PYTHON | _RUN_CELL else ()
            own = _line(first, line)
            assigns = (*own.assigns, *(_WORD.findall(line)[-1:] if first == "capture" else ()))
            also = () if below else (body,)
            return Magic((*own.python, *below), (*own.expansions, *also), assigns)
        case _:
            return None


def _line(name: str, line: str) -> Magic:
    if name in _RUN_PYTHON:
        return Magic(python=(_OPTIONS.sub("", line).strip(),), expansions=(line,))
    if name in _NAMES:
        return Magic(python=tuple(_WORD.findall(line)[:1]), expansions=(line,))
    return Magic(expansions=(line,))


def expanded(text: str) -> Iterator[str]:
    """Yield the names whose values IPython puts into `text`."""
    yield from _DOLLAR.findall(text)
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field]
    except ValueError:
        return
    for field in fields:
        try:
            tree = ast.parse(field.strip(), mode="eval")
        except SyntaxError:
            continue
        yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
