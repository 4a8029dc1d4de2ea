"""`CallProgress` for those who wait: calls that take long, at most ten times a second.

A call that ends soon never gets here: the first look at it is 0.3 s after it came in. Looking costs
at most a twentieth of the broker's time, however many calls are open.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.calls import OpenCall
    from kernel_worker.broker.loop import Broker

FIRST_SECONDS = 0.3
INTERVAL_SECONDS = 0.1
_SHARE = 20
_TIMER = "progress"


class ProgressReports:
    """Tells clients how their open attached calls stand."""

    def __init__(self, broker: Broker) -> None:
        """Serve `broker`."""
        self._broker = broker
        self._is_set = False

    def expect(self) -> None:
        """An attached call has come in."""
        if not self._is_set:
            self._is_set = True
            self._broker.timers.set(_TIMER, self._broker.now() + FIRST_SECONDS, self._look)

    def _look(self) -> None:
        broker = self._broker
        now = broker.now()
        begun = time.perf_counter()
        open_calls = [call for call in broker.calls.values() if call.attached]
        for call in open_calls:
            if now - call.opened_at >= FIRST_SECONDS:
                self._report(call, now)
        self._is_set = bool(open_calls)
        if self._is_set:
            spent = time.perf_counter() - begun
            pause = max(INTERVAL_SECONDS, _SHARE * spent)
            broker.timers.set(_TIMER, now + pause, self._look)

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
