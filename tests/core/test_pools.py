"""How many workers a pool should have, and which it counts."""

from __future__ import annotations

import pytest

from kernel_worker.core.hosts import Host
from kernel_worker.core.pools import (
    FIRST_BACK_OFF_SECONDS,
    MAX_BACK_OFF_SECONDS,
    START_WORTH_SECONDS,
    Condition,
    Pool,
    Worker,
    desired_workers,
)
from kernel_worker.model import ClientId, HostId, PoolSettings, WorkerId
from tests.core.simulation import make_resources, make_spec

NOW = 100.0


def made(**settings: int) -> Pool:
    spec = make_spec(settings=PoolSettings(**settings))
    pool = Pool(spec.pool, spec, spec.settings)
    pool.owners.add(ClientId("cl-1"))
    return pool


@pytest.mark.parametrize(
    ("settings", "backlog", "slots", "wanted"),
    [
        ({}, 0, 2, 0),
        ({}, 100, 2, 2),
        ({"max_containers": 1}, 100, 2, 1),
        ({"min_containers": 3}, 0, 2, 3),
        ({"min_containers": 3, "max_containers": 2}, 0, 2, 2),
        ({"buffer_containers": 1}, 100, 2, 2),
    ],
)
def test_desired_workers(settings: dict[str, int], backlog: int, slots: int, wanted: int) -> None:
    pool = made(**settings)
    pool.backlog = backlog
    assert desired_workers(pool, slots, NOW) == wanted


def test_demand_starts_no_worker_that_would_find_too_little() -> None:
    pool = made()
    pool.backlog = 1_000
    assert pool.demand() == 1_000
    pool.seconds_per_input = START_WORTH_SECONDS / 500
    assert pool.demand() == 2
    pool.seconds_per_input = 0.0
    assert pool.demand() == 1


def test_a_floor_is_kept_for_owners_and_a_while_beyond_them() -> None:
    pool = made(min_containers=2)
    assert pool.floor(NOW) == 2
    pool.owners.clear()
    assert pool.floor(NOW) == 0
    pool.floor_until = NOW + 1
    assert (pool.floor(NOW), pool.floor(NOW + 1)) == (2, 0)
    pool.owners.add(ClientId("cl-1"))
    pool.broken = True
    assert pool.floor(NOW) == 0
    pool.broken, pool.superseded = False, True
    assert (pool.floor(NOW), pool.kept(NOW)) == (0, 0)


def test_back_off_doubles_up_to_its_end() -> None:
    pool = made()
    delays = []
    for _ in range(20):
        pool.note_start_failure(NOW)
        delays.append(pool.retry_start_at - NOW)
    assert delays[:3] == pytest.approx([FIRST_BACK_OFF_SECONDS * factor for factor in (1, 2, 4)])
    assert delays[-1] == pytest.approx(MAX_BACK_OFF_SECONDS)


def test_workers_are_counted_by_what_they_are_up_to() -> None:
    pool = made()
    host = Host(HostId("ho-1"), make_resources())
    for number, condition in enumerate(Condition):
        worker = Worker(WorkerId(f"ta-{number}"), pool, host, (), NOW, condition)
        pool.workers[worker.id] = worker
        pool.file(worker)
    assert [pool.count(condition) for condition in Condition] == [1] * len(Condition)
    assert (pool.unblocked, pool.spare, pool.alive) == (3, 2, 5)
    for worker in list(pool.workers.values()):
        pool.unfile(worker)
    assert pool.unblocked == 0
