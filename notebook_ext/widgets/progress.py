"""A map's progress as a widget: the state of every input, the counts, the pace, the first error.

The front end keeps an array of states. Ten times a second at most it hears in one binary message
which ranges changed (`Strip.take_delta`) and what the numbers are; every two seconds and at the end
the whole compressed state goes into a trait, from which a reloaded page or a second view starts.

One thread, the ticker's, owns every widget here. When the map has ended, its output is written
again with a still picture beside the widget, which is what a notebook shows that was saved and
opened without a kernel. Of the finished widgets only the last `KEPT_OPEN` stay live.
"""

from __future__ import annotations

import html
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import traitlets
from IPython.display import display

from notebook_ext.widgets.picture import to_html
from notebook_ext.widgets.strip import Strip

if TYPE_CHECKING:
    from notebook_ext.widgets.facts import MapFacts
    from notebook_ext.widgets.report import Report

SNAPSHOT_SECONDS: Final = 2.0
KEPT_OPEN: Final = 24
_HERE: Final = Path(__file__).parent
_WIDGET_MIME: Final = "application/vnd.jupyter.widget-view+json"


class ProgressWidget(anywidget.AnyWidget):
    """The front end's half is `progress.js`; it only shows what these traits say."""

    _esm = (_HERE / "progress.js").read_text(encoding="utf-8")
    _css = (_HERE / "progress.css").read_text(encoding="utf-8")
    title = traitlets.Unicode("").tag(sync=True)
    stats = traitlets.Dict().tag(sync=True)
    base = traitlets.Int(0).tag(sync=True)
    count = traitlets.Int(0).tag(sync=True)
    snapshot = traitlets.Bytes(b"").tag(sync=True)
    picture = ""
    """HTML for where no widget can be shown."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the widget, the picture, and a text that is the same in every run."""
        data = {
            "text/plain": f"Progress of {self.title}",
            "text/html": self.picture,
            _WIDGET_MIME: {"version_major": 2, "version_minor": 0, "model_id": self.model_id},
        }
        return data, {}


class ProgressView:
    """Keeps one widget in step with one map. Used by the ticker's thread only."""

    def __init__(self, facts: MapFacts) -> None:
        """Display a new widget in the cell whose context this runs in."""
        self._strip = Strip()
        self._widget = ProgressWidget(title=facts.title)
        title = html.escape(facts.title)
        self._widget.picture = f"<div>{title}: was running when this was saved</div>"
        self._handle: Any = None
        self._snapshot_at = 0.0

    def update(self, facts: MapFacts, report: Report) -> None:
        """Send what has changed."""
        self._take(facts, report)
        delta = self._strip.take_delta()
        now = time.monotonic()
        if delta is None or self._handle is None or now >= self._snapshot_at:
            self._snapshot_at = now + SNAPSHOT_SECONDS
            self._send_all(report)
        else:
            self._send_delta(report, delta)
        if self._handle is None:
            self._handle = _display(self._widget)

    def finish(self, facts: MapFacts, report: Report) -> None:
        """Send the last state and leave a picture of it in the notebook."""
        self._take(facts, report)
        self._send_all(report)
        self._widget.picture = to_html(report, self._strip.states())
        if self._handle is None:
            self._handle = _display(self._widget)
        else:
            self._handle.update(self._widget)
        _retire(self._widget, self._handle)

    def _take(self, facts: MapFacts, report: Report) -> None:
        self._strip.apply(facts.take_changes())
        if report.total is not None:
            self._strip.extend_to(report.total)

    def _send_delta(self, report: Report, delta: bytes) -> None:
        strip = self._strip
        content = {"stats": report.as_traits(), "base": strip.base, "count": len(strip)}
        self._widget.send({"op": "tick", **content}, buffers=[delta])

    def _send_all(self, report: Report) -> None:
        widget, strip = self._widget, self._strip
        with widget.hold_sync():
            widget.stats = report.as_traits()
            widget.base = strip.base
            widget.count = len(strip)
            widget.snapshot = strip.snapshot()


def _display(widget: ProgressWidget) -> Any:
    return display(widget, display_id=True)  # type: ignore[no-untyped-call]


class _Still:
    """What a widget leaves behind when it is closed."""

    def __init__(self, widget: ProgressWidget) -> None:
        self._data = {"text/plain": f"Progress of {widget.title}", "text/html": widget.picture}

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self._data


_finished: deque[tuple[ProgressWidget, Any]] = deque()


def _retire(widget: ProgressWidget, handle: Any) -> None:
    """Keep the newest finished widgets live; an older one becomes its picture."""
    _finished.append((widget, handle))
    while len(_finished) > KEPT_OPEN:
        old, shown = _finished.popleft()
        shown.update(_Still(old))
        old.close()
