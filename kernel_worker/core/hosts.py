"""A host: what it has, and what its workers hold of it.

Memory and devices are held by a worker as long as its process lives; CPU only while it runs user
code. Devices are given by index: whole ones to one worker, a fraction of one to several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.core.pools import Worker
    from kernel_worker.model import HostId, HostResources, PoolId, Resources, WorkerId

EPSILON: Final = 1e-9


@dataclass(slots=True, eq=False)
class Host:
    """One machine's agent."""

    id: HostId
    resources: HostResources
    cpu_used: float = 0.0
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    templates: set[PoolId] = field(default_factory=set)
    """Pools whose template it may hold."""
    is_far: bool = False
    """Whether it is another machine than the broker's."""
    is_silent: bool = False
    """Nothing was heard of it for longer than its lease."""
    is_draining: bool = False
    """It is about to leave: what runs there may end."""
    held: frozenset[int] = frozenset()
    """Devices that other brokers of its machine use: for now they are not to be had."""

    @property
    def state(self) -> str:
        """`silent`, `draining`, or empty."""
        return "silent" if self.is_silent else "draining" if self.is_draining else ""

    @property
    def is_open(self) -> bool:
        """Whether anything may begin there."""
        return not (self.is_silent or self.is_draining)

    @property
    def cpu_free(self) -> float:
        """Cores on which no user code runs; negative while a handover lasts."""
        return self.resources.cpu - self.cpu_used if self.is_open else 0.0

    def has_cpu(self, cpu: float) -> bool:
        """Whether a worker that needs `cpu` cores may run user code now."""
        return self.resources.cpu - self.cpu_used + EPSILON >= cpu and self.is_open

    def slots(self, wanted: Resources) -> int:
        """Return how many workers could run user code at once, were they alone."""
        if not self.is_open:
            return 0
        if wanted.cpu <= EPSILON:
            return 1_000
        return math.floor(self.resources.cpu / wanted.cpu + EPSILON)

    def could_ever_fit(self, wanted: Resources) -> bool:
        """Whether a worker fits an empty host."""
        return self.resources.cpu + EPSILON >= wanted.cpu and self.could_fit(wanted, ())

    def could_fit(self, wanted: Resources, holders: Iterable[Worker]) -> bool:
        """Whether a worker fits beside `holders` once nobody else has a device."""
        return self._place(wanted, holders, frozenset()) is not None

    def place(self, wanted: Resources, holders: Iterable[Worker]) -> tuple[int, ...] | None:
        """Return the devices for a new worker beside `holders`, or None if it does not fit."""
        return self._place(wanted, holders, self.held)

    def _place(
        self, wanted: Resources, holders: Iterable[Worker], held: frozenset[int]
    ) -> tuple[int, ...] | None:
        beside = list(holders)
        memory = sum(w.pool.spec.resources.memory_mib for w in beside) + wanted.memory_mib
        if wanted.memory_mib and memory > self.resources.memory_mib:
            return None
        return self._devices_for(wanted, beside, held)

    def _devices_for(
        self, wanted: Resources, holders: list[Worker], held: frozenset[int]
    ) -> tuple[int, ...] | None:
        if wanted.gpu <= 0:
            return ()
        used = self._device_use(holders)
        kind = wanted.gpu_kind.lower()
        fitting = [
            device.index
            for device in self.resources.devices
            if kind in device.kind.lower() and device.index not in held
        ]
        if wanted.gpu >= 1:
            count = math.ceil(wanted.gpu - EPSILON)
            free = [index for index in fitting if used.get(index, 0.0) <= EPSILON]
            return tuple(free[:count]) if len(free) >= count else None
        shared = [i for i in fitting if used.get(i, 0.0) + wanted.gpu <= 1 + EPSILON]
        # The fullest one that fits, so that whole devices stay free.
        return (max(shared, key=lambda i: used.get(i, 0.0)),) if shared else None

    def device_use(self) -> dict[int, float]:
        """Return the share of each device that its workers hold, by index."""
        return self._device_use(self.workers.values())

    def _device_use(self, holders: Iterable[Worker]) -> dict[int, float]:
        used: dict[int, float] = {}
        for worker in holders:
            share = min(1.0, worker.pool.spec.resources.gpu)
            for index in worker.devices:
                used[index] = used.get(index, 0.0) + share
        return used


def describe(hosts: Iterable[Host]) -> str:
    """Return what there is, for people: `2 CPUs, 3980 MiB, no GPU`."""
    return "; ".join(_describe_one(host) for host in hosts) or "no host"


def _describe_one(host: Host) -> str:
    have = host.resources
    kinds: dict[str, int] = {}
    for device in have.devices:
        kinds[device.kind] = kinds.get(device.kind, 0) + 1
    gpus = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "no GPU"
    return f"{have.cpu:g} CPUs, {have.memory_mib} MiB of memory, {gpus}"
