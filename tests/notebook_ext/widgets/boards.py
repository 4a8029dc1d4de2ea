"""States of a broker, as it would tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel_worker.model import CallId, HostResources, PoolId, PoolSettings, WorkerId
from kernel_worker.wire import messages

NOW = 1_000.0


def pool(name: str, **fields: Any) -> messages.PoolStatus:
    """Return a pool of a function of the app `demo`."""
    given: dict[str, Any] = {
        "pool": PoolId(f"po-{name}"),
        "key": f"me/demo/{name}",
        "name": name,
        "superseded": False,
        "settings": PoolSettings(),
        "backlog": 0,
        "running": 0,
        "idle": 0,
        "busy": 1,
        "starting": 0,
    }
    return messages.PoolStatus(**(given | fields))


def worker(number: int, name: str, state: str = "busy", **fields: Any) -> messages.WorkerStatus:
    """Return a worker of the pool of `name`."""
    given: dict[str, Any] = {
        "worker": WorkerId(f"ta-i-{number}"),
        "pool": PoolId(f"po-{name}"),
        "host": "ho-1",
        "pid": 100 + number,
        "state": state,
        "start": "forked",
        "since": NOW - 5,
    }
    return messages.WorkerStatus(**(given | fields))


def call(number: int, name: str, **fields: Any) -> messages.CallInfo:
    """Return a call of 10 inputs, of which 4 are done."""
    given: dict[str, Any] = {
        "call": CallId(f"fc-{number}"),
        "name": name,
        "attached": False,
        "closed": True,
        "total": 10,
        "pending": 5,
        "running": 1,
        "succeeded": 4,
        "failed": 0,
        "cancelled": 0,
        "app": "demo",
        "submitted_at": NOW - 60,
    }
    return messages.CallInfo(**(given | fields))


def status(
    pools: Sequence[messages.PoolStatus] = (), workers: Sequence[messages.WorkerStatus] = ()
) -> messages.Status:
    """Return a broker with one host."""
    host = messages.HostStatus("ho-1", "machine", 7, HostResources(8.0, 32 << 10), 3.0)
    return messages.Status("i", 42, "1.2", NOW - 100, 1, [host], list(pools), list(workers), [])
