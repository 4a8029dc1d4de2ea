"""The dashboard and the pool widget: how the broker, its hosts, functions and calls stand, live.

The kernel asks the broker (`Looking`: never in the UI thread, and only while it is shown) and sends
the page what has changed (`Board`). The buttons ask the broker for something, in a thread of its
own; what that says is seen at the next look, which is then due at once.

It is live for as long as a page shows it and says so; where none does, nobody asks the broker.
"""

from __future__ import annotations

import contextvars
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import traitlets

from kernel_worker.errors import Error, InvalidError
from kernel_worker.model import CallId, PoolId
from kernel_worker.wire import messages
from notebook_ext import inquiry, process
from notebook_ext.attaching import attach
from notebook_ext.autoscaler import Pooled
from notebook_ext.call import FunctionCall
from notebook_ext.widgets import ticker
from notebook_ext.widgets.board import RECENT_CALLS, Board
from notebook_ext.widgets.call_view import CallGraphView
from notebook_ext.widgets.device_use import DeviceUses
from notebook_ext.widgets.live import LiveWidget, front_end
from notebook_ext.widgets.looking import Looking
from notebook_ext.widgets.panel_picture import to_html
from notebook_ext.widgets.status import NO_BROKER
from notebook_ext.widgets.worker_memory import WorkerMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.widgets.board import Change

LOOK_SECONDS: Final = 0.5
UNSEEN_SECONDS: Final = 20.0
"""A page that shows it says so every five seconds; after so many without, nobody looks."""
_SETTINGS: Final = {
    "min": "min_containers",
    "max": "max_containers",
    "buffer": "buffer_containers",
}


class PanelWidget(LiveWidget):
    """The front end's half is `panel.js`: what it shows comes by messages."""

    _esm, _css = front_end("panel", "panel_parts")
    title = traitlets.Unicode("").tag(sync=True)
    sections = traitlets.Unicode("all").tag(sync=True)
    """`all`, or `pools` alone."""


class PanelView:
    """One dashboard, or the pool of one function, on the page; a `ticker.Ticked`."""

    def __init__(self, function: Pooled | None = None) -> None:
        """Show everything, or the pool of `function` alone."""
        self._function = function
        self.caption = "Dashboard" if function is None else f"Pool of {function.name}"
        self._board = Board(None if function is None else self._is_its)
        self._memory = WorkerMemory()
        self._devices = DeviceUses()
        self._looking = Looking(self._look, LOOK_SECONDS)
        self._widget: PanelWidget | None = None
        self._context = contextvars.copy_context()
        self._seen_at = 0.0
        self._is_drawn = True
        """Whether the UI thread ticks it."""
        self._is_new = True
        """Whether a page knows nothing of it."""
        self._problem = ""

    @property
    def starts_at(self) -> float:
        """Return that it is to be shown at once."""
        return 0.0

    @property
    def is_shown(self) -> bool:
        """Return whether it has been displayed."""
        return self._widget is not None

    def tick(self, now: float, *, last: bool) -> bool:
        """Tell the page what has changed; return False where nobody sees it any more."""
        widget = self._widget or self._open(now)
        change = self._looking.poll(now) if self._is_seen(now) else None
        if self._looking.is_busy and not last:
            return True
        problem, self._problem = self._problem, self._looking.problem
        if self._is_new or problem != self._problem:
            self._tell(self._board.whole(), whole=True)
        elif change is not None:
            self._tell(change, whole=False)
        self._is_new = False
        self._is_drawn = self._is_seen(now) and not last
        if last:
            widget.picture = self._picture()
            widget.finish()
        else:
            widget.keep_picture(self._picture, now)
        return self._is_drawn

    def look_now(self) -> None:
        """Look for the first time, in the caller's thread, before it is shown."""
        if self._function is not None:
            self._function.get_current_stats()  # the broker knows it from here on
        try:
            self._look()
        except Error as error:
            self._problem = str(error)

    def _open(self, now: float) -> PanelWidget:
        sections = "all" if self._function is None else "pools"
        widget = self._widget = PanelWidget(self.caption, title=self.caption, sections=sections)
        self._seen_at = now
        widget.picture = self._picture()
        widget.on("hello", lambda _: self._greet())
        widget.on("seen", lambda _: self._wake())
        for op, action in self._actions().items():
            widget.on(op, partial(self._act, action))
        widget.on("graph", self._graph)
        widget.show()
        return widget

    def _picture(self) -> str:
        return to_html(self.caption, self._board)

    def _is_seen(self, now: float) -> bool:
        """Return whether a page has said lately that it shows this, where pages are heard."""
        assert self._widget is not None  # noqa: S101  it is open
        return bool(self._widget.hint) or now < self._seen_at + UNSEEN_SECONDS

    def _greet(self) -> None:
        """Tell a page that is new everything, at the next tick: no look is under way then."""
        self._is_new = True
        self._wake()

    def _wake(self) -> None:
        """Look again, where that had ended because nobody saw it."""
        self._seen_at = time.monotonic()
        if not self._is_drawn:
            self._is_drawn = True
            self._context.run(ticker.show, self)

    def _tell(self, change: Change, *, whole: bool) -> None:
        assert self._widget is not None  # noqa: S101  whoever tells has opened it
        self._widget.send(
            {
                "op": "tick",
                "whole": whole,
                "changed": change.changed,
                "gone": change.gone,
                "samples": change.samples,
                "now": time.time(),
                "problem": self._problem,
            }
        )

    # ---- in the thread that looks ---------------------------------------------------------------

    def _is_its(self, pool: messages.PoolStatus) -> bool:
        assert self._function is not None  # noqa: S101  else nobody asks
        return pool.key == self._function.key and not pool.superseded

    def _look(self) -> Change:
        if process.connected() is None and inquiry.find() is None:
            raise Error(NO_BROKER)
        session = process.current()
        status = session.status().join()
        calls = session.calls(messages.CallFilter(limit=RECENT_CALLS)).join()
        self._memory.begin(status.hosts, status.workers)
        self._devices.begin(status.hosts, status.workers)
        used_mib, devices = self._memory.used_mib, self._devices.text
        return self._board.take(status, calls, used_mib, devices, time.time())

    # ---- buttons --------------------------------------------------------------------------------

    def _actions(self) -> dict[str, Callable[[dict[str, Any]], str]]:
        return {
            "configure": self._configure,
            "start": self._start,
            "stop": _stop,
            "cancel": _cancel,
            "attach": _attach,
        }

    def _act(self, action: Callable[[dict[str, Any]], str], content: dict[str, Any]) -> None:
        """Do what a click asks for, in a thread: it waits for the broker."""
        threading.Thread(
            target=self._do, args=(action, content), name="notebook-ext-click", daemon=True
        ).start()

    def _do(self, action: Callable[[dict[str, Any]], str], content: dict[str, Any]) -> None:
        try:
            said = action(content)
        except Error as error:
            said = str(error)
        self._looking.hurry()
        ticker.post(partial(self._notice, said))

    def _notice(self, said: str) -> None:
        assert self._widget is not None  # noqa: S101  it was clicked
        self._widget.notice = said

    def _configure(self, content: dict[str, Any]) -> str:
        given = {name: int(content[name]) for name in _SETTINGS if name in content}
        return self._set(PoolId(str(content["pool"])), given)

    def _start(self, content: dict[str, Any]) -> str:
        pool = PoolId(str(content["pool"]))
        living = [
            worker
            for worker in self._board.rows("workers")
            if worker["pool"] == pool and worker["state"] != "stopping"
        ]
        return self._set(pool, {"min": len(living) + 1})

    def _set(self, pool: PoolId, given: dict[str, int]) -> str:
        """Change settings of a pool; a floor above the ceiling takes the ceiling along."""
        now = next((row for row in self._board.rows("pools") if row["id"] == pool), None)
        if now is not None:
            least, most = given.get("min", now["min"]), given.get("max", now["max"])
            if most is not None and least > most:
                given = {**given, "max": least} if "min" in given else {**given, "min": most}
        changes = {_SETTINGS[name]: value for name, value in given.items()}
        if self._function is not None:
            self._function.update_autoscaler(**changes)
        else:
            process.current().configure(pool, None, changes).join()
        return ""

    def _graph(self, content: dict[str, Any]) -> None:
        view = CallGraphView(CallId(str(content["call"])))
        self._context.run(ticker.show, view)


def pooled(function: object) -> Pooled:
    """Return what a user names as a function.

    Raises:
        InvalidError: it has no pool.
    """
    if not isinstance(function, Pooled):
        raise InvalidError(
            f"pool({function!r}): allowed is a Function, or a method of an instance of a Cls; "
            "dashboard() shows all of them."
        )
    return function


def _stop(content: dict[str, Any]) -> str:
    process.current().ask("stop_worker", str(content["worker"]), type(None)).join()
    return ""


def _cancel(content: dict[str, Any]) -> str:
    FunctionCall[Any].from_id(str(content["call"])).cancel()
    return ""


def _attach(content: dict[str, Any]) -> str:
    return repr(attach(str(content["worker"])))
