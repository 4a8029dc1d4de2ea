"""Calls come in: accepted, repeated, rejected, restored."""

from __future__ import annotations

from typing import Any

import pytest

from kernel_worker import records
from kernel_worker.core import effects, events
from kernel_worker.core.invariants import check
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallContext,
    CallId,
    ClientId,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    RetryPolicy,
    WorkerId,
)
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec


def facts(simulation: Simulation) -> list[Any]:
    return [e.record for e in simulation.log if isinstance(e, effects.Record)]


def test_a_spawned_call_is_recorded_before_it_is_accepted() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.01)
    before = len(simulation.log)
    simulation.submit(pool, 3, attached=False)
    kinds = [type(getattr(e, "record", e)).__name__ for e in simulation.log[before:]]
    assert kinds[:4] == ["CallSubmitted", "InputsAdded", "InputsClosed", "AcceptCall"]


def test_attached_calls_are_not_recorded() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.01)
    simulation.run_call(simulation.submit(pool, 3))
    assert not facts(simulation)
    assert not simulation.effects["AcceptCall"]


@pytest.mark.parametrize("attached", [True, False])
def test_a_repetition_changes_nothing(attached: bool) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.01)
    call = simulation.submit(pool, 3, attached=attached)
    before = len(simulation.log)
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, attached, 3, closed=True))
    simulation.feed(events.InputsAdded(call, 0, 3))
    simulation.feed(events.InputsClosed(call, 3))
    assert simulation.log[before:] == ([] if attached else [effects.AcceptCall(CLIENT, call)])


def test_an_unknown_pool_is_not_found() -> None:
    simulation = Simulation()
    simulation.submit(PoolId("po-nope"), 1)
    rejected = simulation.log[-1]
    assert isinstance(rejected, effects.RejectCall)
    assert rejected.error == "NotFoundError"


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (Resources(cpu=3), "cpu=3"),
        (Resources(gpu=1), "gpu=1"),
        (Resources(gpu=1, gpu_kind="A100"), "A100"),
        (Resources(memory_mib=10_000), "memory=10000"),
    ],
)
def test_what_no_host_has_is_rejected_with_what_there_is(wanted: Resources, named: str) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(resources=wanted))
    simulation.submit(pool, 1)
    rejected = simulation.log[-1]
    assert isinstance(rejected, effects.RejectCall)
    assert rejected.error == "InvalidError"
    assert named in rejected.message
    assert "2 CPUs, 4000 MiB of memory, no GPU" in rejected.message


def test_before_a_host_is_there_it_is_waited_for() -> None:
    simulation = Simulation()
    simulation.feed(events.HostLost(HOST))
    pool = simulation.define(make_spec(resources=Resources(gpu=1)))
    call = simulation.submit(pool, 2)
    assert not simulation.outcomes(call)
    simulation.feed(events.HostJoined(HOST, make_resources()))
    assert simulation.outcomes(call) == {"INIT_FAILED": 2}


def test_an_empty_call_is_finished_at_once() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec())
    assert simulation.submit(pool, 0) in simulation.finished_at


def test_positions_that_an_old_broker_reported_need_not_come_again() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    call = CallId("fc-rest")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, True, 0, closed=False))
    simulation.feed(events.InputsAdded(call, 700, 10))
    simulation.feed(events.InputsAdded(call, 500, 100))
    simulation.feed(events.InputsAdded(call, 550, 100))
    simulation.feed(events.InputsClosed(call, 1_000))
    simulation.run_call(call)
    reported = simulation.history.reported[call]
    assert sorted(reported) == [*range(500, 600), *range(700, 710)]


def test_a_restart_keeps_outcomes_and_attempts() -> None:
    simulation = Simulation()
    spec = make_spec(retries=RetryPolicy(3, 1.0, 0.1))
    pool = simulation.define(
        spec, lambda _c, index, attempt: "fail" if index == 7 and attempt < 3 else 0.02
    )
    call = simulation.submit(pool, 100, attached=False)
    over = simulation.submit(pool, 2, attached=False)
    simulation.run(until=lambda: simulation.outcomes(call)["SUCCEEDED"] > 50)
    again = Scheduler("again")
    assert again.restore(facts(simulation), 0.0) == [effects.FinishCall(over, (2, 0, 0, 0, 0, 0))]
    check(again)
    info = again.call_info(call)
    assert info is not None
    assert info.succeeded == simulation.outcomes(call)["SUCCEEDED"]
    assert info.pending == 100 - info.succeeded
    assert again.call_info(over) is None
    granted = again.handle(events.HostJoined(HOST, make_resources()), 1.0)
    worker = next(e.worker for e in granted if isinstance(e, effects.StartWorker))
    assert worker.startswith("ta-again-")


def test_a_restart_remembers_failures_and_deaths() -> None:
    spec = make_spec(retries=RetryPolicy(1, 1.0, 0.0))
    call = CallId("fc-1")
    submitted = records.CallSubmitted(
        call, spec, spec.code, spec.code, spec.code, CallContext(), (), (spec,), 0.0
    )
    core = Scheduler("r")
    core.restore(
        [
            submitted,
            submitted,
            records.InputsAdded(call, 0, 4),
            records.InputsClosed(call, 4),
            records.AttemptFailed(call, 1, 1),
            records.AttemptFailed(call, 2, 1, lost=True),
            records.AttemptFailed(call, 2, 2, lost=True),
            records.InputEnded(call, 3, 1, Outcome.TIMED_OUT, 1, ""),
            records.InputsAdded(CallId("fc-unknown"), 0, 4),
        ],
        0.0,
    )
    check(core)
    lives = core._state.calls[call].lives
    assert {i: (life.attempt, life.retries, life.deaths) for i, life in lives.items()} == {
        1: (2, 1, 0),
        2: (3, 0, 2),
    }


def test_a_restart_runs_nothing_twice_that_must_not() -> None:
    """What a worker had when the broker died is lost; what waited, or was to be retried, runs."""
    simulation = Simulation()
    spec = make_spec(rerun_on_crash=False, retries=RetryPolicy(1, 1.0, 0.0))
    behaviour: dict[int, float | str] = {0: 0.01, 1: "hang", 2: "fail"}
    pool = simulation.define(spec, lambda _, index, __: behaviour.get(index, 0.0))
    call = simulation.submit(pool, 3, attached=False)
    simulation.run(0.1)
    leased = [fact for fact in facts(simulation) if isinstance(fact, records.InputsLeased)]
    begun = {fact.start for fact in leased}
    assert {0, 1} <= begun
    for at, effect in enumerate(simulation.log):
        if isinstance(effect, effects.GrantLease):
            before = [getattr(one, "record", None) for one in simulation.log[:at]]
            record = records.InputsLeased(call, effect.start, effect.stop, effect.attempt)
            assert record in before, "the fact is there before the worker hears"
    again = Scheduler("again")
    told = again.restore(facts(simulation), 0.0)
    check(again)
    ended: list[Any] = [e.record for e in told if isinstance(e, effects.Record)]
    assert [(end.index, end.outcome) for end in ended] == [(1, Outcome.LOST)]
    assert "died under it (with the broker), and rerun_on_crash=False" in ended[0].message
    found = again.call_info(call)
    assert found is None or (found.succeeded, found.failed) == (1, 1)


def test_what_failed_and_is_to_be_retried_has_not_begun_again() -> None:
    core = Scheduler("again")
    spec = make_spec(rerun_on_crash=False)
    call = CallId("fc-1")
    submitted = records.CallSubmitted(
        call, spec, spec.code, spec.code, spec.code, CallContext(), (), (), 0.0
    )
    core.restore(
        [
            submitted,
            records.InputsAdded(call, 0, 1),
            records.InputsClosed(call, 1),
            records.InputsLeased(call, 0, 1, 1),
            records.AttemptFailed(call, 0, 1),
        ],
        0.0,
    )
    check(core)
    found = core.call_info(call)
    assert found is not None
    assert (found.pending, found.failed) == (1, 0)


def test_a_restart_runs_nothing_again_of_a_call_that_was_cancelled() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 4, attached=False)
    simulation.run(0.1)
    before = len(facts(simulation))
    simulation.feed(events.CallCancelled(call, terminate=False))
    assert facts(simulation)[before] == records.CallCancelled(call), "before what follows from it"
    again = Scheduler("again")
    told = again.restore(facts(simulation), 0.0)
    check(again)
    ended = [e.record for e in told if isinstance(e, effects.Record)]
    assert ended == [records.InputEnded(call, 0, 2, Outcome.CANCELLED, 1, "")]
    assert told[-1] == effects.FinishCall(call, (0, 0, 4, 0, 0, 0))
    assert again.call_info(call) is None


def test_configuring_what_is_not_there_changes_nothing() -> None:
    simulation = Simulation()
    simulation.feed(events.PoolConfigured(CLIENT, PoolId("po-nope"), min_containers=3))
    assert not simulation.log


def test_a_released_version_ends_with_the_calls_that_it_has() -> None:
    simulation = Simulation()
    keeper = ClientId("keeper")
    spec = make_spec(settings=PoolSettings(min_containers=1))
    simulation.constant[spec.pool] = 5.0
    simulation.feed(events.FunctionDefined(keeper, spec))
    assert not simulation.core.is_idle()
    call = simulation.submit(spec.pool, 1)
    simulation.run(1.0)
    assert len(simulation.alive(spec.pool)) == 1
    simulation.feed(events.FunctionReleased(keeper, spec.pool))
    simulation.feed(events.FunctionReleased(keeper, spec.pool))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    simulation.run(1.0)
    assert simulation.alive(spec.pool) == []
    assert simulation.core.pool_stats(spec.pool) is None


def test_a_derived_version_leaves_the_settings_of_a_known_one() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(max_containers=1))
    simulation.define(spec)
    worker = ClientId("cl-worker")
    changed = make_spec(settings=PoolSettings(max_containers=3))
    simulation.feed(events.FunctionDefined(worker, changed, derived=True))
    counts = simulation.core.pool_stats(spec.pool)
    assert counts is not None
    assert counts.settings.max_containers == 1
    unknown = make_spec("g", settings=PoolSettings(max_containers=2))
    simulation.feed(events.FunctionDefined(worker, unknown, derived=True))
    counts = simulation.core.pool_stats(unknown.pool)
    assert counts is not None
    assert counts.settings.max_containers == 2


def test_a_version_that_another_client_needs_stays_when_it_is_released() -> None:
    simulation = Simulation()
    keeper = ClientId("keeper")
    pool = simulation.define(make_spec())
    simulation.feed(events.FunctionDefined(keeper, make_spec()))
    simulation.feed(events.FunctionReleased(keeper, pool))
    simulation.feed(events.FunctionReleased(keeper, PoolId("po-nope")))
    simulation.run_call(simulation.submit(pool, 1))
    assert simulation.core.status().pools[0].superseded is False


def test_what_a_worker_defines_is_owned_by_nobody() -> None:
    simulation = Simulation()
    spec = make_spec()
    pool = simulation.define(spec, lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    inner = ClientId("cl-inner")
    parent = ParentInput(call, 0, 1, grant.worker, grant.lease)
    child = CallId("fc-child")
    simulation.feed(events.CallSubmitted(inner, child, pool, True, 1, closed=True, parent=parent))
    simulation.feed(events.FunctionDefined(inner, make_spec("g")))
    pools = simulation.core._state.pools
    assert pools[make_spec("g").pool].clients == {inner}
    assert not pools[make_spec("g").pool].owners


def test_whoever_is_gone_configures_and_keeps_nothing_alive() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec())
    gone = ClientId("cl-gone")
    simulation.feed(events.PoolConfigured(gone, pool, max_containers=1))
    known = simulation.core._state.pools[pool]
    assert known.settings.max_containers == 1
    assert gone not in known.clients | known.owners


def test_pools_that_a_call_may_need_are_kept_until_it_is_over() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    nested = [simulation.define(make_spec("g", version)) for version in "12"]
    state, call = simulation.core._state, CallId("fc-nests")
    submitted = events.CallSubmitted(
        CLIENT, call, pool, True, 1, closed=True, pools=(nested[0], PoolId("po-x"))
    )
    simulation.feed(submitted)
    for one in nested:
        simulation.feed(events.FunctionReleased(CLIENT, one))
    assert nested[0] in state.pools
    assert nested[1] not in state.pools
    assert state.pools_of_key[make_spec("g").key] == {nested[0]}
    simulation.feed(events.CallCancelled(call, terminate=True))
    simulation.run(1)
    assert nested[0] not in state.pools


@pytest.mark.parametrize("around", [0, 1, 2])
def test_a_call_that_is_said_to_be_nested_in_itself_is_rejected(around: int) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    calls = [CallId(f"fc-ring-{number}") for number in range(around + 1)]
    for number, call in enumerate(calls):
        above = calls[(number + 1) % len(calls)]
        parent = ParentInput(above, 0, 1, WorkerId("ta-1"), LeaseId(1))
        simulation.feed(
            events.CallSubmitted(CLIENT, call, pool, False, 1, closed=True, parent=parent)
        )
    rejected = [each for each in simulation.log if isinstance(each, effects.RejectCall)]
    assert [(each.call, each.error) for each in rejected] == [(calls[-1], "InvalidError")]
    for call in calls[:-1]:
        assert simulation.core.waited_for(call) == (calls[-2], False)
