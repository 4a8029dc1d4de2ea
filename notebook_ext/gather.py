"""`gather`: the results of several calls, in order."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InvalidError
from notebook_ext.twin import BoundTwin, Waiting, done

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from notebook_ext.call import FunctionCall


class Gather:
    """`gather(*calls)` and `await gather.aio(*calls)`."""

    def __call__(self, *calls: FunctionCall[Any], cancel_on_error: bool = False) -> list[Any]:
        """Wait for all `calls` and return their results in order.

        The first failure, in time, is raised.

        Args:
            calls: what `f.spawn(...)` returned.
            cancel_on_error: cancel the others when one fails; otherwise they go on.

        Raises:
            InvalidError: something is no call.
        """
        __tracebackhide__ = True
        return BoundTwin(_started)(calls, cancel_on_error=cancel_on_error)

    def aio(
        self, *calls: FunctionCall[Any], cancel_on_error: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Do the same in the running task."""
        return _started(calls, cancel_on_error=cancel_on_error)

    def __repr__(self) -> str:
        return "<notebook_ext.gather, also as .aio>"


gather = Gather()


def _started(calls: Sequence[FunctionCall[Any]], *, cancel_on_error: bool) -> Waiting[list[Any]]:
    """Return what is done once all calls are, or one has failed."""
    from notebook_ext.call import FunctionCall  # noqa: PLC0415  it needs this module

    for call in calls:
        if not isinstance(call, FunctionCall):
            raise InvalidError(
                f"gather: {call!r} is no FunctionCall; it takes what f.spawn(...) returns."
            )
    if not calls:
        return done([])
    return _All(calls, cancel_on_error=cancel_on_error).everything


class _All:
    """Collects outcomes until all are there or one has failed."""

    def __init__(self, calls: Sequence[FunctionCall[Any]], *, cancel_on_error: bool) -> None:
        self.everything: Waiting[list[Any]] = Waiting()
        self._calls = calls
        self._cancel_on_error = cancel_on_error
        self._left = len(calls)
        self._lock = threading.Lock()
        self._waitings = [call.get.start() for call in calls]
        first = self._waitings[0]
        if first.announce is not None:
            self.everything.announce = self._announce
        for waiting in self._waitings:
            waiting.add_callback(partial(self._one, waiting))

    def _one(self, waiting: Waiting[Any]) -> None:
        """Note an outcome. Whether it failed is seen without unpickling a value."""
        with self._lock:
            self._left -= 1
            left = self._left
        if waiting.failed:
            if self._cancel_on_error:
                for call in self._calls:
                    call.cancel.start()
            self.everything.complete(waiting.result, failed=True)
        elif not left:
            self.everything.complete(lambda: [each.result() for each in self._waitings])

    def _announce(self, running: Any, begins: bool) -> None:  # noqa: FBT001  a callback
        for waiting in self._waitings:
            if waiting.announce is not None:
                waiting.announce(running, begins)
