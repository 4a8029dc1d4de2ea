"""What pools need of a host, from their first worker on until some time after they have retired.

A user goes back to what a cell said before: so the template and the objects of a retired pool stay
for `RETIRED_SECONDS`, but only of the latest few, since somebody may run one cell a hundred times.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.host.contents import Contents
    from kernel_worker.host.templates import Templates
    from kernel_worker.host.timers import Timers
    from kernel_worker.host.workers import Worker
    from kernel_worker.model import FunctionSpec, PoolId, WorkerId

RETIRED_SECONDS = 30.0
_KEPT_RETIRING = 4


class Pools:
    """The pools that have workers here, or had."""

    def __init__(
        self,
        workers: Mapping[WorkerId, Worker],
        contents: Contents,
        templates: Templates,
        timers: Timers,
    ) -> None:
        """Know none; `workers` need their objects whatever becomes of their pools."""
        self._workers = workers
        self._contents = contents
        self._templates = templates
        self._timers = timers
        self._retiring: dict[PoolId, None] = {}
        """Those whose template and objects go soon, the longest retired first."""
        self._specs: dict[PoolId, FunctionSpec] = {}
        """What the pools need that are not retired."""

    def use(self, spec: FunctionSpec) -> None:
        """A pool gets a worker: it stays, or comes back."""
        self._retiring.pop(spec.pool, None)
        self._specs[spec.pool] = spec

    def worker_gone(self, spec: FunctionSpec) -> None:
        """A worker is no more: of a pool that has gone before it, it may have been the last."""
        if spec.pool not in self._specs:
            self._drop_objects()

    def retire_later(self, pool: PoolId) -> None:
        """Keep what a pool needs for a while."""
        self._retiring.pop(pool, None)
        self._retiring[pool] = None
        retire = partial(self._retire, pool)
        self._timers.at(time.monotonic() + RETIRED_SECONDS, retire)
        while len(self._retiring) > _KEPT_RETIRING:
            self._retire(next(iter(self._retiring)))

    def _retire(self, pool: PoolId) -> None:
        """Let a pool's template and objects go, unless the pool has come back meanwhile."""
        if pool not in self._retiring:
            return
        del self._retiring[pool]
        self._templates.retire(pool)
        self._specs.pop(pool, None)
        self._drop_objects()

    def _drop_objects(self) -> None:
        """Drop what neither a pool nor a worker needs; the broker will send it again."""
        specs = [*self._specs.values(), *(worker.spec for worker in self._workers.values())]
        self._contents.drop_others(specs)
