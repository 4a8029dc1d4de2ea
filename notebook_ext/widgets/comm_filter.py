"""Clicks that arrive while a cell runs, and widgets that come back when the page is reloaded.

Theory. ipykernel handles the messages of widgets in its shell, one after the other, behind the cell
that runs; with subshells (7.0 on) some front ends and versions have another way, others have not,
and 7.4 undid the one that there was. So we look at shell messages first: ipykernel's shell-channel
thread reads them all, busy cell or not, and this filter stands before its callback. It takes

- messages for comms that were claimed (a widget's own and its layout's), always: they are answered
  in our UI thread;
- while the main shell is busy, what a reloaded page asks before it can show any widget:
  `kernel_info_request`, `comm_info_request`, and `request_state` for any widget, whoever made it
  (a page shows none before all have answered).

Everything else goes on untouched, and so does everything while nothing is claimed.

Not guaranteed: that it is there. It needs names of ipykernel that are not public. They are looked
for when the first widget is shown; where one is missing (another kernel, ipykernel 6, a version to
come) nothing is changed and `hint` says what to do instead. tests/notebook_ext/widgets/
test_comm_filter.py runs it on the versions of ipykernel that there are.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from notebook_ext import shell_replies
from notebook_ext.widgets import ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HINT: Final = "This kernel hears no button while a cell runs: use the stop button."
INSTALL_SECONDS: Final = 5.0
_DELIMITER: Final = b"<IDS|MSG>"
_HEADER, _CONTENT = 2, 5
"""Where they stand behind the delimiter: signature, header, parent, metadata, content."""

_NEEDED: Final = (
    "shell_stream.on_recv",
    "shell_channel_thread.io_loop.add_callback",
    "shell_channel_thread_main",
    "session.feed_identities",
    "session.deserialize",
    "session.unpack",
    "comm_manager.get_comm",
    "kernel_info_request",
    "comm_info_request",
    "_main_asyncio_lock.locked",
    "_publish_status",
    "_shell_parent.set",
)

_log = logging.getLogger("notebook_ext")


class CommFilter:
    """The filter of one kernel."""

    def __init__(self, kernel: Any, post: Callable[[Callable[[], object]], object]) -> None:
        """Prepare to hand what comes for claimed comms to `post`, as an action to call."""
        self._kernel = kernel
        self._post = post
        self._claimed: set[str] = set()
        self._pass_on = kernel.shell_channel_thread_main

    def install(self) -> bool:
        """Stand before the kernel's callback; return whether that worked."""
        installed = threading.Event()

        def place() -> None:
            self._kernel.shell_stream.on_recv(self._first, copy=False)
            installed.set()

        self._kernel.shell_channel_thread.io_loop.add_callback(place)
        return installed.wait(INSTALL_SECONDS)

    def claim(self, comm_id: str) -> None:
        """Take messages for this comm from now on."""
        self._claimed.add(comm_id)

    def release(self, comm_id: str) -> None:
        """Take them no more."""
        self._claimed.discard(comm_id)

    # ---- in ipykernel's shell-channel thread -----------------------------------------------------

    async def _first(self, frames: Sequence[Any]) -> None:
        try:
            if self._claimed and await self._took(frames):
                return
        except Exception:  # noqa: BLE001  the kernel must have its messages
            _log.exception("A message of the front end went the kernel's way.")
        await self._pass_on(frames)

    async def _took(self, frames: Sequence[Any]) -> bool:
        start = next(i for i, frame in enumerate(frames) if frame.bytes == _DELIMITER)
        unpack = self._kernel.session.unpack
        kind = unpack(frames[start + _HEADER].bytes)["msg_type"]
        if kind == "comm_msg":
            content = unpack(frames[start + _CONTENT].bytes)
            if content["comm_id"] in self._claimed or (self._is_busy and _asks_state(content)):
                self._post(partial(self._answer, frames))
                return True
        elif kind in {"kernel_info_request", "comm_info_request"} and self._is_busy:
            identities, message = self._read(frames)
            kernel = self._kernel
            kernel._publish_status("busy", "shell", parent=message)  # noqa: SLF001
            await getattr(kernel, kind)(kernel.shell_stream, identities, message)
            kernel._publish_status("idle", "shell", parent=message)  # noqa: SLF001
            return True
        return False

    @property
    def _is_busy(self) -> bool:
        return bool(self._kernel._main_asyncio_lock.locked())  # noqa: SLF001

    def _read(self, frames: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
        """Return the identities and the message, its signature checked."""
        session = self._kernel.session
        identities, rest = session.feed_identities(frames, copy=False)
        return identities, session.deserialize(rest, content=True, copy=False)

    # ---- in the UI thread ------------------------------------------------------------------------

    def _answer(self, frames: Sequence[Any]) -> None:
        _, message = self._read(frames)
        # A context of its own: an answer carries the question's header, and what a handler prints
        # belongs to no cell.
        contextvars.Context().run(self._call_back, message)

    def _call_back(self, message: dict[str, Any]) -> None:
        kernel = self._kernel
        kernel._shell_parent.set(message)  # noqa: SLF001
        # Busy and idle: a widget's model sends nothing new before it has seen its last one end.
        kernel._publish_status("busy", "shell", parent=message)  # noqa: SLF001
        try:
            comm = kernel.comm_manager.get_comm(message["content"]["comm_id"])
            # Not `handle_msg`, which runs IPython's hooks of a cell (matplotlib shows its figures).
            callback = getattr(comm, "_msg_callback", None)
            if callback is not None:
                callback(message)
        finally:
            kernel._publish_status("idle", "shell", parent=message)  # noqa: SLF001


def missing(kernel: object) -> list[str]:
    """Return the names that the filter needs and this kernel does not have."""
    return [name for name in _NEEDED if not _has(kernel, name)]


def hint() -> str:
    """Return what to do instead where clicks do not arrive while a cell runs, else nothing."""
    return "" if _installed() is not None else HINT


def claim(*comms: Any) -> None:
    """Let messages for these comms arrive in the UI thread, also while a cell runs."""
    filter_ = _installed()
    if filter_ is not None:
        for comm in comms:
            filter_.claim(comm.comm_id)


def release(*comms: Any) -> None:
    """Leave these comms to the kernel again; harmless where they were not claimed."""
    if _filter is not None:
        for comm in comms:
            _filter.release(comm.comm_id)


_filter: CommFilter | None = None
_tried = False
_lock = threading.Lock()


def _installed() -> CommFilter | None:
    """Return the filter of this process's kernel, installed when this is called first."""
    global _filter, _tried  # noqa: PLW0603  one kernel a process
    with _lock:
        if not _tried:
            _tried = True
            ipython = sys.modules.get("IPython")
            shell = ipython.get_ipython() if ipython is not None else None
            kernel = getattr(shell, "kernel", None)
            shell_replies.mend(kernel)
            if not missing(kernel):
                candidate = CommFilter(kernel, ticker.post)
                _filter = candidate if candidate.install() else None
        return _filter


def _asks_state(content: dict[str, Any]) -> bool:
    data = content.get("data")
    return isinstance(data, dict) and data.get("method") == "request_state"


def _has(thing: object, path: str) -> bool:
    for name in path.split("."):
        thing = getattr(thing, name, None)
        if thing is None:
            return False
    return callable(thing)
