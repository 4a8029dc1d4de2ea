"""Which hosts to request and which to give back: pure.

`Fleet.step` takes what the broker wants (`Demand`), what the engine says (`Sight`s) and the time,
and returns what to do. In each step:

1. What the engine has is compared with what was known: hosts of a former agent are taken over,
   those that are GONE are released, so that the engine forgets them. If they never reached the
   broker the next request waits (1 s, doubling to 60 s): a machine where hosts cannot start is not
   tried for ever.
2. What is short for `PATIENCE_SECONDS` and does not fit a host that is on its way is requested: as
   few hosts as do, each as large as its workers need, and no larger than a machine of the engine.
3. Hosts without a worker for `idle_seconds`, and those on their way that nothing has needed for so
   long, are given back, but for `min_hosts`.

Guarantees: never more than `max_hosts` that are not released; a name is never used twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kernel_worker.model import Device, HostResources, Resources
from kernel_worker.providers.provider import Cause, HostSpec, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_worker.providers.provider import Sight
    from kernel_worker.providers.target import Target
    from kernel_worker.wire import messages

PATIENCE_SECONDS: Final = 0.7
"""What is short for less than this is over before a host would be there."""
JOIN_SECONDS: Final = 120.0
"""A host that runs and has not reached the broker after so long does not find it."""
GRACE_SECONDS: Final = 30.0
_MOST_DELAY_SECONDS: Final = 60.0
_EPSILON: Final = 1e-9


@dataclass(slots=True)
class Steps:
    """What is to be done, in this order."""

    release: list[tuple[str, float]] = field(default_factory=list)
    """Names, each with its grace in seconds; 0 for those that are gone already."""
    request: list[HostSpec] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """For the log."""


@dataclass(slots=True)
class _Member:
    """A host that is requested, or there."""

    spec: HostSpec
    since: float
    """When it came into its phase."""
    needed_at: float
    """When something last needed it."""
    phase: Phase = Phase.PENDING
    is_joined: bool = False
    """The broker knows it …"""
    was_joined: bool = False
    """… or has known it: nothing need be kept back for it."""
    is_released: bool = False
    detail: str = ""


class Fleet:
    """The hosts of one provider."""

    def __init__(self, target: Target, prefix: str) -> None:
        """Know none yet; names are `<prefix>-<n>`."""
        self._target = target
        self._prefix = prefix
        self._count = 0
        self._members: dict[str, _Member] = {}
        self._short_since: dict[Resources, float] = {}
        self._failures = 0
        self._not_before = 0.0
        self._why = ""

    @property
    def size(self) -> int:
        """How many hosts there are, or are to be."""
        return sum(not member.is_released for member in self._members.values())

    def note(self) -> str:
        """Return how it stands, for people: `ray: 1 of at most 4 hosts, 1 pending`."""
        live = [member for member in self._members.values() if not member.is_released]
        coming = [member for member in live if not member.was_joined]
        text = f"{self._target.engine}: {len(live)} of at most {self._target.max_hosts} hosts"
        if coming:
            text += f", {len(coming)} on the way"
            text += "".join(f" ({member.detail})" for member in coming[:1] if member.detail)
        return f"{text}; {self._why}" if self._why else text

    def offers(self, shapes: Sequence[HostResources]) -> tuple[HostResources, ...]:
        """Return the largest hosts that may be had of machines that have `shapes`."""
        return tuple(dict.fromkeys(map(self._offer, shapes)))

    def step(
        self,
        demand: messages.Demand,
        sights: Mapping[str, Sight],
        shapes: Sequence[HostResources],
        now: float,
    ) -> Steps:
        """Return what is to be done now.

        Args:
            demand: what the broker has answered.
            sights: what the engine says of each host.
            shapes: what the engine's machines have.
            now: the time in seconds; never less than at the step before.
        """
        steps = Steps()
        self._compare(sights, now, steps)
        self._note_use(demand, now)
        missing = self._missing(demand, now)
        self._request(missing, shapes, now, steps)
        self._give_back(now, steps)
        return steps

    # ---- what there is ----------------------------------------------------------------------

    def _compare(self, sights: Mapping[str, Sight], now: float, steps: Steps) -> None:
        for name, sight in sights.items():
            if name not in self._members:
                steps.said.append(f"{name} is there already: taken over")
                self._members[name] = _Member(sight.spec, now, now)
            member = self._members[name]
            if sight.phase is not member.phase:
                member.phase, member.since = sight.phase, now
            member.detail = sight.detail
            if sight.phase is Phase.GONE:
                self._bury(name, sight, now, steps)
        for name in [name for name in self._members if name not in sights]:
            del self._members[name]

    def _bury(self, name: str, sight: Sight, now: float, steps: Steps) -> None:
        member = self._members[name]
        steps.release.append((name, 0.0))
        if not member.is_released:
            why = f"{sight.cause.value} {sight.detail}".strip()
            steps.said.append(f"{name} is gone: {why}")
            if not member.was_joined and sight.cause is not Cause.LOST:
                self._failed(f"the last one is gone: {why}", now)
        member.is_released = True

    def _failed(self, why: str, now: float) -> None:
        self._failures += 1
        self._not_before = now + min(2.0 ** (self._failures - 1), _MOST_DELAY_SECONDS)
        self._why = why

    def _note_use(self, demand: messages.Demand, now: float) -> None:
        used = {_name_of(use.host): use for use in demand.hosts}
        for name, member in self._members.items():
            use = used.get(name)
            member.is_joined = use is not None
            if use is None:
                continue
            if not member.was_joined:
                member.was_joined, member.needed_at = True, now
                self._failures, self._why = 0, ""
            if use.workers:
                member.needed_at = now

    # ---- what is missing --------------------------------------------------------------------

    def _missing(self, demand: messages.Demand, now: float) -> list[tuple[Resources, int]]:
        """Return what has been short for a while, beyond what is on its way."""
        wanted: dict[Resources, int] = {}
        for each in demand.shortages:
            wanted[each.resources] = wanted.get(each.resources, 0) + each.workers
        self._short_since = {one: self._short_since.get(one, now) for one in wanted}
        coming = [
            (member, _Room(member.spec))
            for member in self._members.values()
            if not member.was_joined and not member.is_released
        ]
        found = []
        for resources, workers in sorted(wanted.items(), key=lambda each: -each[0].gpu):
            left = workers
            for member, room in coming:
                taken = room.take(resources, left)
                if taken:
                    member.needed_at = now
                left -= taken
            if left and now - self._short_since[resources] >= PATIENCE_SECONDS:
                found.append((resources, left))
        return found

    def _request(
        self,
        missing: list[tuple[Resources, int]],
        shapes: Sequence[HostResources],
        now: float,
        steps: Steps,
    ) -> None:
        if now < self._not_before:
            return
        for resources, workers in missing:
            left = workers
            while left > 0 and self.size < self._target.max_hosts:
                spec, holds = self._fitting(resources, left, shapes)
                if not holds:
                    break
                self._add(spec, now, steps)
                left -= holds
        while shapes and self.size < self._target.min_hosts:
            largest = max(map(self._largest, shapes), key=lambda each: (each.gpus, each.cpus))
            self._add(largest, now, steps)

    def _add(self, spec: HostSpec, now: float, steps: Steps) -> None:
        self._count += 1
        named = HostSpec(
            f"{self._prefix}-{self._count}",
            spec.cpus,
            spec.memory_mib,
            spec.gpus,
            spec.gpu_kind,
            spec.is_declared,
        )
        self._members[named.name] = _Member(named, now, now)
        steps.request.append(named)

    def _fitting(
        self, resources: Resources, workers: int, shapes: Sequence[HostResources]
    ) -> tuple[HostSpec, int]:
        """Return a host for some of the workers, and how many of them it holds."""
        best, most = HostSpec("", 1), 0
        for shape in shapes:
            largest = self._largest(shape)
            memory_mib = largest.memory_mib or shape.memory_mib
            holds = _Room(largest, memory_mib).take(resources, workers)
            if holds > most:
                best, most = _cut_to(largest, resources, holds), holds
        return best, most

    def _largest(self, shape: HostResources) -> HostSpec:
        """Return the largest host that may be had of a machine that has `shape`."""
        target = self._target
        cpus = max(1, math.floor(shape.cpu + _EPSILON))
        gpus = len(shape.devices)
        kind = shape.devices[0].kind if shape.devices else ""
        return HostSpec(
            "",
            min(cpus, target.cpus or cpus),
            target.memory_mib,
            gpus if target.gpus < 0 else min(gpus, target.gpus),
            target.gpu_kind or kind,
            bool(target.gpu_kind),
        )

    def _offer(self, shape: HostResources) -> HostResources:
        spec = self._largest(shape)
        devices = tuple(Device(index, spec.gpu_kind) for index in range(spec.gpus))
        return HostResources(float(spec.cpus), spec.memory_mib or shape.memory_mib, devices)

    # ---- what is not needed -----------------------------------------------------------------

    def _give_back(self, now: float, steps: Steps) -> None:
        spare = self.size - self._target.min_hosts
        for name, member in self._members.items():
            if member.is_released:
                continue
            is_lost = member.phase is Phase.RUNNING and not member.is_joined
            if is_lost and now - max(member.since, member.needed_at) > JOIN_SECONDS:
                self._failed(f"{name} runs and has not reached the broker: is a port closed?", now)
                steps.said.append(self._why)
                grace = 0.0
            elif spare > 0 and now - member.needed_at >= max(self._target.idle_seconds, 1.0):
                steps.said.append(f"{name} is given back: nothing needs it")
                grace = GRACE_SECONDS
            else:
                continue
            member.is_released = True
            steps.release.append((name, grace))
            spare -= 1


class _Room:
    """What is left of a host for workers that it is to hold."""

    def __init__(self, spec: HostSpec, memory_mib: float = math.inf) -> None:
        self._cpus, self._gpus, self._kind = float(spec.cpus), float(spec.gpus), spec.gpu_kind
        self._memory_mib = spec.memory_mib or memory_mib

    def take(self, resources: Resources, workers: int) -> int:
        """Find room for some of the workers; return for how many."""
        if resources.gpu and resources.gpu_kind.lower() not in self._kind.lower():
            return 0
        count = float(workers)
        for have, want in (
            (self._cpus, resources.cpu),
            (self._gpus, resources.gpu),
            (self._memory_mib, resources.memory_mib),
        ):
            if want > 0:
                count = min(count, math.floor(have / want + _EPSILON))
        taken = int(count)
        self._cpus -= taken * resources.cpu
        self._gpus -= taken * resources.gpu
        self._memory_mib -= taken * resources.memory_mib
        return taken


def _cut_to(largest: HostSpec, resources: Resources, workers: int) -> HostSpec:
    """Return a host that is as large as the workers need."""
    return HostSpec(
        "",
        max(1, min(largest.cpus, math.ceil(workers * resources.cpu - _EPSILON))),
        largest.memory_mib,
        min(largest.gpus, math.ceil(workers * resources.gpu - _EPSILON)),
        largest.gpu_kind,
        largest.is_declared,
    )


def _name_of(host: str) -> str:
    """Return the name in a host's id, `ho-<name>-<number>`."""
    return host.removeprefix("ho-").rpartition("-")[0]
