"""How inputs end, are tried again and are reported."""

from __future__ import annotations

from typing import Any

import pytest

from kernel_worker.core import effects, events
from kernel_worker.model import (
    CallId,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    RetryPolicy,
    WorkerId,
)
from tests.core.simulation import CLIENT, Simulation, make_resources, make_spec


def test_a_failure_is_retried_as_the_policy_says() -> None:
    simulation = Simulation()
    spec = make_spec(retries=RetryPolicy(3, 2.0, 1.0, 60.0))
    pool = simulation.define(spec, lambda _c, _i, attempt: "fail" if attempt < 3 else 0.01)
    call = simulation.submit(pool, 2)
    assert simulation.run_call(call) == pytest.approx(3.0, abs=0.1)
    assert simulation.outcomes(call) == {"SUCCEEDED": 2}
    grants = [e for e in simulation.log if isinstance(e, effects.GrantLease)]
    assert sorted(e.attempt for e in grants) == [1, 1, 2, 2, 3, 3]
    assert {e.stop - e.start for e in grants} == {1}


def test_retries_end_with_the_last_exception() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(retries=RetryPolicy(2, 1.0, 0.0)), lambda *_: "fail")
    call = simulation.submit(pool, 1)
    simulation.run_call(call)
    end = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert (end.outcome, end.attempt, end.has_payload) == (Outcome.FAILED, 3, True)


def test_a_failure_in_a_batch_leaves_its_neighbours_alone() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, i, _a: "fail" if i % 100 == 50 else 0.0001)
    call = simulation.submit(pool, 1_000)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 990, "FAILED": 10}


def held_lease(simulation: Simulation) -> effects.GrantLease:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]


def lease_of_many() -> tuple[Simulation, effects.GrantLease]:
    """Let a worker hold inputs of which it has answered none."""
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.0001)
    simulation.submit(pool, 1_000)
    simulation.run(
        until=lambda: any(
            isinstance(e, effects.GrantLease) and e.stop - e.start > 4 for e in simulation.log
        )
    )
    lease = held_lease(simulation)
    for worker in simulation.workers.values():
        worker.token += 1
        worker.dead = True  # from here on the test answers
    return simulation, lease


def reported(simulation: Simulation, lease: effects.GrantLease) -> list[int]:
    known = simulation.history.reported[lease.call]
    return [index for index in range(lease.start, lease.stop) if index in known]


def test_late_repeated_and_foreign_answers_are_dropped() -> None:
    simulation, lease = lease_of_many()
    worker, number, start = lease.worker, lease.lease, lease.start
    simulation.feed(events.RangeSucceeded(worker, number, start, 2, 0.1))
    simulation.feed(events.RangeSucceeded(worker, number, start, 3, 0.1))
    before = len(simulation.log)
    simulation.feed(events.RangeSucceeded(worker, number, start, 2, 0.1))
    simulation.feed(events.InputEnded(worker, number, start, Outcome.FAILED, 0.1))
    simulation.feed(events.InputEnded(worker, number, start + 3, Outcome.SUCCEEDED, 0.1))
    simulation.feed(events.InputEnded(worker, LeaseId(99_999), 0, Outcome.FAILED, 0.1))
    simulation.feed(events.InputsReturned(worker, LeaseId(99_999), 0, 1))
    simulation.feed(events.InputsReturned(worker, number, start + 3, start + 3))
    assert simulation.log[before:] == []
    assert reported(simulation, lease) == [start, start + 1, start + 2]
    ranges = [e for e in simulation.log if isinstance(e, effects.ReportRange)][-2:]
    assert [(e.start, e.stop, e.first) for e in ranges] == [
        (start, start + 2, start),
        (start + 2, start + 3, start),
    ]


def test_what_a_worker_skipped_waits_again() -> None:
    simulation, lease = lease_of_many()
    simulation.feed(events.RangeSucceeded(lease.worker, lease.lease, lease.start + 2, 1, 0.1))
    assert reported(simulation, lease) == [lease.start + 2]
    info = simulation.core.call_info(CallId("fc-1"))
    assert info is not None
    assert info.total == 1_000


def test_returned_inputs_go_before_all_others() -> None:
    simulation, lease = lease_of_many()
    simulation.feed(events.InputsReturned(lease.worker, lease.lease, lease.start + 1, lease.stop))
    simulation.feed(events.InputsReturned(lease.worker, lease.lease, lease.start, lease.start + 1))
    again = held_lease(simulation)
    assert again.lease != lease.lease
    assert again.start in {lease.start, lease.start + 1}


def test_an_input_that_cannot_be_set_up_ends_with_its_exception() -> None:
    simulation, lease = lease_of_many()
    simulation.feed(
        events.InputEnded(lease.worker, lease.lease, lease.start, Outcome.INIT_FAILED, 0.0)
    )
    end = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert (end.outcome, end.has_payload) == (Outcome.INIT_FAILED, True)


def test_retries_that_are_due_later_wait_on() -> None:
    simulation = Simulation(make_resources(1))

    def behaviour(_call: CallId, index: int, attempt: int) -> float | str:
        return (0.5 if index == 1 else "fail") if attempt == 1 else 0.01

    pool = simulation.define(make_spec(retries=RetryPolicy(1, 1.0, 1.0)), behaviour)
    call = simulation.submit(pool, 3)
    assert simulation.run_call(call) == pytest.approx(1.5, abs=0.1)
    assert simulation.outcomes(call) == {"SUCCEEDED": 3}


def test_a_time_out_ends_what_the_input_waits_for_and_not_what_it_spawned() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    parent = ParentInput(call, 0, 1, grant.worker, grant.lease)
    attached, spawned = CallId("fc-attached"), CallId("fc-spawned")
    other = simulation.define(make_spec("g", settings=PoolSettings(max_containers=1)), 60.0)
    simulation.submit(other, 1)
    for child in (attached, spawned):
        made = events.CallSubmitted(
            CLIENT, child, other, child == attached, 1, closed=True, parent=parent
        )
        simulation.feed(made)
    late = events.InputEnded(grant.worker, grant.lease, 0, Outcome.TIMED_OUT, 10.0)
    simulation.feed(late)
    assert simulation.outcomes(attached) == {"CANCELLED": 1}
    assert not simulation.outcomes(spawned)


def leases_of(simulation: Simulation, call: CallId) -> list[effects.GrantLease]:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease) and e.call == call]


def state_of(simulation: Simulation, worker: WorkerId) -> str:
    return next(v.state for v in simulation.core.status().workers if v.worker == worker)


def parked(simulation: Simulation, lease: effects.GrantLease) -> None:
    """Answer a lease as a worker does that keeps the frames of what failed."""
    fake = simulation.workers.get(lease.worker)
    if fake is not None:
        fake.token += 1  # from here on the test answers
        fake.leases.clear()
    simulation.feed(
        events.InputEnded(lease.worker, lease.lease, lease.start, Outcome.FAILED, 0.01, parks=True)
    )


def left(simulation: Simulation, lease: effects.GrantLease) -> None:
    simulation.feed(events.InputLeft(lease.worker, lease.lease))


def released(simulation: Simulation) -> list[WorkerId]:
    return [e.worker for e in simulation.log if isinstance(e, effects.ReleaseWorker)]


def hanging(settings: PoolSettings | None = None, **options: Any) -> tuple[Simulation, PoolId]:
    simulation = Simulation(make_resources(2))
    spec = make_spec(settings=settings or PoolSettings(), **options)
    return simulation, simulation.define(spec, lambda *_: "hang")


def test_a_parked_worker_gets_nothing_and_holds_no_core_and_no_place() -> None:
    simulation, pool = hanging(PoolSettings(max_containers=1))
    first, second = simulation.submit(pool, 1), simulation.submit(pool, 1)
    simulation.run(0.1)
    (lease,) = leases_of(simulation, first)
    parked(simulation, lease)
    assert state_of(simulation, lease.worker) == "parked"
    assert simulation.outcomes(first) == {"FAILED": 1}
    simulation.run(0.1)
    (other,) = leases_of(simulation, second)
    assert other.worker != lease.worker, "it counts neither against the ceiling nor the cores"
    left(simulation, lease)
    assert state_of(simulation, lease.worker) == "idle"


def test_of_a_call_the_first_failure_is_kept_and_a_later_calls_takes_its_place() -> None:
    simulation, pool = hanging()
    call = simulation.submit(pool, 2)
    simulation.run(0.1)
    first, second = leases_of(simulation, call)
    parked(simulation, first)
    parked(simulation, second)
    assert released(simulation) == [second.worker]
    left(simulation, second)
    later = simulation.submit(pool, 1)
    simulation.run(0.1)
    (third,) = leases_of(simulation, later)
    parked(simulation, third)
    assert released(simulation) == [second.worker, first.worker]


def test_a_parked_worker_that_was_for_one_input_stops_when_it_has_left() -> None:
    simulation, pool = hanging(single_use=True)
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    (lease,) = leases_of(simulation, call)
    parked(simulation, lease)
    assert state_of(simulation, lease.worker) == "parked"
    left(simulation, lease)
    assert state_of(simulation, lease.worker) == "stopping"


def test_a_worker_that_parks_when_its_lease_is_gone_is_parked_too() -> None:
    simulation, pool = hanging()
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    (lease,) = leases_of(simulation, call)
    ended = events.InputEnded(lease.worker, lease.lease, 0, Outcome.CANCELLED, 0.0)
    simulation.feed(ended)
    parked(simulation, lease)
    assert state_of(simulation, lease.worker) == "parked"
    nobody = events.InputEnded(WorkerId("ta-x"), lease.lease, 0, Outcome.FAILED, 0.0, parks=True)
    simulation.feed(nobody)
    left(simulation, lease)
    assert state_of(simulation, lease.worker) == "idle"
