"""All magics: a row each. Whoever adds one adds a row here.

A row of a line magic is its name, the function that runs it (its docstring is what `%name?` shows,
with an example) and what Tab offers behind it. Rows cost nothing: what a magic needs, its function
imports when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from notebook_ext.magics import cells, displays, lines, options, run_options, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    Complete = Callable[[str, str], list[str]]


def _nothing(_line: str, _symbol: str) -> list[str]:
    return []


class LineMagic(NamedTuple):
    """A magic of one line, `%name`."""

    name: str
    run: Callable[[str], object]
    complete: Complete = _nothing
    """From the line behind the name, and the word at its end."""
    takes_expression: bool = False
    """Whether it may be given as an expression, `%name calls[0]`."""


class CellMagic(NamedTuple):
    """A magic of a whole cell, `%%name`."""

    name: str
    run: Callable[[str, str], object]
    complete: Complete


LINES: Final = (
    LineMagic("remote_status", lines.remote_status),
    LineMagic("remote_calls", lines.remote_calls, lines.calls_words),
    LineMagic("remote_logs", lines.remote_logs, lines.call_words),
    LineMagic("remote_cancel", lines.remote_cancel, lines.cancel_words),
    LineMagic("remote_progress", watching.remote_progress, lines.call_words),
    LineMagic("remote_graph", displays.remote_graph, lines.call_words, takes_expression=True),
    LineMagic("remote_pool", displays.remote_pool, displays.pool_words, takes_expression=True),
    LineMagic("remote_dashboard", displays.remote_dashboard),
    LineMagic("remote_attach", lines.remote_attach, lines.subject_words),
    LineMagic("remote_debug", lines.remote_debug, lines.call_words),
    LineMagic("remote_connect", lines.remote_connect, lines.connect_words),
    LineMagic("remote_sessions", lines.remote_sessions, lines.session_words),
)
CELLS: Final = (
    CellMagic("remote", cells.remote, options.REMOTE.complete),
    CellMagic("remote_run", cells.remote_run, run_options.RUN.complete),
    CellMagic("remote_spawn", cells.remote_spawn, run_options.SPAWN.complete),
)
