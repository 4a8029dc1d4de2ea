"""The time and memory limits of workers: who is over one is told, then killed.

Time limits are exact without a wake-up per input: the progress page says when the input that runs
was started, so the next moment at which a worker can be over its limit is known; an idle worker is
looked at once per limit. Memory is looked at (`memory`) only of workers that have a limit.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from kernel_worker.host import memory
from kernel_worker.model import LeaseId
from kernel_worker.wire import local

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.host.timers import Timers
    from kernel_worker.host.workers import Worker
    from kernel_worker.model import WorkerId
    from kernel_worker.wire.page import Place

GRACE_SECONDS = 5.0
_NO_LIMIT_SECONDS = 1e8
_MIN_LOOK_SECONDS = 0.01
_NS = 1e-9


class Limits:
    """What sees to it that workers keep within their limits."""

    def __init__(self, workers: Mapping[WorkerId, Worker], timers: Timers) -> None:
        """Look after those of `workers` that are to be watched, at times that `timers` say."""
        self._workers = workers
        self._timers = timers

    def watch(self, worker: Worker) -> None:
        """Look after a worker that has a process now."""
        if worker.spec.timeout_seconds < _NO_LIMIT_SECONDS:
            self._look(worker)
        if worker.spec.resources.memory_limit_mib:
            self._measure(worker)

    def _look(self, worker: Worker) -> None:
        """See whether an input that runs is over its limit, and when to look again."""
        if worker.id not in self._workers:
            return
        now, limit = time.monotonic(), worker.spec.timeout_seconds
        next_due = now + limit
        for place in worker.page.all_running():
            due = place.started_ns * _NS + limit
            if due > now:
                next_due = min(due, next_due)
            elif place not in worker.overdue:
                worker.overdue.add(place)
                worker.tell(local.Interrupt(LeaseId(place.lease), place.index, "timeout"))
                self._timers.at(now + GRACE_SECONDS, partial(self._insist_on_time, worker, place))
        self._timers.at(max(next_due, now + _MIN_LOOK_SECONDS), partial(self._look, worker))

    def _insist_on_time(self, worker: Worker, place: Place) -> None:
        worker.overdue.discard(place)
        if worker.id in self._workers and place in worker.page.all_running():
            worker.timed_out = place
            limit = worker.spec.timeout_seconds
            worker.kill(
                f"killed: did not stop {GRACE_SECONDS:g} s after its timeout of {limit:g} s"
            )

    def _measure(self, worker: Worker) -> None:
        """See whether a worker is over its memory limit, and when to look again."""
        if self._workers.get(worker.id) is not worker or worker.kill_cause:
            return
        began, limit = time.monotonic(), worker.spec.resources.memory_limit_mib
        used = memory.used_mib(worker.pid, limit)
        if used > limit:
            worker.over_memory_mib = used
            worker.kill(f"killed: used {used} MiB, more than its limit of {limit} MiB")
            return
        now = time.monotonic()
        pause = memory.pause_seconds(limit - used, now - began)
        self._timers.at(now + pause, partial(self._measure, worker))
