"""How the broker stands as rows, by section and key, and which of them changed since the last look.

A view keeps the same rows (`panel.js`): it hears changed rows and keys that are gone. Of each pool
two minutes of its past are kept, for the pages that come later.

Nothing here knows of widgets or asks anybody.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.model import FunctionKey, app_of
from notebook_ext.widgets.device_use import of_host
from notebook_ext.widgets.status import matters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kernel_worker.wire.messages import (
        CallInfo,
        HostStatus,
        PoolStatus,
        ScheduleInfo,
        Status,
        WorkerStatus,
    )

    UsedMib = Callable[[WorkerStatus], int | None]
    """Tells how much memory a worker uses, in MiB."""
    Devices = Callable[[WorkerStatus], str]
    """Tells which devices a worker has, and what they do."""

Rows = dict[str, dict[str, dict[str, Any]]]
"""Section to key to row; a row has its key as `id`."""

HISTORY_SECONDS: Final = 120.0
RECENT_CALLS: Final = 30


@dataclass(frozen=True, slots=True)
class Change:
    """What a view must hear."""

    changed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By section: rows that are new or have changed."""
    gone: dict[str, list[str]] = field(default_factory=dict)
    """By section: keys of rows that are not there any more."""
    samples: dict[str, list[Sequence[float]]] = field(default_factory=dict)
    """By pool: (at, busy, idle, starting, backlog), the oldest first."""


class Board:
    """The rows, and the past of each pool."""

    def __init__(self, shows: Callable[[PoolStatus], bool] | None = None) -> None:
        """Start with no rows.

        Args:
            shows: which pools are shown, and their workers; None: those that have workers, or want
                some, and hosts and calls too.
        """
        self._shows = shows
        self._rows: Rows = {}
        self._past: dict[str, deque[Sequence[float]]] = {}

    def rows(self, section: str) -> list[dict[str, Any]]:
        """Return the rows of a section."""
        return list(self._rows.get(section, {}).values())

    def past(self, pool: str) -> list[Sequence[float]]:
        """Return what is known of a pool's past; see `Change.samples`."""
        return list(self._past.get(pool, ()))

    def take(
        self,
        status: Status,
        calls: Sequence[CallInfo],
        used_mib: UsedMib,
        devices: Devices,
        now: float,
    ) -> Change:
        """Take in how the broker stands `now` (Unix seconds); return what changed."""
        before, self._rows = self._rows, self._made(status, calls, used_mib, devices)
        pools = self._rows["pools"]
        samples = {key: [_sample(row, now)] for key, row in pools.items()}
        for key in self._past.keys() - pools.keys():
            del self._past[key]
        for key, added in samples.items():
            past = self._past.setdefault(key, deque())
            past.extend(added)
            while past[0][0] < now - HISTORY_SECONDS:
                past.popleft()
        changed, gone = _differences(before, self._rows)
        return Change(changed, gone, samples)

    def whole(self) -> Change:
        """Return what a view must hear that knows nothing."""
        changed, _ = _differences({}, self._rows)
        return Change(changed, {}, {key: list(past) for key, past in self._past.items()})

    def _made(
        self, status: Status, calls: Sequence[CallInfo], used_mib: UsedMib, devices: Devices
    ) -> Rows:
        shows = matters if self._shows is None else self._shows
        pools = [pool for pool in status.pools if shows(pool)]
        shown = {pool.pool for pool in pools}
        workers = [worker for worker in status.workers if worker.pool in shown]
        cores = sum(host.resources.cpu for host in status.hosts)
        rows = {
            "broker": _keyed([_broker(status)]),
            "pools": _keyed(_pool(pool, int(cores)) for pool in pools),
            "workers": _keyed(_worker(each, used_mib(each), devices(each)) for each in workers),
        }
        if self._shows is None:
            running = Counter(worker.host for worker in status.workers)
            rows["hosts"] = _keyed(_host(host, running[host.host]) for host in status.hosts)
            rows["schedules"] = _keyed(_schedule(each) for each in status.schedules)
            rows["calls"] = _keyed(_call(call) for call in calls[:RECENT_CALLS])
        return rows


def _keyed(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def _differences(
    before: Rows, now: Rows
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
    changed, gone = {}, {}
    for section, rows in now.items():
        known = before.get(section, {})
        if new := [row for key, row in rows.items() if known.get(key) != row]:
            changed[section] = new
        if old := [key for key in known if key not in rows]:
            gone[section] = old
    return changed, gone


def _sample(pool: dict[str, Any], now: float) -> Sequence[float]:
    return (round(now, 2), pool["busy"], pool["idle"], pool["starting"], pool["backlog"])


def _broker(status: Status) -> dict[str, Any]:
    return {
        "id": "broker",
        "version": status.version,
        "pid": status.pid,
        "started": status.started_at,
        "clients": status.clients,
    }


def _host(host: HostStatus, workers: int) -> dict[str, Any]:
    return {
        "id": host.host,
        "state": host.state,
        "cores": host.resources.cpu,
        "used": host.cpu_used,
        "memory": f"{host.resources.memory_mib / 1024:.0f} GiB",
        "devices": of_host(host),
        "workers": workers,
    }


def _pool(pool: PoolStatus, cores: int) -> dict[str, Any]:
    settings = pool.settings
    return {
        "id": pool.pool,
        "name": pool.name,
        "app": app_of(FunctionKey(pool.key)),
        "old": pool.superseded,
        "min": settings.min_containers,
        "max": settings.max_containers,
        "buffer": settings.buffer_containers,
        "backlog": pool.backlog,
        "running": pool.running,
        "busy": pool.busy,
        "idle": pool.idle,
        "starting": pool.starting,
        "waiting": pool.waiting_for,
        "capacity": cores,
    }


def _worker(worker: WorkerStatus, used_mib: int | None, devices: str) -> dict[str, Any]:
    return {
        "id": worker.worker,
        "pool": worker.pool,
        "host": worker.host,
        "state": worker.state,
        "pid": worker.pid,
        "start": worker.start,
        "since": worker.since,
        "memory": used_mib,
        "devices": devices,
    }


def _schedule(schedule: ScheduleInfo) -> dict[str, Any]:
    return {
        "id": f"{schedule.app}/{schedule.name}",
        "name": schedule.name,
        "app": schedule.app,
        "schedule": schedule.schedule,
        "next": schedule.next_at,
    }


def _call(call: CallInfo) -> dict[str, Any]:
    return {
        "id": call.call,
        "name": call.name,
        "state": call.status,
        "total": call.total,
        "succeeded": call.succeeded,
        "running": call.running,
        "failed": call.failed,
        "cancelled": call.cancelled,
        "made": call.submitted_at,
        "ended": call.ended_at,
    }
