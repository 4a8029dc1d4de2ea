"""What the devices of workers do, as it is shown beside each worker.

Read from this machine's driver, at most once in some seconds. Of devices on other machines, and of
those that were only declared, it is known which they are.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from kernel_worker import gpus, rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.gpus import DeviceUse
    from kernel_worker.wire.messages import HostStatus, WorkerStatus

AGE_SECONDS: Final = 2.0


def of_host(host: HostStatus) -> str:
    """Return the devices of a host, and which of them other brokers use; empty where none are."""
    kinds = Counter(device.kind for device in host.resources.devices)
    text = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    held = ", ".join(map(str, host.held))
    return f"{text} (other brokers use {held})" if held else text


class DeviceUses:
    """The devices of workers, as they were read last."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._here: set[str] = set()
        self._uses: dict[int, DeviceUse] = {}
        self._read_at = -AGE_SECONDS

    def begin(self, hosts: Iterable[HostStatus], workers: Iterable[WorkerStatus]) -> None:
        """Prepare for a look at these workers of these hosts."""
        machine = rendezvous.machine_id()
        self._here = {host.host for host in hosts if host.machine == machine}
        wanted = {index for each in workers if each.host in self._here for index in each.devices}
        if wanted and time.monotonic() >= self._read_at + AGE_SECONDS:
            self._uses = gpus.uses(wanted)
            self._read_at = time.monotonic()

    def text(self, worker: WorkerStatus) -> str:
        """Return the devices of a worker, and what they do where that is known; may be empty."""
        known = self._uses if worker.host in self._here else {}
        return ", ".join(_shown(index, known.get(index), worker.pid) for index in worker.devices)


def _shown(index: int, use: DeviceUse | None, pid: int) -> str:
    if use is None:
        return f"GPU {index}"
    busy = "" if use.busy_percent is None else f"{use.busy_percent} %, "
    own = f", its own {_gib(use.by_process[pid])}" if pid in use.by_process else ""
    return f"GPU {index} ({busy}{_gib(use.used_mib)} of {_gib(use.total_mib)} GiB{own})"


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"
