"""What is done once an object has been dropped, and never in the thread that dropped it.

Theory. Python code that runs because an object dies (`__del__`, the callback of a weak reference,
the `finally` of a generator that nobody holds any more) runs wherever that happens to be, and what
it raises is printed and forgotten. In the main thread that may be the KeyboardInterrupt of a stop
button that was pressed in these microseconds: the loop that the user wanted to stop would go on.
So the callback is one C function, which no signal handler can interrupt: it puts the reference on a
queue, and a thread of this room does the rest.

Guarantees: `then` is called once, soon after the object has gone, or at exit; never in a thread of
the user while the interpreter runs. `aside` is the same for what need not wait for anything.
Not guaranteed: that it has been called when the next line of the user's code runs.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_EXIT_SECONDS = 2.0

_log = logging.getLogger("notebook_ext")


class Tie(weakref.ref[Any]):
    """What ties an action to the life of an object."""

    __slots__ = ("then",)

    then: Callable[[], object]


class _Dropped:
    """The queue, its thread, and the ties that nobody else holds."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Tie | Callable[[], object]] = SimpleQueue()
        self.put = self.queue.put
        self.ties: dict[int, Tie] = {}
        self._runs = threading.Lock()

    def start(self) -> None:
        """Start the thread, unless it runs.

        It says so itself: an interrupt here, between a note of the start and the start, would leave
        everything undone for ever. If two are started, one of them leaves.
        """
        if not self._runs.locked():
            threading.Thread(target=self._run, name="notebook-ext dropped", daemon=True).start()

    def finish(self) -> None:
        """Wait, at exit, until what is to be done has been done."""
        if self._runs.locked() or not self.queue.empty():
            all_done = threading.Event()
            self.put(all_done.set)
            all_done.wait(_EXIT_SECONDS)

    def _run(self) -> None:
        if not self._runs.acquire(blocking=False):
            return
        while True:
            self._do(self.queue.get())

    def _do(self, what: Tie | Callable[[], object]) -> None:
        then = what
        if isinstance(what, Tie):
            if self.ties.pop(id(what), None) is None:
                return  # released just before
            then = what.then
        try:
            then()
        except Exception:  # noqa: BLE001  the thread serves on, whoever's code failed
            _log.exception("What follows the end of an object failed.")


_dropped = _Dropped()


def when_dropped(thing: object, then: Callable[[], object]) -> Tie:
    """Call `then`, which must not know `thing`, in a thread of its own once `thing` has gone."""
    _dropped.start()
    tie = Tie(thing, _dropped.put)
    tie.then = then
    _dropped.ties[id(tie)] = tie
    return tie


def release(tie: Tie) -> None:
    """Let nothing happen when the object goes."""
    _dropped.ties.pop(id(tie), None)


def aside(then: Callable[[], object]) -> None:
    """Call `then` soon, in that same thread."""
    _dropped.start()
    _dropped.put(then)


def _forget() -> None:
    """Leave what the parent's objects are tied to alone in a process that was forked."""
    global _dropped  # noqa: PLW0603  its thread is not here
    _dropped = _Dropped()


def _finish() -> None:
    _dropped.finish()


atexit.register(_finish)
os.register_at_fork(after_in_child=_forget)
