"""The call graph: the live tree of a call, as a widget.

The kernel looks at the tree (`Looking`: never in the UI thread) and sends what has changed since
the last look as rows of numbers (`CallRows`); the front end folds, lays out and draws. A page that
is new says `hello` and is told everything. A click on a call asks for its details, which are found
in a thread of their own.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import CallId
from notebook_ext import process
from notebook_ext.call_graph import CallTree, read_tree
from notebook_ext.call_status import NO_CALL, newest_known
from notebook_ext.widgets import ticker
from notebook_ext.widgets.call_details import details
from notebook_ext.widgets.call_rows import CallRows
from notebook_ext.widgets.live import LiveWidget, front_end
from notebook_ext.widgets.looking import Looking
from notebook_ext.widgets.outline import Outline, title_of, to_html

if TYPE_CHECKING:
    from notebook_ext.call_graph import KnownCall
    from notebook_ext.widgets.call_rows import Delta

CAPTION: Final = "Call graph"
_PARTS: Final = ("call_tree", "call_layout", "call_canvas", "call_details")


class CallGraphWidget(LiveWidget):
    """The front end's half is `graph.js`: it has no traits, all of it comes by messages."""

    _esm, _css = front_end("graph", *_PARTS)


class CallGraphView:
    """One call graph on the page; a `ticker.Ticked`.

    A look belongs to the thread that looks until its result is polled: rows are changed in no
    other, and read here only where none looks.
    """

    def __init__(self, call: CallId | None) -> None:
        """Show the tree of `call`, or (None) of the newest call of this session.

        Args:
            call: any call of the tree; with None whoever shows it says when its cell is over.
        """
        self._call = call
        self._follows = call is None
        """Whether its cell still runs, and it changes to each call that is made there."""
        self._stays: CallId | None = call
        """The call that it shows when the cell is over."""
        self._rows = CallRows()
        self._tree = CallTree()
        self._looking = Looking(self._look)
        self._widget: CallGraphWidget | None = None
        self._is_new = True
        """Whether the pages know nothing of this tree."""
        self._is_over = False
        self._waits = False
        """Whether there is no call to show yet, and so no widget."""
        self._problem = ""

    @property
    def starts_at(self) -> float:
        """Return that it is to be shown at once."""
        return 0.0

    @property
    def is_missing(self) -> bool:
        """Return whether no call is there that could be shown."""
        return self._call is None and self._stays is None

    def end_cell(self) -> None:
        """Stay with the newest call of this session: the cell that shows this is over."""
        if self._follows:
            self._stays = _own_call()
            self._follows = False

    @property
    def is_shown(self) -> bool:
        """Return whether it has been displayed."""
        return self._widget is not None

    def tick(self, now: float, *, last: bool) -> bool:
        """Tell the page what has changed; return False when the tree has ended."""
        if self._widget is None and not self._waits:
            self._open()
        may_come = self._waits and (self._follows or not self.is_missing)
        delta = self._looking.poll(now)
        if self._looking.is_busy and not last:
            return True
        if self._waits and not self._rows.rows:
            return may_come and not last
        self._waits = False
        widget = self._widget or self._open()
        problem, self._problem = self._problem, self._looking.problem
        if self._is_new or problem != self._problem:
            self._tell(self._rows.whole(), whole=True)
        elif delta is not None and not delta.is_empty:
            self._tell(delta, whole=False)
        self._is_new = False
        has_ended = delta is not None and self._rows.has_ended and not self._may_change
        if not (last or has_ended):
            widget.keep_picture(self._picture, now)
            return True
        self._is_over = True
        self._tell(self._rows.whole(), whole=True)
        widget.picture = self._picture()
        widget.finish()
        return False

    def look_now(self) -> None:
        """Look for the first time, in the caller's thread, before it is shown.

        Raises:
            NotFoundError: nobody knows the call, or its tree is forgotten.
        """
        if self._call is None:
            self._call = _newest_call()
        self._waits = self._call is None
        self._look()

    def _open(self) -> CallGraphWidget:
        widget = self._widget = CallGraphWidget(CAPTION)
        widget.picture = self._picture()
        widget.on("hello", lambda _: self._greet())
        widget.on("detail", self._detail)
        widget.show()
        return widget

    def _greet(self) -> None:
        """Tell a page that is new everything, where no look is under way."""
        if self._is_over:
            self._tell(self._rows.whole(), whole=True)
        else:
            self._is_new = True

    def _picture(self) -> str:
        return to_html(title_of(self._rows), self._rows, self._now(), saved=True)

    @property
    def _may_change(self) -> bool:
        """Whether a look is to come that finds another call."""
        return self._follows or self._stays not in {None, self._call}

    def _now(self) -> float:
        return max(time.time() - self._rows.began_at, 0.0)

    def _tell(self, delta: Delta, *, whole: bool) -> None:
        assert self._widget is not None  # noqa: S101  whoever tells has opened it
        rows = self._rows
        message = {
            "op": "tick",
            "whole": whole,
            "names": delta.names,
            "title": title_of(self._rows),
            "error": self._problem,
            "ended": rows.has_ended,
            "now": self._now(),
        }
        self._widget.send(message, buffers=delta.buffers())

    # ---- in the thread that looks ---------------------------------------------------------------

    def _look(self) -> Delta | None:
        newest = _own_call() if self._follows else self._stays
        if newest not in {None, self._call}:
            self._call, self._rows, self._is_new = newest, CallRows(), True
        if self._call is None:
            return None
        tree = read_tree(*process.current().graph(self._call).join())
        delta = self._rows.take(tree)
        self._tree = tree
        return delta

    # ---- details --------------------------------------------------------------------------------

    def _detail(self, content: dict[str, Any]) -> None:
        row, index = int(content["row"]), int(content["index"])
        if not 0 <= row < len(self._rows.calls):
            return
        call = self._tree.calls.get(self._rows.calls[row])
        if call is None or not 0 <= index < max(call.total, 1):
            return
        threading.Thread(
            target=self._find, args=(call, row, index), name="notebook-ext-look", daemon=True
        ).start()

    def _find(self, call: KnownCall, row: int, index: int) -> None:
        found = details(call, index)
        told = {"op": "detail", "row": row, "index": index, **found.as_message()}
        assert self._widget is not None  # noqa: S101  it was clicked
        ticker.post(partial(self._widget.send, told))


def id_of(call: object) -> CallId | None:
    """Return the id of a call that a user names.

    Raises:
        InvalidError: it is no call.
    """
    named = getattr(call, "object_id", call)
    if named is None:
        return None
    if not isinstance(named, str) or not named.startswith("fc-"):
        raise InvalidError(f"graph({call!r}): allowed is a FunctionCall, or the id of one (fc-…).")
    return CallId(named)


def outline_of(call: CallId | None) -> Outline:
    """Return the tree as it is now, of a call or of the newest one.

    Raises:
        NotFoundError: nobody knows the call, its tree is forgotten, or there is none.
    """
    rows = CallRows()
    named = _newest_call() if call is None else call
    if named is None:
        raise NotFoundError(NO_CALL)
    rows.take(read_tree(*process.current().graph(named).join()))
    return Outline(rows, max(time.time() - rows.began_at, 0.0))


def _newest_call() -> CallId | None:
    """Return the last call of this session, or the newest that is known where it has made none."""
    return _own_call() or newest_known()


def _own_call() -> CallId | None:
    session = process.connected()
    return None if session is None else session.last_call
