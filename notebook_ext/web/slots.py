"""The slots of an endpoint: who serves a request, and when there are to be more or fewer.

Theory. A slot is an input of the endpoint's function, which serves one request at a time. It is
*opening* from its call until it dials, then *busy* with a request or *idle*. A request takes the
idle slot that was busy last; where there is none it waits, and there are as many opening slots as
requests that wait: they are the pool's backlog, by which the broker sees how many workers are
needed. Whichever slot is free first serves the request that has waited longest.

Guarantees: a request is given to one slot. A slot takes none once it is `MOST_SECONDS` old, was
idle for `IDLE_SECONDS`, or was opened before the function was defined or deployed anew (`renew`),
so that the broker schedules anew and nothing stale runs. An opening slot that no request needs for
`SURPLUS_SECONDS` is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import FunctionTimeoutError, InternalFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from notebook_ext.web.streams import Stream

MOST_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 0.5
SURPLUS_SECONDS: Final = 1.0
MOST_OPENING: Final = 200
"""So many wait at the broker; requests beyond them wait here."""
_PART_OF_TIMEOUT: Final = 0.1
_LOOK_SECONDS: Final = 0.25
_OUTCOME_SECONDS: Final = 1.0


class Slot:
    """An input that serves requests."""

    __slots__ = ("born", "call", "generation", "since", "stream")

    def __init__(self, call: asyncio.Task[None], generation: int) -> None:
        """Stand for what `call` runs."""
        self.call = call
        self.generation = generation
        self.born = 0.0
        """When it dialled, in the loop's time."""
        self.since = 0.0
        """Since when it is idle."""
        self.stream: Stream

    async def timed_out(self) -> bool:
        """Return, of a slot whose stream has broken, whether its input ran too long."""
        with contextlib.suppress(BaseException):
            await asyncio.wait({self.call}, timeout=_OUTCOME_SECONDS)
        if not self.call.done() or self.call.cancelled():
            return False
        return isinstance(self.call.exception(), FunctionTimeoutError)


class Slots:
    """Those of one endpoint; all of it runs in the gateway's loop."""

    def __init__(
        self, open_call: Callable[[str], Coroutine[Any, Any, None]], timeout_seconds: float
    ) -> None:
        """Have no slots.

        Args:
            open_call: makes the call whose input serves the slot of that id.
            timeout_seconds: how long an input may run: a slot is retired long before, so that a
                request has nearly all of that.
        """
        self._open_call = open_call
        self._most_seconds = _most_seconds(timeout_seconds)
        self._loop = asyncio.get_running_loop()
        self._idle: list[Slot] = []
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._opening: dict[str, Slot] = {}
        self._all: set[Slot] = set()
        self._generation = 0
        self._surplus_since: float | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.is_closed = False

    @property
    def count(self) -> int:
        """How many there are, opening ones too."""
        return len(self._all)

    def is_mine(self, slot: str) -> bool:
        """Whether this opening slot is one of these."""
        return slot in self._opening

    def idle(self) -> Slot | None:
        """Return a slot for a request where one is idle."""
        now = self._loop.time()
        while self._idle:
            slot = self._idle.pop()
            if self._is_fresh(slot, now):
                return slot
            self.drop(slot)
        return None

    async def acquire(self) -> Slot:
        """Return a slot for a request; give it back with `release` or `drop`.

        Raises:
            Exception: what the call of the slot that was opened for it has failed with.
        """
        if (slot := self.idle()) is not None:
            return slot
        future: asyncio.Future[Slot] = self._loop.create_future()
        self._waiting.append(future)
        self._open_enough()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    def release(self, slot: Slot) -> None:
        """Take a slot back whose request has ended."""
        now = self._loop.time()
        if not self._is_fresh(slot, now):
            self.drop(slot)
            self._open_enough()
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(slot)
                return
        slot.since = now
        self._idle.append(slot)
        self._sweep_later()

    def drop(self, slot: Slot) -> None:
        """Let a slot end: its input returns."""
        slot.stream.close()

    def dialled(self, name: str, stream: Stream) -> None:
        """Take up the stream of an opening slot."""
        slot = self._opening.pop(name)
        slot.stream = stream
        slot.born = self._loop.time()
        self.release(slot)

    def renew(self, timeout_seconds: float | None = None) -> None:
        """Use no slot any more that there is now: the function is another one.

        Args:
            timeout_seconds: how long an input may run from now on, if that has changed.
        """
        self._generation += 1
        if timeout_seconds is not None:
            self._most_seconds = _most_seconds(timeout_seconds)
        for slot in self._idle:
            self.drop(slot)
        self._idle.clear()

    def close(self) -> None:
        """End all slots, also busy ones."""
        self.is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for slot in self._all:
            slot.call.cancel()
        for future in self._waiting:
            future.cancel()

    def _is_fresh(self, slot: Slot, now: float) -> bool:
        return (
            slot.generation == self._generation
            and now - slot.born < self._most_seconds
            and not slot.stream.is_closed
            and not slot.call.done()
        )

    # ---- opening --------------------------------------------------------------------------------

    def _open_enough(self) -> None:
        wanted = min(sum(not future.done() for future in self._waiting), MOST_OPENING)
        for _ in range(wanted - len(self._opening)):
            self._open()
        if wanted:
            self._sweep_later()

    def _open(self) -> None:
        name = secrets.token_hex(8)
        task = self._loop.create_task(self._open_call(name))
        slot = Slot(task, self._generation)
        self._opening[name] = slot
        self._all.add(slot)
        task.add_done_callback(lambda _: self._ended(name, slot))

    def _ended(self, name: str, slot: Slot) -> None:
        """Note that a slot's call has ended."""
        self._all.discard(slot)
        error = None if slot.call.cancelled() else slot.call.exception()
        if self._opening.pop(name, None) is None:
            if hasattr(slot, "stream"):
                slot.stream.close()
            return
        if slot.call.cancelled():
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error or InternalFailure("the input served nothing"))
                break
        self._open_enough()

    # ---- looking after them ---------------------------------------------------------------------

    def _sweep_later(self) -> None:
        if self._sweeper is None and not self.is_closed:
            self._sweeper = self._loop.call_later(_LOOK_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        kept = []
        for slot in self._idle:
            if now - slot.since < IDLE_SECONDS and self._is_fresh(slot, now):
                kept.append(slot)
            else:
                self.drop(slot)
        self._idle = kept
        waiting = [future for future in self._waiting if not future.done()]
        self._waiting = deque(waiting)
        if len(self._opening) <= len(waiting):
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        elif now - self._surplus_since >= SURPLUS_SECONDS:
            for slot in list(self._opening.values())[len(waiting) :]:
                slot.call.cancel()
            self._surplus_since = None
        if self._idle or self._opening or waiting:
            self._sweep_later()


def _most_seconds(timeout_seconds: float) -> float:
    return min(MOST_SECONDS, _PART_OF_TIMEOUT * timeout_seconds)
