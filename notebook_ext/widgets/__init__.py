"""What a notebook shows of running work.

`watch` is called for every map when it starts and costs microseconds; widget libraries are imported
when the first display appears, not before. Where a display goes is decided by `choose_view`: a
widget in a notebook kernel, a line of text on a terminal, nothing elsewhere and inside workers.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from kernel_worker import context
from notebook_ext.widgets.facts import MapControls, MapFacts
from notebook_ext.widgets.line import LineView
from notebook_ext.widgets.ticker import settle, show
from notebook_ext.widgets.watched import Watched

if TYPE_CHECKING:
    from notebook_ext.widgets.watched import View

__all__ = ["MapControls", "MapFacts", "has_view", "settle", "show_again", "watch"]


_SHOWN_IN_SECONDS: Final = 5.0


def watch(facts: MapFacts, controls: MapControls | None = None) -> None:
    """Show how a map stands, from half a second after now on, in the cell that calls this.

    Returns at once and never raises.

    Args:
        facts: What the map keeps up to date; see `MapFacts`.
        controls: What its buttons do; without them there are none.
    """
    try:
        show(Watched(facts, partial(choose_view, controls=controls)))
    except Exception:
        logging.getLogger("notebook_ext").debug("no progress display", exc_info=True)


def show_again(facts: MapFacts, controls: MapControls | None = None) -> None:
    """Show how a map or a call stands now, here, whether it still runs or has ended.

    Returns when it is shown.

    Args:
        facts: How it stands.
        controls: What its buttons do.
    """
    open_view = partial(choose_view, controls=controls, wish="")
    show(Watched(facts, open_view, after_seconds=0), wait_seconds=_SHOWN_IN_SECONDS)


def choose_view(
    facts: MapFacts, controls: MapControls | None = None, wish: str | None = None
) -> View | None:
    """Return a new display for `facts`, or None where there is nobody to show it to.

    Args:
        facts: What is shown.
        controls: What its buttons do.
        wish: `widget`, `text` or `off`; None for what is configured, empty for what fits here.
    """
    wish = _configured() if wish is None else wish
    if wish == "off" or context.worker_identity is not None:
        return None
    if wish == "widget" or (wish in {"", "auto"} and _in_kernel()):
        return _widget(facts, controls)
    stream = sys.stderr
    if stream is None:
        return None
    if wish in {"", "text"}:
        return LineView(stream, rewrites=stream.isatty() or _in_kernel())
    return LineView(stream, rewrites=True) if stream.isatty() else None


def has_view() -> bool:
    """Return whether a map that takes long is shown to anybody here."""
    wish = _configured()
    if wish == "off" or context.worker_identity is not None:
        return False
    stream = sys.stderr
    return wish in {"widget", "text"} or _in_kernel() or (stream is not None and stream.isatty())


def _widget(facts: MapFacts, controls: MapControls | None) -> View | None:
    try:
        from notebook_ext.widgets.progress import ProgressView  # noqa: PLC0415  imported when used
    except ImportError:
        return LineView(sys.stderr, rewrites=True)
    return ProgressView(facts, controls)


def _in_kernel() -> bool:
    """Return whether a notebook kernel runs this process (nothing is imported to find out)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _configured() -> str:
    from notebook_ext.config import current  # noqa: PLC0415  read when something is shown

    return current().progress
