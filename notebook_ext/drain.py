"""The end of a map whose results nobody takes: outcomes are counted, and somebody waits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from notebook_ext import unfinished
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.map_run import MapRun
    from notebook_ext.unfinished import Unfinished


class Drain:
    """Counts the outcomes of a map whose results nobody takes."""

    def __init__(self, left: Unfinished[Any], *, ignore_exceptions: bool) -> None:
        """Start with none."""
        self.waiting: Waiting[None] = _Drained(left)
        self.waiting.abandoned = partial(self._give_up, left.run)
        self.waiting.announce = left.run.announce
        self._left = left
        self.ignores = ignore_exceptions
        self._ended = 0
        self._total: int | None = None
        self._last: Callable[[], object] | None = None

    def add(self, count: int) -> None:
        """So many inputs ended."""
        self._ended += count
        self._look()

    def close(self, total: int, last: Callable[[], object] | None) -> None:
        """There are `total` inputs; `last`, which raises, comes behind them."""
        self._total, self._last = total, last
        self._look()

    def fail_at(self, raising: Callable[[], Any]) -> None:
        """An input failed."""
        if not self.ignores:
            self.fail(raising)

    def fail(self, raising: Callable[[], Any]) -> None:
        """The whole is over."""
        self._left.run.facts.finish("failed")
        self.waiting.complete(partial(_raise_leaving, raising, self._left), failed=True)
        self._left.run.abandon()

    def _look(self) -> None:
        if self._ended != self._total:
            return
        if self._last is not None:
            self.fail(self._last)
            return
        run = self._left.run
        run.facts.finish("done")
        if not run.is_whole:
            unfinished.remember(self._left)
        self.waiting.complete(_nothing)

    @staticmethod
    def _give_up(run: MapRun) -> None:
        run.facts.finish("cancelled")
        run.abandon()


class _Drained(Waiting[None]):
    """Waits for a drain; what interrupts it carries what the map leaves."""

    __slots__ = ("_left",)

    def __init__(self, left: Unfinished[Any]) -> None:
        super().__init__()
        self._left = left

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait in this thread."""
        __tracebackhide__ = True
        try:
            return super().wait(timeout_seconds)
        except BaseException as interrupt:
            unfinished.leave_with(interrupt, self._left)
            raise

    async def settled(self) -> None:
        """Wait in the running task."""
        __tracebackhide__ = True
        try:
            await super().settled()
        except BaseException as interrupt:
            unfinished.leave_with(interrupt, self._left)
            raise


def _raise_leaving(raising: Callable[[], Any], left: Unfinished[Any]) -> None:
    __tracebackhide__ = True
    try:
        raising()
    except BaseException as error:
        unfinished.leave_with(error, left)
        raise


def _nothing() -> None:
    """What a waiting gives that only says that something changed."""
