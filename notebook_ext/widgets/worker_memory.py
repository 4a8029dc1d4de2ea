"""How much memory the workers of this machine use: what is their own, not shared with a template.

Read from /proc, at most once in some seconds for each worker: what is proportionally a process's
takes the system a millisecond to add up. Of a worker on another machine it is not known here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker import rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.wire.messages import HostStatus, WorkerStatus

AGE_SECONDS: Final = 2.0
MOST_READ: Final = 100
"""So many workers are read in one look; the others keep what was read before."""


class WorkerMemory:
    """The memory of workers, as it was read last."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._read: dict[int, tuple[float, int | None]] = {}
        self._here: set[str] = set()
        self._left = MOST_READ

    def begin(self, hosts: Iterable[HostStatus], workers: Iterable[WorkerStatus]) -> None:
        """Prepare for a look at these workers of these hosts."""
        machine = rendezvous.machine_id()
        self._here = {host.host for host in hosts if host.machine == machine}
        self._left = MOST_READ
        pids = {worker.pid for worker in workers}
        self._read = {pid: read for pid, read in self._read.items() if pid in pids}

    def used_mib(self, worker: WorkerStatus) -> int | None:
        """Return what a worker uses, or None where that is not known."""
        if not worker.pid or worker.host not in self._here:
            return None
        now = time.monotonic()
        read_at, used = self._read.get(worker.pid, (-AGE_SECONDS, None))
        if now < read_at + AGE_SECONDS or not self._left:
            return used
        self._left -= 1
        used = proportional_mib(worker.pid)
        self._read[worker.pid] = now, used
        return used


def proportional_mib(pid: int) -> int | None:
    """Return the memory of a process in MiB, where it shares its share; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return kib >> 10
