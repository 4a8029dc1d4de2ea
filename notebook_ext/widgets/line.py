"""Progress as one line of text, where there is no notebook.

On a terminal the line is rewritten in place and left as it was last when the map ends; a stream
that is no terminal (a log, a pipe) gets nothing, unless text was asked for: then one final line.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from notebook_ext.widgets.facts import MapFacts
    from notebook_ext.widgets.report import Report

BAR_CELLS: Final = 20
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_NARROW: Final = 60


class LineView:
    """The one line of one map."""

    def __init__(self, stream: TextIO, *, rewrites: bool) -> None:
        """Write to `stream`, over and over in place or (`rewrites` False) once at the end."""
        self._stream = stream
        self._rewrites = rewrites
        self._shown = 0

    def update(self, facts: MapFacts, report: Report) -> None:
        """Rewrite the line."""
        facts.take_changes()
        if self._rewrites:
            self._write(one_line(report, _columns()), "")

    def finish(self, facts: MapFacts, report: Report) -> None:
        """Write the line for the last time."""
        facts.take_changes()
        self._write(one_line(report, _columns()), "\n")

    def _write(self, text: str, end: str) -> None:
        start = "\r" if self._rewrites else ""
        self._stream.write(f"{start}{text.ljust(self._shown)}{end}")
        self._stream.flush()
        self._shown = len(text)


def one_line(report: Report, columns: int) -> str:
    """Return the report in at most `columns - 1` characters."""
    parts = [report.title]
    if report.fraction is not None and columns > _NARROW:
        parts.append(bar(report.fraction))
    parts.append(report.headline())
    if report.percent():
        parts.append(report.percent())
    parts.append(report.timing())
    if report.running and report.state == "running":
        parts.append(f"{report.running:,} running")
    counts = ((report.failed, "failed"), (report.cancelled, "cancelled"))
    parts += [f"{count:,} {word}" for count, word in counts if count]
    if report.waiting_for:
        parts.append(f"waits: {report.waiting_for}")
    elif report.error is not None:
        parts.append(report.error_line())
    return "  ".join(parts)[: max(columns - 1, 1)]


def bar(fraction: float, cells: int = BAR_CELLS) -> str:
    """Return a bar of `cells` characters, drawn in eighths."""
    eighths = int(fraction * cells * 8)
    whole, rest = divmod(eighths, 8)
    part = _EIGHTHS[rest] if whole < cells else ""
    return "▕" + ("█" * whole + part).ljust(cells) + "▏"


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns
