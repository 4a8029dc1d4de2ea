"""`CallProgress` for those who wait: calls that take long, at most ten times a second.

A call that ends soon never gets here: the first look at it is 0.3 s after it came in. Looking costs
at most a twentieth of the broker's time, however many calls are open.

A spawned call is looked at once, when it has been here for as long as a call may wait without a
reason, and once more for whoever attaches later: those who listen are told why it waits.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

from kernel_worker.core.views import WAITING_SECONDS
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.broker.calls import OpenCall
    from kernel_worker.broker.loop import Broker
    from kernel_worker.model import CallId

FIRST_SECONDS = 0.3
INTERVAL_SECONDS = 0.1
REASON_SECONDS = WAITING_SECONDS + 0.1
_SHARE = 20
_TIMER = "progress"


class ProgressReports:
    """Tells clients how their open attached calls stand."""

    def __init__(self, broker: Broker) -> None:
        """Serve `broker`."""
        self._broker = broker
        self._is_set = False
        self._is_soon = False
        """Whether the next look is no later than a new attached call needs it."""
        self._spawned: list[tuple[float, CallId]] = []
        """A heap: when to look at which spawned call."""

    def expect_reason(self, call_id: CallId) -> None:
        """A spawned call has come in, or somebody wants to hear of it."""
        call = self._broker.calls.get(call_id)
        if call is None or call.attached:
            return
        due = max(call.opened_at + REASON_SECONDS, self._broker.now() + FIRST_SECONDS)
        heapq.heappush(self._spawned, (due, call_id))
        if not self._is_set:
            self._is_set = True
            self._broker.timers.set(_TIMER, due, self._look)

    def expect(self) -> None:
        """An attached call has come in."""
        if self._is_soon:
            return
        self._is_set = self._is_soon = True
        self._broker.timers.set_if_earlier(_TIMER, self._broker.now() + FIRST_SECONDS, self._look)

    def tell_why(self, calls: Iterable[CallId], why: str) -> None:
        """Tell those who listen to spawned calls what these wait for, once."""
        for call_id in calls:
            call = self._broker.calls.get(call_id)
            if call is None:
                continue
            progress = messages.CallProgress(call_id, 0, 0, 0, why)
            if progress != call.last_progress:
                call.last_progress = progress
                self._tell(call, progress)

    def _look(self) -> None:
        broker = self._broker
        now = broker.now()
        begun = time.perf_counter()
        open_calls = [call for call in broker.calls.values() if call.attached]
        for call in open_calls:
            if now - call.opened_at >= FIRST_SECONDS:
                self._report(call, now)
        while self._spawned and self._spawned[0][0] <= now:
            self._give_reason(heapq.heappop(self._spawned)[1], now)
        self._is_set = bool(open_calls or self._spawned)
        self._is_soon = bool(open_calls)
        if self._is_set:
            spent = time.perf_counter() - begun
            due = now + max(INTERVAL_SECONDS, _SHARE * spent)
            if not open_calls:
                due = max(due, self._spawned[0][0])
            broker.timers.set(_TIMER, due, self._look)

    def _give_reason(self, call_id: CallId, now: float) -> None:
        broker = self._broker
        call, view = broker.calls.get(call_id), broker.scheduler.call_progress(call_id, now)
        if call is None or view is None or not view.waiting_for:
            return
        self._tell(
            call, messages.CallProgress(call_id, view.running, view.retried, 0, view.waiting_for)
        )

    def _tell(self, call: OpenCall, progress: messages.CallProgress) -> None:
        for listener in call.audience():
            client = self._broker.peers.clients.get(listener)
            if client is not None:
                self._broker.send(client.routing, messages.encode(progress))

    def _report(self, call: OpenCall, now: float) -> None:
        broker = self._broker
        client = broker.peers.clients.get(call.client)
        view = broker.scheduler.call_progress(call.call, now)
        if client is None or view is None:
            return
        progress = messages.CallProgress(
            call.call, view.running, view.retried, view.workers, view.waiting_for, view.started
        )
        if progress != call.last_progress:
            call.last_progress = progress
            broker.send(client.routing, messages.encode(progress))
