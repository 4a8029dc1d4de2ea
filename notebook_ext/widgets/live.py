"""What all widgets here have in common: `LiveWidget`, an anywidget that lives in the UI thread.

How to write one, say of pools:

- `pool.js`, one ES module whose default export is anywidget's (`initialize`, `render`), made by
  `overPicture`, and `pool.css`, whose rules stand below `.nbx-pool`. No imports, nothing from a
  network. In front of the module stand `parts.js` and `over_picture.js` (always) and the parts that
  it names (`front_end("pool", "strip")`): `strip.js`; in front of the style sheet stands
  `palette.css`: the colours, on light and on dark paper, as `--nbx-done`, `--nbx-running`,
  `--nbx-failed`, … on every element of the class `nbx`.
- The class:

      class PoolWidget(LiveWidget):
          _esm, _css = front_end("pool")
          pools = traitlets.List().tag(sync=True)

- Something that draws it, a `ticker.Ticked`, given to `ticker.show` in the cell where it is to
  appear: its first `tick` makes the widget and calls `show()`, later ones set traits or `send`
  deltas, the last one sets `picture` and calls `finish()`. All of that happens in the UI thread:
  never touch a trait from elsewhere, never wait in a tick or in a click.

State and deltas: traits are what a reloaded page or a second view starts from, so they hold the
whole state; what changes ten times a second goes by `send(content, buffers=[…])`, and a compressed
snapshot into a trait every second or two and at the end (see `progress.ProgressView`). Change
several traits within `with self.hold_sync():`.

Clicks: the front end calls `model.send({op: "cancel", …})`, best with `button(…)` of parts.js;
here `widget.on("cancel", function)` says what it does. `function(content)` runs in the UI thread
within a tenth of a second, also while a cell blocks the kernel (`comm_filter`). If it raises, the
widget shows the message; what it returns (a string) is shown too, and is read out. Something that
takes longer (an answer from the broker) belongs in `dropping.aside` or a thread of its own. Where
the kernel cannot deliver clicks while a cell runs, the trait `hint` says so, and the buttons are
disabled with that hint.

In the saved notebook: what a cell shows at first holds the widget, `picture` (plain HTML with
inline styles) and `caption`, a text that is the same in every run; a front end takes the first that
it knows how to show. In a file that would be an error once the kernel is gone: a front end that
cannot find the widget shows that, never the picture beside it. So

- where the page can show the widget in front of its picture (`over_picture.js`: JupyterLab and what
  is built of it), it says so, and from then on the output is the picture and the caption alone.
  While the widget lives, `keep_picture` brings the picture up to date every few seconds;
- in other front ends a finished widget becomes its picture as soon as that costs nothing: one that
  `passes` with the next cell, of the others all but the last `KEPT_OPEN`, and all of them as the
  kernel ends. `finish` writes the output with the last picture.
"""

from __future__ import annotations

import atexit
import logging
import secrets
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anywidget
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import display

from notebook_ext.widgets import comm_filter, ticker

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_OPEN: Final = 24
PICTURE_SECONDS: Final = 5.0
"""How old the picture of a live widget is at most in a file that is saved."""
_PICTURE_SHARE: Final = 300
"""Drawing them takes at most one part in so many of a core."""
_HERE: Final = Path(__file__).parent
_WIDGET_MIME: Final = "application/vnd.jupyter.widget-view+json"

_log = logging.getLogger("notebook_ext")


def front_end(name: str, *parts: str) -> tuple[str, str]:
    """Return a widget's ES module and its style sheet, as text.

    Args:
        name: `pool` for `pool.js` and `pool.css`, beside this file.
        parts: What stands in front of the module besides what always does: `strip` for `strip.js`.
    """
    files = ("parts", "over_picture", *parts, name)
    module = "\n".join(_text(f"{each}.js") for each in files)
    return module, _text("palette.css") + _text(f"{name}.css")


class LiveWidget(anywidget.AnyWidget):
    """A widget that is drawn and clicked in the UI thread; see the module's description."""

    passes = False
    """Whether it shows no more than its picture once it is finished."""
    hint = traitlets.Unicode("").tag(sync=True)
    """Why its buttons cannot act while a cell runs; empty where they can."""
    notice = traitlets.Unicode("").tag(sync=True)
    """What the last click led to, where that does not show by itself."""
    mark = traitlets.Unicode("").tag(sync=True)
    """By which a page finds its picture."""

    def __init__(self, caption: str, **traits: Any) -> None:
        """Make it; nothing is displayed yet.

        Args:
            caption: What it shows, in words that are the same in every run: `Progress of score`.
            traits: Its first state.
        """
        super().__init__(hint=comm_filter.hint(), mark=secrets.token_hex(8), **traits)
        self.caption = caption
        self.picture = ""
        """HTML for where no widget can be shown."""
        self._handle: Any = None
        self._is_over = False
        """Whether a page shows it in front of its picture."""
        self._picture_due = 0.0
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {"over": self._go_over}
        self.on_msg(self._act)
        comm_filter.claim(*self._comms())

    def on(self, op: str, action: Callable[[dict[str, Any]], object]) -> None:
        """Call `action(content)` when the front end sends `{op: …}`; see the module."""
        self._actions[op] = action

    def show(self) -> None:
        """Display it in the cell whose context this runs in."""
        _watch_the_shell()
        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    @property
    def is_shown(self) -> bool:
        """Return whether it has been displayed."""
        return self._handle is not None

    def keep_picture(self, draw: Callable[[], str], now: float) -> None:
        """Have the output hold how it stands, where the widget is shown in front of that.

        Args:
            draw: returns the picture; called now and then.
            now: Seconds of `time.monotonic`.
        """
        if not self._is_over or now < self._picture_due:
            return
        began = time.thread_time()
        picture = draw()
        spent = time.thread_time() - began
        self._picture_due = now + max(PICTURE_SECONDS, _PICTURE_SHARE * spent)
        if picture != self.picture:
            self.picture = picture
            self._write(self._bundle())

    def finish(self) -> None:
        """Write its output again, with the picture as it is now; nothing changes any more."""
        if self._handle is None:
            self.show()
        else:
            self._write(self._bundle())
        _keep(self)

    def retire(self) -> None:
        """Close it, and leave its picture where it is shown."""
        if self._handle is not None:
            self._write({"text/plain": self.caption, "text/html": self.picture})
        self.close()

    def close(self) -> None:
        """Let the front end and the kernel forget it."""
        if self.comm is not None:
            comm_filter.release(*self._comms())
        super().close()

    def _comms(self) -> list[Any]:
        """Return the comms that a reloaded page asks for the widget's state."""
        return [each for each in (self.comm, self.layout.comm) if each is not None]

    def _go_over(self, _content: dict[str, Any]) -> None:
        """Have the output hold the picture alone: a page puts the widget in front of it."""
        if not self._is_over and self._handle is not None:
            self._is_over = True
            self._write(self._bundle())

    def _write(self, data: dict[str, Any]) -> None:
        """Have its output hold `data`, also in a page that has forgotten which one that is."""
        self._handle.update(data, raw=True)
        if self._is_over:
            self.send({"op": "picture", "html": data["text/html"]})

    def _act(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        action = self._actions.get(str(content.get("op")))
        if action is None:
            return
        try:
            said = action(content)
        except Exception as error:  # noqa: BLE001  shown where it was clicked
            _log.debug("a click failed", exc_info=True)
            said = f"{type(error).__name__}: {error}"
        if isinstance(said, str):
            self.notice = said

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._bundle(), {}

    def _bundle(self) -> dict[str, Any]:
        """Return the picture, a text that is the same in every run, and often the widget."""
        if self._is_over:
            marked = f'<nbx-picture data-mark="{self.mark}">{self.picture}</nbx-picture>'
            return {"text/plain": self.caption, "text/html": marked}
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"text/plain": self.caption, "text/html": self.picture, _WIDGET_MIME: view}


# ---- what is finished, all of it in the UI thread -----------------------------------------------

_finished: deque[LiveWidget] = deque()
_passing: list[LiveWidget] = []
_ends = False


def _keep(widget: LiveWidget) -> None:
    if _ends:
        widget.retire()
        return
    kept = _passing if widget.passes else _finished
    kept.append(widget)
    while len(_finished) > KEPT_OPEN:
        _finished.popleft().retire()


def _watch_the_shell() -> None:
    shell = get_ipython()
    if shell is not None and _next_cell not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _next_cell)
        atexit.register(_end)


def _next_cell(_info: object) -> None:
    if _passing:
        ticker.post(_pass)


def _pass() -> None:
    while _passing:
        _passing.pop().retire()


def _end() -> None:
    """Leave pictures, also of what is finished as the ticker draws it for the last time."""
    global _ends  # noqa: PLW0603  the process ends
    _ends = True
    ticker.post(_pass)
    ticker.post(_retire_all)


def _retire_all() -> None:
    while _finished:
        _finished.pop().retire()


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
