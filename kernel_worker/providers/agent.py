"""A provider's agent: asks the broker, looks at the engine, has `fleet` decide, does it.

It holds nothing that is not said again: what the engine runs, the engine tells, and what is wanted
the broker. So it may be killed at any time. Hosts go on without it, and the next agent finds them.

When the broker has not answered for `ORPHANED_SECONDS`, as after `notebook-ext broker stop`, and
when it is told to end, it gives all hosts back and ends. An engine that does not answer is waited
for, as long as it takes: the broker is told what there was, so that what waits goes on waiting.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import Error
from kernel_worker.providers.fleet import GRACE_SECONDS, Fleet
from kernel_worker.providers.provider import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_worker.model import HostResources
    from kernel_worker.providers.asking import Asking
    from kernel_worker.providers.provider import Provider, Sight
    from kernel_worker.wire import messages

TICK_SECONDS: Final = 0.5
SHAPES_SECONDS: Final = 10.0
"""How often it is looked what machines the engine has."""
ORPHANED_SECONDS: Final = 30.0
_CLOSING_SECONDS: Final = GRACE_SECONDS + 15.0
_log = logging.getLogger(__name__)


class Agent:
    """One provider's agent."""

    def __init__(self, provider: Provider, asking: Asking, fleet: Fleet) -> None:
        """Take what is open already."""
        self._provider = provider
        self._asking = asking
        self._fleet = fleet
        self._told_to_end = False
        self._shapes: Sequence[HostResources] = ()
        self._shapes_at = -SHAPES_SECONDS
        self._unanswered_since = math.inf
        """Since when the broker has not answered what it was asked."""
        self._releases: dict[str, float] = {}
        """What the engine has yet to be told: names, each with its grace."""
        self._problem = ""

    def end(self) -> None:
        """Give all hosts back and end, soon; may be called by a signal handler."""
        self._told_to_end = True

    def run(self) -> None:
        """Serve until told to end, or the broker is gone."""
        while not self._told_to_end:
            try:
                self._turn()
            except Error as error:
                self._note_problem(f"{type(error).__name__}: {error}")
            time.sleep(TICK_SECONDS)
            if time.monotonic() - self._unanswered_since > ORPHANED_SECONDS:
                _log.warning("no broker for %g s: all hosts are given back", ORPHANED_SECONDS)
                break
        self.give_all_back()

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._shapes_at >= SHAPES_SECONDS:
            self._shapes_at = now
            try:
                self._shapes = self._provider.shapes()
            except Error as error:
                self._note_problem(f"{type(error).__name__}: {error}")
        demand = self._ask(now)
        if demand is None:
            return
        sights = self._provider.look()
        steps = self._fleet.step(demand, sights, self._shapes, now)
        for line in steps.said:
            _log.info("%s", line)
        self._releases.update(steps.release)
        for name in list(self._releases):
            self._provider.release(name, self._releases[name])
            del self._releases[name]
        for spec in steps.request:
            _log.info("%s is requested: %d CPUs, %d GPUs", spec.name, spec.cpus, spec.gpus)
            self._provider.request(spec)
        self._problem = ""

    def _ask(self, now: float) -> messages.Demand | None:
        """Ask the broker what is wanted, and note whether it answers."""
        self._unanswered_since = min(self._unanswered_since, now)
        note = "; ".join(filter(None, [self._fleet.note(), self._problem]))
        demand = self._asking.provide(self._fleet.offers(self._shapes), note)
        if demand is not None:
            self._unanswered_since = math.inf
        return demand

    def _note_problem(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("%s", problem)
        self._problem = problem

    def give_all_back(self) -> None:
        """Have all hosts end, what they run within a grace, and wait for that."""
        deadline = time.monotonic() + _CLOSING_SECONDS
        try:
            left = _alive(self._provider.look())
            for name in left:
                self._provider.release(name, GRACE_SECONDS)
            while left and time.monotonic() < deadline:
                time.sleep(0.1)
                sights = self._provider.look()
                left = _alive(sights)
                for name in sights.keys() - left:
                    self._provider.release(name, 0.0)
            for name in left:
                self._provider.release(name, 0.0)
        except Error as error:
            _log.error("not all hosts were given back: %s", error)
        finally:
            self._asking.close()
            self._provider.close()


def _alive(sights: Mapping[str, Sight]) -> set[str]:
    return {name for name, sight in sights.items() if sight.phase is not Phase.GONE}
