"""A map's progress as a widget: the state of every input, the counts, the pace, the first error.

The front end keeps an array of states. Ten times a second at most it hears in one binary message
which ranges changed (`Strip.take_delta`) and what the numbers are; every two seconds and at the end
the whole compressed state goes into a trait, from which a reloaded page or a second view starts.

When the map has ended, its output is written again with a still picture beside the widget, which
takes the widget's place when the next cell runs (see `live`).
"""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any, Final

import traitlets

from notebook_ext.widgets.facts import FINAL_STATES
from notebook_ext.widgets.live import LiveWidget, front_end
from notebook_ext.widgets.picture import to_html
from notebook_ext.widgets.strip import Strip

if TYPE_CHECKING:
    from notebook_ext.widgets.facts import MapControls, MapFacts
    from notebook_ext.widgets.report import Report

SNAPSHOT_SECONDS: Final = 2.0


class ProgressWidget(LiveWidget):
    """The front end's half is `progress.js`; it only shows what these traits say."""

    _esm, _css = front_end("progress", "strip")
    passes = True
    title = traitlets.Unicode("").tag(sync=True)
    stats = traitlets.Dict().tag(sync=True)
    base = traitlets.Int(0).tag(sync=True)
    count = traitlets.Int(0).tag(sync=True)
    snapshot = traitlets.Bytes(b"").tag(sync=True)


class ProgressView:
    """Keeps one widget in step with one map. Used by the ticker's thread only."""

    def __init__(self, facts: MapFacts, controls: MapControls | None = None) -> None:
        """Display a new widget in the cell whose context this runs in."""
        self._strip = Strip()
        self._controls = controls
        self._widget = ProgressWidget(f"Progress of {facts.title}", title=facts.title)
        title = html.escape(facts.title)
        self._widget.picture = f"<div>{title}: was running when this was saved</div>"
        self._snapshot_at = 0.0
        if controls is not None:
            self._widget.on("cancel", lambda _: controls.cancel())
            self._widget.on("pause", lambda said: controls.pause(paused=bool(said["paused"])))
            self._widget.on("retry", lambda _: controls.retry_failed())

    def update(self, facts: MapFacts, report: Report) -> None:
        """Send what has changed."""
        self._take(facts, report)
        delta = self._strip.take_delta()
        now = time.monotonic()
        if delta is None or not self._widget.is_shown or now >= self._snapshot_at:
            self._snapshot_at = now + SNAPSHOT_SECONDS
            self._send_all(report)
        else:
            self._send_delta(report, delta)
        if not self._widget.is_shown:
            self._widget.show()
        self._widget.keep_picture(lambda: to_html(report, self._strip.states()), now)

    def finish(self, facts: MapFacts, report: Report) -> None:
        """Send the last state and leave a picture of it in the notebook."""
        self._take(facts, report)
        self._send_all(report)
        self._widget.picture = to_html(report, self._strip.states())
        self._widget.finish()

    def _take(self, facts: MapFacts, report: Report) -> None:
        self._strip.apply(facts.take_changes())
        if report.total is not None:
            self._strip.extend_to(report.total)

    def _stats(self, report: Report) -> dict[str, Any]:
        controls = self._controls
        ended = report.state in FINAL_STATES
        retryable = 0 if controls is None or ended else controls.retryable
        has_buttons = controls is not None and not ended
        can_pause = controls is not None and controls.can_pause
        return report.as_traits() | {
            "controls": has_buttons,
            "can_pause": can_pause,
            "retryable": retryable,
        }

    def _send_delta(self, report: Report, delta: bytes) -> None:
        strip = self._strip
        content = {"stats": self._stats(report), "base": strip.base, "count": len(strip)}
        self._widget.send({"op": "tick", **content}, buffers=[delta])

    def _send_all(self, report: Report) -> None:
        widget, strip = self._widget, self._strip
        with widget.hold_sync():
            widget.stats = self._stats(report)
            widget.base = strip.base
            widget.count = len(strip)
            widget.snapshot = strip.snapshot()
