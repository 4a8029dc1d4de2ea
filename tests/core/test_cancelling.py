"""A cancel is a request: what waits ends at once, what runs is asked."""

from __future__ import annotations

import pytest

from kernel_worker import records
from kernel_worker.core import effects, events
from kernel_worker.core.cancelling import KILL_AFTER_SECONDS
from kernel_worker.core.invariants import check
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallContext,
    CallId,
    ClientId,
    Digest,
    LeaseId,
    Outcome,
    ParentInput,
    RetryPolicy,
    WorkerId,
)
from tests.core.simulation import (
    CLIENT,
    Nested,
    Script,
    Simulation,
    make_resources,
    make_spec,
)


def test_what_waits_ends_as_one_range_and_what_runs_is_interrupted() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    call = simulation.submit(pool, 100)
    simulation.run(0.5)
    simulation.feed(events.CallCancelled(call, terminate=False))
    end = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert (end.index, end.count, end.outcome) == (2, 98, Outcome.CANCELLED)
    assert simulation.run_call(call) < 0.01
    assert simulation.outcomes(call) == {"CANCELLED": 100}
    assert len(simulation.alive(pool)) == 2, "the workers serve the next call"


def test_unstarted_inputs_of_leases_are_cancelled_and_the_running_one_is_found() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, i, _a: 60.0 if i == 777 else 0.0001)
    call = simulation.submit(pool, 2_000)
    simulation.run(1.0)
    simulation.feed(events.CallCancelled(call, terminate=False))
    if call not in simulation.finished_at:
        assert simulation.run_call(call) < 0.01
    assert simulation.outcomes(call)["CANCELLED"] >= 1
    assert sum(simulation.outcomes(call).values()) == 2_000


def test_the_outcome_that_comes_is_the_outcome() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    simulation.feed(events.CallCancelled(call, terminate=False))
    simulation.feed(events.RangeSucceeded(grant.worker, grant.lease, 0, 1, 0.1))
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}


def test_terminate_kills_and_reruns_only_the_others() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), 0.001)
    other = simulation.submit(pool, 300)
    call = simulation.submit(pool, 300)
    simulation.run(0.15)
    simulation.feed(events.CallCancelled(call, terminate=True))
    simulation.run_call(other)
    simulation.run(until=lambda: call in simulation.finished_at)
    assert simulation.outcomes(other) == {"SUCCEEDED": 300}
    assert simulation.outcomes(call)["CANCELLED"] > 100


def test_a_worker_that_heeds_nothing_is_killed() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    worker = simulation.alive(pool)[0]
    worker.leases = []  # it forgets what it holds: no answer, no interrupt
    simulation.feed(events.CallCancelled(call, terminate=False))
    took = simulation.run_call(call)
    assert KILL_AFTER_SECONDS <= took < KILL_AFTER_SECONDS + 1
    assert simulation.outcomes(call) == {"CANCELLED": 1}


def test_delayed_retries_are_cancelled_with_their_attempt() -> None:
    simulation = Simulation()
    spec = make_spec(retries=RetryPolicy(3, 2.0, 10.0))
    pool = simulation.define(spec, lambda *_: "fail")
    call = simulation.submit(pool, 1)
    simulation.run(0.5)
    simulation.feed(events.CallCancelled(call, terminate=False))
    end = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert (end.outcome, end.attempt) == (Outcome.CANCELLED, 2)


def test_inputs_on_their_way_to_a_cancelled_call_are_cancelled_too() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec())
    call = CallId("fc-open")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, True, 5, closed=False))
    simulation.feed(events.CallCancelled(call, terminate=False))
    simulation.feed(events.InputsAdded(call, 5, 5))
    assert simulation.outcomes(call) == {"CANCELLED": 10}
    simulation.run(60)
    assert call in simulation.finished_at


def test_children_are_cancelled_with_the_input_that_made_them() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    parent = ParentInput(call, 0, 1, grant.worker, grant.lease)
    children = [CallId("fc-attached"), CallId("fc-spawned")]
    for child in children:
        attached = child == "fc-attached"
        simulation.feed(
            events.CallSubmitted(CLIENT, child, pool, attached, 1, closed=True, parent=parent)
        )
    simulation.feed(events.CallCancelled(call, terminate=False))
    late = CallId("fc-late")
    simulation.feed(events.CallSubmitted(CLIENT, late, pool, True, 1, closed=True, parent=parent))
    for child in [*children, late]:
        assert simulation.outcomes(child) == {"CANCELLED": 1}


def test_a_lost_client_takes_its_attached_calls_along() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    attached = simulation.submit(pool, 10)
    spawned = simulation.submit(pool, 3, attached=False)
    simulation.run(0.5)
    simulation.feed(events.ClientLost(ClientId("cl-other")))
    assert not simulation.outcomes(attached)
    simulation.feed(events.ClientLost(CLIENT))
    simulation.run_call(spawned)
    assert simulation.outcomes(attached) == {"CANCELLED": 10}
    assert simulation.outcomes(spawned) == {"SUCCEEDED": 3}


def test_cancelling_twice_or_what_is_not_there_changes_nothing() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    simulation.feed(events.CallCancelled(call, terminate=False))
    before = len(simulation.log)
    simulation.feed(events.CallCancelled(call, terminate=False))
    simulation.feed(events.CallCancelled(CallId("fc-nope"), terminate=False))
    assert len(simulation.log) == before


def test_a_restart_knows_what_was_made_inside_which_input() -> None:
    again = Scheduler("again")
    spec = make_spec()
    top, child = CallId("fc-top"), CallId("fc-child")
    parent = ParentInput(top, 0, 1, WorkerId("ta-t-1"), LeaseId(1))
    nothing = Digest("")
    facts: list[records.Record] = []
    for call, above in ((top, None), (child, parent)):
        facts += [
            records.CallSubmitted(
                call, spec, nothing, nothing, nothing, CallContext(), (), (), 1.0, above, top
            ),
            records.InputsAdded(call, 0, 1),
            records.InputsClosed(call, 1),
        ]
    again.restore(facts, 2.0)
    told = again.handle(events.CallCancelled(top, terminate=False), 3.0)
    check(again)
    ended = {effect.call for effect in told if isinstance(effect, effects.ReportEnd)}
    assert ended == {top, child}


def test_a_child_that_is_quicker_than_the_interrupt_of_its_parent_takes_it_along() -> None:
    for cancelled, outcome in ((True, "CANCELLED"), (False, "FAILED")):
        simulation = Simulation()
        pool = simulation.define(make_spec(), lambda *_: "hang")
        call = simulation.submit(pool, 1)
        simulation.run(0.1)
        grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
        if cancelled:
            simulation.feed(events.CallCancelled(call, terminate=False))
        ended = events.InputEnded(
            grant.worker, grant.lease, 0, Outcome.FAILED, 0.1, cancelled_below=True
        )
        simulation.feed(ended)
        assert simulation.outcomes(call) == {outcome: 1}
        report = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
        assert report.has_payload is not cancelled


def test_a_worker_is_asked_for_its_later_lease_before_the_first_is_interrupted() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda _c, index, _a: 1e-5 if index < 3_000 else "hang")
    call = simulation.submit(pool, 60_000)
    held = simulation.core._state.calls[call].leases

    def two_are_held_and_the_first_hangs() -> bool:
        return len(held) == 2 and min(lease.next for lease in held.values()) >= 3_000

    simulation.run(0.5, until=two_are_held_and_the_first_hangs)
    assert len(held) == 2
    first, second = held
    before = len(simulation.log)
    simulation.feed(events.CallCancelled(call, terminate=False))
    asked = [
        (type(effect).__name__, effect.lease)
        for effect in simulation.log[before:]
        if isinstance(effect, effects.TakeBack | effects.Interrupt)
    ]
    assert asked == [("TakeBack", second), ("TakeBack", first), ("Interrupt", first)]


def test_what_a_worker_hands_back_of_a_cancelled_call_needs_no_interrupt() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    simulation.core.handle(events.CallCancelled(call, terminate=False), simulation.now)
    back = events.InputsReturned(grant.worker, grant.lease, grant.start, grant.stop)
    told = simulation.core.handle(back, simulation.now)
    assert [type(effect).__name__ for effect in told] == ["ReportEnd", "FinishCall"]


def test_a_child_that_ends_with_its_parent_is_not_cancelled_again_with_their_client() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    parent = ParentInput(call, 0, 1, grant.worker, grant.lease)
    child = CallId("fc-child")
    simulation.feed(events.CallSubmitted(CLIENT, child, pool, True, 1, closed=True, parent=parent))
    simulation.feed(events.ClientLost(CLIENT))
    assert simulation.outcomes(child) == {"CANCELLED": 1}
    simulation.run(1)
    assert simulation.outcomes(call) == {"CANCELLED": 1}


@pytest.mark.parametrize("attached", [True, False])
def test_whoever_cancels_a_spawned_call_is_told_behind_its_record(attached: bool) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1, attached=attached)
    simulation.run(0.1)
    before = len(simulation.log)
    simulation.feed(events.CallCancelled(call, terminate=False, client=CLIENT))
    later = simulation.log[before:]
    confirmation = effects.ConfirmCancel(CLIENT, call)
    assert (confirmation in later) is not attached
    if not attached:
        record = effects.Record(records.CallCancelled(call))
        assert later.index(record) < later.index(confirmation)
    unknown = CallId("fc-unknown")
    simulation.feed(events.CallCancelled(unknown, terminate=False, client=CLIENT))
    assert simulation.log[-1] == effects.ConfirmCancel(CLIENT, unknown)


def test_a_child_that_is_restored_before_its_parent_can_be_cancelled() -> None:
    again = Scheduler("again")
    nothing = Digest("")
    top, child = CallId("fc-top"), CallId("fc-child")
    parent = ParentInput(top, 0, 1, WorkerId("ta-t-1"), LeaseId(1))
    facts: list[records.Record] = []
    for call, above in ((child, parent), (top, None)):
        facts += [
            records.CallSubmitted(
                call, make_spec(), nothing, nothing, nothing, CallContext(), (), (), 1.0, above, top
            ),
            records.InputsAdded(call, 0, 1),
            records.InputsClosed(call, 1),
        ]
    again.restore(facts, 2.0)
    told = again.handle(events.CallCancelled(child, terminate=False), 3.0)
    check(again)
    assert [effect.call for effect in told if isinstance(effect, effects.FinishCall)] == [child]


def test_an_evicted_worker_hands_back_what_it_has_and_the_rest_runs_elsewhere() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    call = simulation.submit(pool, 2_000)
    simulation.run(0.2)
    evicted = simulation.alive(pool)[0]
    simulation.feed(events.WorkerEvicted(evicted.id))
    views = {view.worker: view.state for view in simulation.core.status().workers}
    assert views[evicted.id] == "stopping"
    simulation.run_call(call)
    assert evicted.dead
    assert simulation.outcomes(call) == {"SUCCEEDED": 2_000}
    assert simulation.effects["Interrupt"] >= 1
    assert simulation.effects["KillWorker"] == 0


def test_an_input_that_was_interrupted_with_its_worker_runs_again_and_no_retry_is_spent() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, _i, attempt: "hang" if attempt == 1 else 0.01)
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    (worker,) = simulation.alive(pool)
    simulation.feed(events.WorkerEvicted(worker.id))
    simulation.feed(events.WorkerEvicted(worker.id))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    assert worker.dead
    assert simulation.effects["Interrupt"] == 1


def test_an_input_that_may_not_run_again_is_lost_with_its_evicted_worker() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(rerun_on_crash=False), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    simulation.feed(events.WorkerEvicted(simulation.alive(pool)[0].id))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"LOST": 1}
    end = next(e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert "stopped by hand" in end.message


def test_idle_and_starting_workers_are_evicted_at_once() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    call = simulation.submit(pool, 1)
    starting = next(e for e in simulation.log if isinstance(e, effects.StartWorker)).worker
    simulation.feed(events.WorkerEvicted(starting))
    assert simulation.effects["KillWorker"] == 1
    simulation.feed(events.WorkerEvicted(starting))
    assert simulation.effects["KillWorker"] == 1, "it is on its way out"
    simulation.run_call(call)
    (idle,) = simulation.alive(pool)
    simulation.feed(events.WorkerEvicted(idle.id))
    assert simulation.effects["StopWorker"] == 1
    simulation.feed(events.WorkerEvicted(WorkerId("ta-nobody")))


def test_an_evicted_worker_that_heeds_nothing_is_killed_and_its_input_runs_again() -> None:
    simulation = Simulation()
    once = ["hang"]
    pool = simulation.define(make_spec(), lambda _c, i, _a: once.pop() if once and i == 0 else 0.01)
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    worker = simulation.alive(pool)[0]
    worker.leases = []  # it forgets what it holds: no answer, no interrupt
    simulation.feed(events.WorkerEvicted(worker.id))
    assert simulation.run_call(call) >= KILL_AFTER_SECONDS
    assert simulation.effects["KillWorker"] == 1
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}


def test_an_input_of_an_evicted_worker_that_waits_for_a_call_makes_it_anew() -> None:
    simulation = Simulation()
    slow = simulation.define(make_spec("slow"), lambda _c, _i, _a: 0.5)

    def outer(_call: CallId, _index: int, _attempt: int) -> Script:
        yield Nested(slow)
        return "succeed"

    pool = simulation.define(make_spec("outer"), outer)
    call = simulation.submit(pool, 1)
    simulation.run(0.2)
    (worker,) = simulation.alive(pool)
    simulation.feed(events.WorkerEvicted(worker.id))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    assert worker.dead


def test_inputs_that_share_an_evicted_worker_all_run_again() -> None:
    simulation = Simulation()
    spec = make_spec(max_inputs=3)
    pool = simulation.define(spec, lambda _c, _i, attempt: "hang" if attempt == 1 else 0.01)
    call = simulation.submit(pool, 3)
    simulation.run(0.1)
    for worker in simulation.alive(pool):
        simulation.feed(events.WorkerEvicted(worker.id))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 3}


def test_a_parked_worker_is_evicted_at_once() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    simulation.submit(pool, 1)
    simulation.run(0.1)
    lease = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    simulation.feed(
        events.InputEnded(lease.worker, lease.lease, 0, Outcome.FAILED, 0.01, parks=True)
    )
    simulation.workers[lease.worker].leases = []
    simulation.feed(events.WorkerEvicted(lease.worker))
    assert simulation.effects["StopWorker"] == 1


def test_what_was_asked_back_for_others_is_asked_back_for_its_end_too() -> None:
    """The first asking lets an input begin that has not; a broker that holds it back must know."""
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    (lease,) = simulation.core._state.calls[call].leases.values()
    lease.asked_back = True
    before = len(simulation.log)
    for _ in range(2):
        simulation.feed(events.CallCancelled(call, terminate=False))
    asked = [each for each in simulation.log[before:] if isinstance(each, effects.TakeBack)]
    assert asked == [effects.TakeBack(lease.worker.id, lease.worker.host.id, lease.id, ends=True)]
