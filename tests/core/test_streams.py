"""Generators: items are reported in order and once; one that gave any never runs again."""

from __future__ import annotations

import pytest

from kernel_worker import records
from kernel_worker.core import effects, events, invariants
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallContext,
    CallId,
    Digest,
    LeaseId,
    Outcome,
    ParentInput,
    RetryPolicy,
    WorkerId,
)
from tests.core.simulation import CLIENT, Simulation, make_resources, make_spec

NEVER = 1_000.0


def streaming(
    *, attached: bool = True, rerun_on_crash: bool = True, cpu: float = 1.0
) -> tuple[Simulation, effects.GrantLease]:
    """Let a worker have begun a generator; what it gives, the test says."""
    simulation = Simulation(make_resources(cpu))
    pool = simulation.define(
        make_spec(retries=RetryPolicy(3, 1.0, 0.0), rerun_on_crash=rerun_on_crash),
        lambda *_: NEVER,
    )
    call = simulation._new_call()
    simulation.pool_of[call], simulation.left[call] = pool, 1
    simulation.feed(
        events.CallSubmitted(CLIENT, call, pool, attached, 1, closed=True, streams=True)
    )
    simulation.run(1, until=lambda: bool(grants(simulation)))
    return simulation, grants(simulation)[-1]


def grants(simulation: Simulation) -> list[effects.GrantLease]:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease)]


def give(simulation: Simulation, lease: effects.GrantLease, start: int, count: int) -> None:
    simulation.feed(events.ItemsYielded(lease.worker, lease.lease, 0, start, count))


def reported(simulation: Simulation) -> list[tuple[int, int]]:
    found = [e for e in simulation.log if isinstance(e, effects.ReportItems)]
    return [(e.start, e.count) for e in found]


def ends(simulation: Simulation) -> list[effects.ReportEnd]:
    return [e for e in simulation.log if isinstance(e, effects.ReportEnd)]


def die(simulation: Simulation, lease: effects.GrantLease, position: int = 0) -> None:
    in_lease = lease.lease if position >= 0 else LeaseId(0)
    simulation.workers[lease.worker].dead = True
    simulation.feed(events.WorkerExited(lease.worker, "killed by SIGKILL", in_lease, position))


def test_items_are_reported_in_order_and_once() -> None:
    simulation, lease = streaming()
    give(simulation, lease, 0, 1)
    give(simulation, lease, 1, 10)
    give(simulation, lease, 1, 10)
    give(simulation, lease, 12, 1)
    give(simulation, lease, 11, 0)
    simulation.feed(events.ItemsYielded(lease.worker, LeaseId(99), 0, 11, 1))
    simulation.feed(events.ItemsYielded(WorkerId("ta-none"), lease.lease, 0, 11, 1))
    simulation.feed(events.ItemsYielded(lease.worker, lease.lease, 1, 0, 1))
    assert reported(simulation) == [(0, 1), (1, 10)]
    simulation.feed(events.RangeSucceeded(lease.worker, lease.lease, 0, 1, 0.1))
    assert simulation.outcomes(lease.call) == {"SUCCEEDED": 1}
    give(simulation, lease, 11, 1)
    assert reported(simulation) == [(0, 1), (1, 10)]


def test_items_that_went_by_the_line_of_an_attached_call_count() -> None:
    simulation, lease = streaming()
    give(simulation, lease, 0, 1)
    who = lease.worker, lease.lease, 0
    simulation.feed(events.ItemsYielded(*who, 1, 5, line_of=CallId("fc-another")))
    simulation.feed(events.ItemsYielded(*who, 1, 10, line_of=lease.call))
    assert reported(simulation) == [(0, 1), (1, 10)]
    die(simulation, lease)
    assert "had given 11 items when" in ends(simulation)[0].message


def test_items_of_a_spawned_call_go_by_no_line() -> None:
    simulation, lease = streaming(attached=False)
    give(simulation, lease, 0, 1)
    simulation.feed(events.ItemsYielded(lease.worker, lease.lease, 0, 1, 5, line_of=lease.call))
    assert reported(simulation) == [(0, 1)]


def test_a_call_that_does_not_stream_gives_no_items() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: NEVER)
    simulation.submit(pool, 1)
    simulation.run(1, until=lambda: bool(grants(simulation)))
    (lease,) = grants(simulation)
    give(simulation, lease, 0, 1)
    simulation.feed(events.ProducerPaused(lease.worker, lease.lease))
    assert reported(simulation) == []


def test_items_of_a_spawned_generator_are_recorded_before_they_are_told() -> None:
    simulation, lease = streaming(attached=False)
    give(simulation, lease, 0, 3)
    kept = records.ItemsYielded(lease.call, 0, 0, 3)
    at = simulation.log.index(effects.Record(kept))
    assert isinstance(simulation.log[at + 1], effects.ReportItems)


def test_one_whose_worker_died_before_the_first_item_runs_again() -> None:
    simulation, lease = streaming()
    die(simulation, lease)
    simulation.run(1, until=lambda: len(grants(simulation)) == 2)
    again = grants(simulation)[-1]
    assert (again.call, again.attempt) == (lease.call, 2)
    give(simulation, again, 0, 1)
    assert reported(simulation) == [(0, 1)]


@pytest.mark.parametrize("position", [0, -1], ids=["running", "waiting to be read"])
def test_one_whose_worker_died_after_an_item_fails(position: int) -> None:
    simulation, lease = streaming()
    give(simulation, lease, 0, 2)
    die(simulation, lease, position)
    (end,) = ends(simulation)
    assert end.outcome is Outcome.LOST
    assert "had given 2 items when its worker died under it (killed by SIGKILL)" in end.message
    assert lease.call in simulation.finished_at


def test_one_item_is_one_item() -> None:
    simulation, lease = streaming(rerun_on_crash=False)
    give(simulation, lease, 0, 1)
    die(simulation, lease)
    assert "had given 1 item when" in ends(simulation)[0].message


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_one_that_gave_items_is_not_retried(outcome: Outcome) -> None:
    simulation, lease = streaming()
    give(simulation, lease, 0, 1)
    simulation.feed(events.InputEnded(lease.worker, lease.lease, 0, outcome, 0.1))
    assert [end.outcome for end in ends(simulation)] == [outcome]


def test_one_that_was_killed_over_its_limit_has_timed_out() -> None:
    simulation, lease = streaming()
    give(simulation, lease, 0, 1)
    gone = events.WorkerExited(lease.worker, "killed", lease.lease, 0, timed_out=True)
    simulation.workers[lease.worker].dead = True
    simulation.feed(gone)
    assert [end.outcome for end in ends(simulation)] == [Outcome.TIMED_OUT]


def test_a_paused_generator_gives_its_slot_up_until_it_is_read() -> None:
    simulation, lease = streaming(cpu=1.0)
    other = simulation.define(make_spec("g"), 0.01)
    call = simulation.submit(other, 1)
    simulation.run(0.5)
    assert call not in simulation.finished_at
    simulation.feed(events.ProducerPaused(lease.worker, LeaseId(99)))
    simulation.feed(events.ProducerPaused(lease.worker, lease.lease))
    assert simulation.run_call(call) < 1
    worker = simulation.core._state.workers[lease.worker]
    assert worker.condition.name == "BLOCKED"
    simulation.feed(events.ProducerResumed(lease.worker, LeaseId(99)))
    assert worker.condition.name == "BLOCKED"
    simulation.feed(events.ProducerResumed(WorkerId("ta-none"), lease.lease))
    simulation.feed(events.ProducerResumed(lease.worker, lease.lease))
    assert worker.condition.name == "BUSY"
    simulation.feed(events.ProducerPaused(lease.worker, lease.lease))
    simulation.feed(events.RangeSucceeded(lease.worker, lease.lease, 0, 1, 0.1))
    assert (worker.condition.name, worker.paused) == ("IDLE", None)


def test_who_waits_for_items_runs_on_with_the_first() -> None:
    simulation, lease = streaming(cpu=2.0)
    reader = simulation.define(make_spec("reader"), lambda *_: NEVER)
    outer = simulation.submit(reader, 1)
    simulation.run(1, until=lambda: grants(simulation)[-1].call == outer)
    held = grants(simulation)[-1]
    parent = ParentInput(outer, 0, 1, held.worker, held.lease)
    worker = simulation.core._state.workers[held.worker]
    for start in range(2):
        simulation.feed(events.WorkerBlocked(parent, (lease.call,)))
        assert worker.condition.name == "BLOCKED"
        give(simulation, lease, start, 1)
        assert worker.condition.name == "BUSY"


def test_nothing_waits_behind_a_generator() -> None:
    simulation = Simulation(make_resources(1.0))
    pool = simulation.define(make_spec(), 0.0001)
    simulation.run_call(simulation.submit(pool, 1_000))
    calls = [CallId("fc-90"), CallId("fc-91")]
    for call in calls:
        simulation.feed(
            events.CallSubmitted(CLIENT, call, pool, True, 1, closed=True, streams=True)
        )
    assert [grant.call for grant in grants(simulation)][-1] == calls[0]


def restored(*facts: records.Record) -> tuple[Scheduler, list[effects.Effect]]:
    core = Scheduler("r")
    call = CallId("fc-1")
    begun = (
        records.CallSubmitted(
            call,
            make_spec(),
            snapshot=Digest(""),
            table=Digest(""),
            shared=Digest(""),
            context=CallContext(),
            requires=(),
            nested_specs=(),
            submitted_at=100.0,
            streams=True,
        ),
        records.InputsAdded(call, 0, 1),
        records.InputsClosed(call, 1),
    )
    turn = core.restore((*begun, *facts), 200.0)
    invariants.check(core)
    return core, turn


def test_one_that_had_given_items_ends_when_the_broker_is_back() -> None:
    core, turn = restored(records.ItemsYielded(CallId("fc-1"), 0, 0, 5))
    end = next(e for e in turn if isinstance(e, effects.ReportEnd))
    assert end.outcome is Outcome.LOST
    assert "had given 5 items when the broker died" in end.message
    assert any(isinstance(e, effects.FinishCall) for e in turn)
    assert core.call_info(CallId("fc-1")) is None
    assert isinstance(turn[0], effects.Record)


def test_one_that_was_cancelled_before_the_broker_died_is_cancelled() -> None:
    call = CallId("fc-1")
    _, turn = restored(records.ItemsYielded(call, 0, 0, 5), records.CallCancelled(call))
    end = next(e for e in turn if isinstance(e, effects.ReportEnd))
    assert end.outcome is Outcome.CANCELLED


def test_one_that_had_given_nothing_waits_again_when_the_broker_is_back() -> None:
    core, _ = restored()
    found = core.call_info(CallId("fc-1"))
    assert found is not None
    assert found.pending == 1


def test_the_invariants_see_what_must_not_be() -> None:
    simulation, lease = streaming()
    state = simulation.core._state
    worker = state.workers[lease.worker]
    worker.paused = LeaseId(99)
    state.settle(worker)
    with pytest.raises(invariants.InvariantBroken, match="is paused in 99"):
        invariants.check(simulation.core)
    worker.paused = None
    worker.resumed = True
    state.settle(worker)
    call = state.calls[lease.call]
    call.life(7).items = 2
    call.states.extend_to(8)
    with pytest.raises(invariants.InvariantBroken, match="gave 2 items and does not run"):
        invariants.check(simulation.core)


def test_the_history_sees_what_must_not_be() -> None:
    call = CallId("fc-1")
    one, two = effects.ReportItems(call, 0, 0, 1), effects.ReportItems(call, 0, 2, 1)
    history = invariants.History()
    history.observe([one])
    with pytest.raises(invariants.InvariantBroken, match="out of order"):
        history.observe([two])
    history.observe([effects.ReportRange(call, 0, 1, 0)])
    with pytest.raises(invariants.InvariantBroken, match="after its outcome"):
        history.observe([effects.ReportItems(call, 0, 1, 1)])
    spawned = invariants.History()
    spawned.observe([effects.Record(records.InputsAdded(call, 0, 1))])
    with pytest.raises(invariants.InvariantBroken, match="before their record"):
        spawned.observe([one])
