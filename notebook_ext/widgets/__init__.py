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
    from collections.abc import Callable

    from notebook_ext.widgets.call_view import CallGraphView
    from notebook_ext.widgets.outline import Outline
    from notebook_ext.widgets.panel import PanelView
    from notebook_ext.widgets.status import StatusReport
    from notebook_ext.widgets.watched import View

__all__ = [
    "MapControls",
    "MapFacts",
    "dashboard",
    "graph",
    "has_view",
    "pool",
    "settle",
    "show_again",
    "watch",
]

_FIRST_SECONDS = 2.0
"""How long a cell that shows something on purpose waits until it is there."""


def graph(call: object = None) -> Outline | None:
    """Show the live tree of a call: every call that was made inside it, and how each stands.

    In a notebook it appears as a widget, which goes on living while later cells run; elsewhere the
    tree as it is now is returned, and is text.

    Args:
        call: any call of the tree (a `FunctionCall`), or its id; without it the newest call of
            this session, and, as long as the cell runs that asks for it, the one made next.

    Raises:
        InvalidError: `call` is no call.
        NotFoundError: nobody knows the call, or its tree is forgotten; outside notebooks also where
            no call has been made. (In one that is said when the cell ends.)
    """
    from notebook_ext.widgets import call_view  # noqa: PLC0415  imported when used

    named = call_view.id_of(call)
    if not in_kernel():
        return call_view.outline_of(named)
    view = call_view.CallGraphView(named)
    _when_this_cell_ends(partial(_end_cell, view))
    view.look_now()
    show(view, wait_seconds=_FIRST_SECONDS)
    return None


def pool(function: object) -> StatusReport | None:
    """Show the workers of a function, live: how many are warm, busy or starting, and the backlog.

    Sliders change the autoscaler's settings, buttons start, stop and attach to workers; they act
    while a cell runs, too.

    Args:
        function: a `Function` (or a method of an instance).

    Raises:
        InvalidError: it is none.
    """
    from notebook_ext.widgets import panel  # noqa: PLC0415  imported when used

    return _panel(panel.PanelView(panel.pooled(function)))


def dashboard() -> StatusReport | None:
    """Show all hosts, functions and calls of the broker, live, with buttons and sliders.

    In a notebook it appears as a widget; elsewhere the state as it is now is returned, as text.
    """
    from notebook_ext.widgets import panel  # noqa: PLC0415  imported when used

    return _panel(panel.PanelView())


def _panel(view: PanelView) -> StatusReport | None:
    if not in_kernel():
        from notebook_ext import inquiry  # noqa: PLC0415  imported when used
        from notebook_ext.widgets.status import StatusReport  # noqa: PLC0415

        return StatusReport(inquiry.status())
    view.look_now()
    show(view, wait_seconds=_FIRST_SECONDS)
    return None


def _end_cell(view: CallGraphView) -> None:
    """Say so where the cell is over and no call was made that a graph could be of."""
    from notebook_ext.call_status import NO_CALL  # noqa: PLC0415  imported when used

    view.end_cell()
    if view.is_missing:
        sys.stderr.write(f"notebook_ext: graph: {NO_CALL}\n")


def _when_this_cell_ends(then: Callable[[], None]) -> None:
    events = sys.modules["IPython"].get_ipython().events

    def ended(_result: object) -> None:
        events.unregister("post_run_cell", ended)
        then()

    events.register("post_run_cell", ended)


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
    if wish == "widget" or (wish in {"", "auto"} and in_kernel()):
        return _widget(facts, controls)
    stream = sys.stderr
    if stream is None:
        return None
    if wish in {"", "text"}:
        return LineView(stream, rewrites=stream.isatty() or in_kernel())
    return LineView(stream, rewrites=True) if stream.isatty() else None


def has_view() -> bool:
    """Return whether a map that takes long is shown to anybody here."""
    wish = _configured()
    if wish == "off" or context.worker_identity is not None:
        return False
    stream = sys.stderr
    return wish in {"widget", "text"} or in_kernel() or (stream is not None and stream.isatty())


def _widget(facts: MapFacts, controls: MapControls | None) -> View | None:
    try:
        from notebook_ext.widgets.progress import ProgressView  # noqa: PLC0415  imported when used
    except ImportError:
        return LineView(sys.stderr, rewrites=True)
    return ProgressView(facts, controls)


def in_kernel() -> bool:
    """Return whether a notebook kernel runs this process (nothing is imported to find out)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _configured() -> str:
    from notebook_ext.config import current  # noqa: PLC0415  read when something is shown

    return current().progress
