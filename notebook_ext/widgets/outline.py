"""A call graph in words: the tree as indented lines, for a saved notebook and for a terminal.

Siblings of one function are one line, so that a tree of any size is a page at most.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from notebook_ext.widgets.call_rows import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    STATES,
    UNKNOWN,
    WAITING,
)
from notebook_ext.widgets.pace import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from notebook_ext.widgets.call_rows import CallRows

MOST_LINES: Final = 40
GLYPHS: Final = ("○", "▶", "✓", "✕", "–")  # noqa: RUF001  told apart by their shapes
"""Of each of `STATES`."""
NOTABLE: Final = (FAILED, RUNNING, CANCELLED, WAITING, DONE)
_BAR_STYLE: Final = "display:inline-flex;width:120px;height:6px;margin:0 8px"
_COLOURS: Final = ("#9aa0a8", "#3f9ddb", "#009e73", "#d55e00", "#8a8f98")


@dataclass(frozen=True, slots=True)
class Line:
    """Siblings of one function: what they are together."""

    depth: int
    name: str
    counts: tuple[int, ...]
    seconds: float | None

    @property
    def state(self) -> int:
        """Return the notable state of them."""
        return next((state for state in NOTABLE if self.counts[state]), WAITING)

    def said(self) -> str:
        """Return how many inputs are in which state, where there are several."""
        words = [f"{n:,} {STATES[state]}" for state, n in enumerate(self.counts) if n]
        return ", ".join(words) if sum(self.counts) > 1 else ""


class Outline:
    """A tree as it was at one moment; shows itself as text, or as HTML."""

    def __init__(self, rows: CallRows, now: float) -> None:
        """Stand for `rows` as they are `now`, in seconds after the tree began."""
        self._rows = rows
        self._now = now

    def __repr__(self) -> str:
        """Return the tree as text."""
        return to_text(self._rows, self._now)

    def _repr_html_(self) -> str:
        return to_html(title_of(self._rows), self._rows, self._now)


def title_of(rows: CallRows) -> str:
    """Return what the tree is of: the function of the first call."""
    return rows.names[rows.functions[0]] if rows.rows else "Call graph"


def lines(rows: CallRows, now: float) -> list[Line]:
    """Return the tree as lines, at most `MOST_LINES`.

    Args:
        rows: The tree.
        now: Seconds after it began: what runs has run until then.
    """
    children: dict[int, list[int]] = {}
    for row, parent in enumerate(rows.parents):
        children.setdefault(parent, []).append(row)
    found: list[Line] = []
    todo = [(0, group) for group in reversed(_alike(rows, children.get(-1, [])))]
    while todo and len(found) < MOST_LINES:
        depth, group = todo.pop()
        found.append(_line(rows, depth, group, now))
        below = [child for row in group for child in children.get(row, [])]
        todo += [(depth + 1, each) for each in reversed(_alike(rows, below))]
    return found


def to_text(rows: CallRows, now: float) -> str:
    """Return the tree as plain text."""
    return "\n".join(_text(line) for line in lines(rows, now)) or "No call has been made yet."


def to_html(title: str, rows: CallRows, now: float, *, saved: bool = False) -> str:
    """Return the tree as HTML with inline styles, which stands on light and on dark paper.

    Args:
        title: What it is of.
        rows: The tree.
        now: Seconds after it began: what runs has run until then.
        saved: Whether it is read when that is long ago.
    """
    counts = rows.counts()
    said = ", ".join(f"{n:,} {STATES[state]}" for state, n in enumerate(counts) if n)
    if saved and not rows.has_ended:
        said += " when this was saved"
    head = f"<b>{html.escape(title)}</b> <span style='opacity:.75'>&nbsp;{said}</span>"
    body = "".join(map(_html, lines(rows, now)))
    style = "font-family:sans-serif;font-size:12px;line-height:1.7;padding:4px 0"
    return f'<div style="{style}"><div>{head}</div>{body}</div>'


def _alike(rows: CallRows, calls: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for row in calls:
        groups.setdefault(rows.functions[row], []).append(row)
    return list(groups.values())


def _line(rows: CallRows, depth: int, group: Sequence[int], now: float) -> Line:
    members = [rows.rows[row] for row in group]
    counts = tuple(map(sum, zip(*(each.counts for each in members), strict=True)))
    began = min((each.began for each in members if each.began != UNKNOWN), default=None)
    live = counts[WAITING] or counts[RUNNING]
    ended = now if live else max(each.ended for each in members)
    seconds = None if began is None else max(ended - began, 0.0)
    return Line(depth, rows.names[rows.functions[group[0]]], counts, seconds)


def _count(line: Line) -> str:
    total = sum(line.counts)
    return f" × {total:,}" if total > 1 else ""  # noqa: RUF001  times


def _text(line: Line) -> str:
    took = "" if line.seconds is None else format_seconds(line.seconds)
    words = "  ".join(filter(None, (f"{line.name}{_count(line)}", took, line.said())))
    return f"{'  ' * line.depth}{GLYPHS[line.state]} {words}"


def _html(line: Line) -> str:
    colour = _COLOURS[line.state]
    took = "" if line.seconds is None else format_seconds(line.seconds)
    many = ""
    if line.said():
        bar = f'<span style="{_BAR_STYLE}">{"".join(_bar(line))}</span>'
        many = f'{bar}<span style="opacity:.75">{line.said()}</span>'
    return (
        f'<div style="margin-left:{22 * line.depth}px;white-space:nowrap">'
        f'<span style="color:{colour}">{GLYPHS[line.state]}</span> {html.escape(line.name)}'
        f'<span style="opacity:.75">{_count(line)} &nbsp;{took}</span>{many}</div>'
    )


def _bar(line: Line) -> Iterator[str]:
    total = sum(line.counts)
    for state in (FAILED, DONE, RUNNING, CANCELLED, WAITING):
        if line.counts[state]:
            share = 100 * line.counts[state] / total
            yield (
                f'<span style="width:{share:.1f}%;min-width:2px;'
                f'background-color:{_COLOURS[state]}"></span>'
            )
