"""Directives that show what the code says: settings, magics, the error tree, the transitions.

So that no page can say something else than the code does: each of them reads the object that the
program itself uses.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from kernel_worker import errors, settings
from kernel_worker.core.transitions import TABLE, TERMINAL, InputState
from notebook_ext import exception
from notebook_ext.magics import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDTH, HEIGHT = 120, 30
PLACES = {
    "ABSENT": (10, 190),
    "PENDING": (190, 190),
    "DELAYED": (190, 320),
    "LEASED": (420, 65),
    "CANCELLING": (420, 160),
    "SUCCEEDED": (690, 10),
    "FAILED": (690, 70),
    "TIMED_OUT": (690, 130),
    "LOST": (690, 190),
    "INIT_FAILED": (690, 250),
    "CANCELLED": (690, 320),
}
"""Where each state is drawn; a new one has to be given a place."""


def fields_with_their_docs(kind: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields of a dataclass with the string that stands below each."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = tree.body  # type: ignore[attr-defined]
    for statement, below in itertools.pairwise(body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str() as text)):
                yield name, " ".join(text.split())


def settings_rows() -> Iterator[str]:
    """Yield a list table of what can be set."""
    defaults = {each.name: each.default for each in dataclasses.fields(settings.Settings)}
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 25 15 60", "")
    yield from ("   * - setting", "     - default", "     - meaning")
    for name, text in fields_with_their_docs(settings.Settings):
        default = defaults[name]
        shown = "" if default is dataclasses.MISSING else f"``{default!r}``"
        yield from (f"   * - ``{name}``", f"     - {shown}", f"     - {text}")


def magics_with_help() -> Iterator[str]:
    """Yield each magic with what `?` shows of it."""
    for mark, rows in (("%%", table.CELLS), ("%", table.LINES)):
        for row in rows:
            text = inspect.cleandoc(row.run.__doc__ or "")
            title = f"``{mark}{row.name}``"
            yield from (title, "-" * len(title), "", ".. code-block:: text", "")
            yield from textwrap.indent(text, "   ").splitlines()
            yield ""


def error_tree() -> Iterator[str]:
    """Yield the tree that stands in the docstring of the errors' module."""
    yield from (".. code-block:: text", "")
    yield from textwrap.indent((errors.__doc__ or "").partition("\n\n")[2], "   ").splitlines()


def error_classes() -> Iterator[str]:
    """Yield every exception that is public."""
    for name in exception.__all__:
        yield from (
            f".. autoexception:: notebook_ext.exception.{name}",
            "   :exclude-members: exc",
            "",
        )


def transition_rows() -> Iterator[str]:
    """Yield the table of transitions."""
    yield from (".. list-table::", "   :header-rows: 1", "")
    yield from ("   * - an input that is", "     - and", "     - becomes")
    for (state, cause), after in TABLE.items():
        yield from (f"   * - {state.name}", f"     - {cause.name}", f"     - {after.name}")


class _Told(Directive):
    """Puts lines of reStructuredText where it stands."""

    tell: ClassVar[Callable[[], Iterator[str]]]

    def run(self) -> list[nodes.Node]:
        """Parse them there."""
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(list(type(self).tell())), 0, section, match_titles=True)
        return list(section.children)


class SettingsTable(_Told):
    """What can be set."""

    tell = staticmethod(settings_rows)


class MagicHelp(_Told):
    """Every magic's help."""

    tell = staticmethod(magics_with_help)


class ErrorTree(_Told):
    """The exceptions, as a tree."""

    tell = staticmethod(error_tree)


class ErrorClasses(_Told):
    """The exceptions, one by one."""

    tell = staticmethod(error_classes)


class TransitionTable(_Told):
    """The states of an input, as a table."""

    tell = staticmethod(transition_rows)


class TransitionDiagram(Directive):
    """The states of an input, as a drawing."""

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        return [nodes.raw("", drawing(), format="html")]


def drawing() -> str:
    """Return the table of transitions as an SVG in the colours of the page."""
    causes: defaultdict[tuple[InputState, InputState], list[str]] = defaultdict(list)
    for (state, cause), after in TABLE.items():
        causes[state, after].append("" if cause.name == after.name else cause.name)
    arrows = [_arrow(*ends, names) for ends, names in causes.items()]
    boxes = [_box(state) for state in InputState]
    head = (
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor"/></marker>'
    )
    return (
        '<svg class="transitions" viewBox="0 0 820 360" role="img" '
        'aria-label="The states of an input, and what leads from one to the other">'
        f"<defs>{head}</defs>{''.join(arrows)}{''.join(boxes)}</svg>"
    )


def _box(state: InputState) -> str:
    x, y = PLACES[state.name]
    end = "end" if state in TERMINAL else "way"
    return (
        f'<rect class="{end}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text class="state" x="{x + WIDTH / 2}" y="{y + 20}">{state.name}</text>'
    )


def _arrow(start: InputState, end: InputState, causes: list[str]) -> str:
    (x1, y1), (x2, y2) = PLACES[start.name], PLACES[end.name]
    if x1 == x2:  # up or down
        shift = 20 if y2 > y1 else -20
        ax = bx = x1 + WIDTH / 2 + shift
        ay, by = (y1 + HEIGHT, y2) if y2 > y1 else (y1, y2 + HEIGHT)
    else:
        shift = 6 if x2 > x1 else -6
        ax, bx = (x1 + WIDTH, x2) if x2 > x1 else (x1, x2 + WIDTH)
        ay, by = y1 + HEIGHT / 2 - shift, y2 + HEIGHT / 2 - shift
    label = ", ".join(filter(None, causes))
    return (
        f'<path d="M{ax} {ay} {bx} {by}" marker-end="url(#tip)"/>'
        f'<text class="cause" x="{(ax + bx) / 2}" y="{(ay + by) / 2 - 4}">{label}</text>'
    )


def setup(app: Any) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("magic-help", MagicHelp)
    app.add_directive("error-tree", ErrorTree)
    app.add_directive("error-classes", ErrorClasses)
    app.add_directive("transition-table", TransitionTable)
    app.add_directive("transition-diagram", TransitionDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
