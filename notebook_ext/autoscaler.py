"""How many workers a function has: `f.autoscaler`, and what `f.get_current_stats()` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_ext.twin import Waiting, twin

if TYPE_CHECKING:
    from kernel_worker.model import PoolSettings
    from kernel_worker.wire.messages import PoolStats
    from notebook_ext.function import Function
    from notebook_ext.options import Options


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
    def of(cls, stats: PoolStats) -> FunctionStats:
        """Return what the broker says of a pool."""
        return cls(
            stats.backlog, stats.num_total_runners, stats.num_running_inputs, stats.input_headroom
        )


class FunctionInfo(NamedTuple):
    """What a function is."""

    name: str
    module: str
    signature: str
    version: str
    options: Options


class Autoscaler:
    """`f.autoscaler`: the settings of a function's pool, to read and to change."""

    def __init__(self, function: Function[..., Any]) -> None:
        """Stand for `function`."""
        self._function = function

    @twin
    def update(self, /, **given: Any) -> Waiting[PoolSettings]:
        """See `Function.update_autoscaler`."""
        return self._function.update_autoscaler.start(**given)

    @twin
    def settings(self) -> Waiting[PoolSettings]:
        """Return the settings in force."""
        return self._function.pool_stats().then(lambda stats: stats.settings)
