"""A still picture of a map's progress: what a saved notebook shows without a kernel.

Plain HTML with inline styles and one small PNG in a data URL, so that it survives a front end that
does not run scripts, the one that cleans untrusted output, and `nbconvert`. Its colours stand out
on light and on dark paper.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from typing import TYPE_CHECKING, Final

from notebook_ext.widgets import facts as facts_

if TYPE_CHECKING:
    from notebook_ext.widgets.report import Report

PALETTE: Final = {
    facts_.PENDING: (128, 128, 128, 56),
    facts_.QUEUED: (128, 128, 128, 96),
    facts_.RUNNING: (86, 180, 233, 255),
    facts_.DONE: (0, 158, 115, 255),
    facts_.FAILED: (213, 94, 0, 255),
    facts_.CANCELLED: (120, 120, 130, 190),
}
"""Red, green, blue, alpha of each state: after Okabe and Ito, told apart by colour-blind eyes."""
GAP: Final = 6
PARTLY: Final = 7
_COLOURS: Final = {**PALETTE, GAP: (0, 0, 0, 0), PARTLY: (0, 158, 115, 120)}
WIDTH: Final = 720
HEIGHT: Final = 72
SIZES: Final = (12, 10, 8, 6, 5, 4, 3, 2)
_NOTABLE: Final = (facts_.FAILED, facts_.RUNNING, facts_.CANCELLED)


def to_html(report: Report, states: bytes) -> str:
    """Return the picture of a map that stands as `report` says; `states` has a byte an input."""
    facts = " · ".join(filter(None, (report.percent(), report.headline(), report.timing())))
    title, said = html.escape(report.title), html.escape(facts)
    parts = [f'<div><b>{title}</b><span style="opacity:.75"> &nbsp;{said}</span></div>']
    if states:
        parts.append(_strip(states, report.summary()))
    parts.append(f'<div style="opacity:.75">{html.escape(report.summary())}</div>')
    if report.error is not None:
        parts.append(f'<div style="color:#d55e00">{html.escape(report.error_line())}</div>')
    if report.state not in facts_.FINAL_STATES:
        parts.append("<div>was running when this was saved</div>")
    style = "font-family:sans-serif;font-size:12px;line-height:1.6;padding:4px 0;max-width:760px"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _strip(states: bytes, alt: str) -> str:
    size, columns = _grid(len(states))
    cells = fold(states, columns * max(HEIGHT // size, 1))
    picture = base64.b64encode(_png(cells, columns, size)).decode()
    return (
        f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{picture}" '
        f'style="display:block;max-width:100%;margin:4px 0">'
    )


def _grid(count: int) -> tuple[int, int]:
    for size in SIZES:
        columns = WIDTH // size
        if math.ceil(count / columns) * size <= HEIGHT:
            return size, columns
    return SIZES[-1], WIDTH // SIZES[-1]


def fold(states: bytes, limit: int) -> bytes:
    """Return at most `limit` cells for `states`: one that stands for many shows the notable."""
    width = math.ceil(len(states) / limit)
    if width <= 1:
        return states
    return bytes(_folded(states[i : i + width]) for i in range(0, len(states), width))


def _folded(part: bytes) -> int:
    for state in _NOTABLE:
        if state in part:
            return state
    done = part.count(facts_.DONE)
    if not done:
        return part[0]
    return facts_.DONE if done == len(part) else PARTLY


def _png(cells: bytes, columns: int, size: int) -> bytes:
    """Return `cells` as a palette PNG, `size` pixels each with a gap where there is room."""
    gap = 2 if size >= 8 else 1 if size >= 4 else 0  # noqa: PLR2004  what still looks like a cell
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    cells = cells.ljust(rows * columns, bytes((GAP,)))
    lines = []
    for row in range(rows):
        line = b"\0" + b"".join(
            bytes((cell,)) * (size - gap) + bytes((GAP,)) * gap
            for cell in cells[row * columns : (row + 1) * columns]
        )
        lines.append(line * (size - gap) + (b"\0" + bytes((GAP,)) * (columns * size)) * gap)
    header = struct.pack(">IIBBBBB", columns * size, rows * size, 8, 3, 0, 0, 0)
    colours = [_COLOURS[i] for i in range(len(_COLOURS))]
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", b"".join(bytes(colour[:3]) for colour in colours)),
            _chunk(b"tRNS", bytes(colour[3] for colour in colours)),
            _chunk(b"IDAT", zlib.compress(b"".join(lines), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
