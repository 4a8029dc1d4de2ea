"""How many workers a function has: `f.autoscaler`, and what `f.get_current_stats()` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kernel_worker.context import running_input
from kernel_worker.wire import messages
from notebook_ext import options as options_
from notebook_ext import process
from notebook_ext.source import Source
from notebook_ext.twin import Waiting, done, twin

if TYPE_CHECKING:
    from kernel_worker.model import PoolSettings


class FunctionStats(NamedTuple):
    """How a function's workers stand."""

    backlog: int
    """Inputs that wait."""
    num_total_runners: int
    """Workers, idle or busy."""
    num_running_inputs: int = 0
    """Inputs that workers hold."""
    input_headroom: int = 0
    """Inputs that could begin at once, or as soon as workers that start are ready."""

    @classmethod
    def of(cls, stats: messages.PoolStats) -> FunctionStats:
        """Return what the broker says of a pool."""
        return cls(
            stats.backlog, stats.num_total_runners, stats.num_running_inputs, stats.input_headroom
        )


class Autoscaler:
    """`f.autoscaler`: the settings of a function's pool, to read and to change."""

    def __init__(self, function: Pooled) -> None:
        """Stand for `function`."""
        self._function = function

    @twin
    def update(self, /, **given: Any) -> Waiting[PoolSettings]:
        """See `Pooled.update_autoscaler`."""
        return self._function.update_autoscaler.start(**given)

    @twin
    def settings(self) -> Waiting[PoolSettings]:
        """Return the settings in force."""
        return self._function.pool_stats().then(lambda stats: stats.settings)


class Pooled(Source):
    """A function that has a pool, as far as its number of workers goes."""

    @twin
    def keep_warm(self, warm_pool_size: int) -> Waiting[PoolSettings]:
        """Keep at least so many workers warm; the same as `update_autoscaler(min_containers=)`."""
        return self._configured({"min_containers": warm_pool_size})

    @twin
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> Waiting[PoolSettings]:
        """Change what is given of how many workers there are, at once.

        Args:
            min_containers: the warm floor.
            max_containers: the ceiling.
            buffer_containers: extra idle workers while the function is active.
            scaledown_window: seconds for which a worker above the floor stays idle.

        Returns:
            The settings in force.
        """
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
        }
        return self._configured({name: v for name, v in given.items() if v is not None})

    @property
    def autoscaler(self) -> Autoscaler:
        """The same by other names: `.update(...)` and `.settings()`."""
        return Autoscaler(self)

    @twin
    def get_current_stats(self) -> Waiting[FunctionStats]:
        """Return how many inputs wait and how many workers there are."""
        return self.pool_stats().then(FunctionStats.of)

    def pool_stats(self) -> Waiting[messages.PoolStats]:
        """Ask how the pool stands; for `get_current_stats` and the autoscaler."""
        package = self._package(running_input())
        pool = package.spec.pool
        return process.current().ask("pool_stats", pool, messages.PoolStats, package)

    def _configured(self, given: dict[str, Any]) -> Waiting[PoolSettings]:
        settings = options_.check_settings(given, self._options.settings)
        if not self.has_code and not given:
            return self.pool_stats().then(lambda stats: stats.settings)
        if not given:
            return done(settings)
        if self.has_code:
            self._take_settings(settings)
        package = self._package(running_input())
        changes = dict(given)
        if "scaledown_window" in changes:
            changes["scaledown_window_seconds"] = float(changes.pop("scaledown_window"))
        return process.current().configure(package.spec.pool, package, changes)

    def _take_settings(self, settings: PoolSettings) -> None:
        with self._lock:
            self._options = msgspec.structs.replace(self._options, settings=settings)
            self._version = None  # the next versions have them too
