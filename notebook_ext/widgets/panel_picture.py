"""The dashboard as plain HTML: what a saved notebook shows without a kernel."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Final

from notebook_ext.widgets.status import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_ext.widgets.board import Board

MOST_ROWS: Final = 20
_STYLE: Final = "font-family:sans-serif;font-size:12px;line-height:1.6;padding:4px 0"
_CELL: Final = "padding:1px 14px 1px 0;text-align:left;font-weight:400;white-space:nowrap"


def to_html(title: str, board: Board) -> str:
    """Return how things stand, in tables with inline styles; no word of it is about now."""
    parts = [
        _table("Hosts", ("host", "cores", "workers", "devices"), map(_host, board.rows("hosts"))),
        _table(
            "Functions",
            ("function", "busy", "warm", "starting", "backlog", "min", "max"),
            map(_pool, board.rows("pools")),
        ),
        _table(
            "Schedules",
            ("function", "app", "schedule", "next"),
            map(_schedule, board.rows("schedules")),
        ),
        _table(
            "Calls",
            ("function", "call", "state", "inputs", "made"),
            map(_call, board.rows("calls")),
        ),
    ]
    head = f"<b>{html.escape(title)}</b> &nbsp;as it was when this was saved"
    return f'<div style="{_STYLE}"><div>{head}</div>{"".join(parts)}</div>'


def _host(row: dict[str, Any]) -> Sequence[str]:
    return (row["id"], f"{row['used']:g} of {row['cores']:g}", str(row["workers"]), row["devices"])


def _pool(row: dict[str, Any]) -> Sequence[str]:
    most = "-" if row["max"] is None else str(row["max"])
    counts = (row["busy"], row["idle"], row["starting"], row["backlog"], row["min"])
    return (row["name"], *(f"{count:,}" for count in counts), most)


def _call(row: dict[str, Any]) -> Sequence[str]:
    ended = row["succeeded"] + row["failed"] + row["cancelled"]
    made = moment(row["made"])
    return (row["name"], row["id"], row["state"], f"{ended:,} of {row['total']:,}", made)


def _schedule(row: dict[str, Any]) -> Sequence[str]:
    then = "never" if row["next"] is None else moment(row["next"])
    return (row["name"], row["app"], row["schedule"], then)


def _table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(_row("td", row) for row in list(rows)[:MOST_ROWS])
    if not body:
        return ""
    head = _row("th", columns, "opacity:.7")
    style = "border-collapse:collapse;margin:0 0 6px"
    return f'<div>{heading}</div><table style="{style}">{head}{body}</table>'


def _row(tag: str, cells: Sequence[str], style: str = "") -> str:
    made = "".join(f'<{tag} style="{_CELL};{style}">{html.escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{made}</tr>"
