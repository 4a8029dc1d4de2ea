"""Who runs what: lease sizes, fairness, taking back."""

from __future__ import annotations

from typing import Any

import pytest

from kernel_worker.core import effects, events, granting
from kernel_worker.model import PoolSettings, Resources
from tests.core.simulation import Simulation, make_resources, make_spec
from tests.counting import counted


def test_a_million_no_ops_are_few_leases() -> None:
    simulation = Simulation(checked=False)
    pool = simulation.define(make_spec(), 5e-7)
    call = simulation.submit(pool, 1_000_000, batch=5_000)
    simulation.run_call(call)
    assert simulation.effects["GrantLease"] < 300
    assert simulation.effects["ReportRange"] < 300
    assert simulation.history.reported == {}  # it was not looked at
    assert simulation.effects["FinishCall"] == 1
    assert max(e.stop - e.start for e in grants(simulation)) <= 5_000


def test_the_first_lease_of_an_unknown_function_is_one_input() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    simulation.submit(pool, 100)
    simulation.run(0.5)
    assert [(e.start, e.stop) for e in grants(simulation)] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("seconds", [0.0001, 0.001, 0.003, 0.05])
def test_equal_inputs_keep_both_workers_busy(seconds: float) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), seconds)
    took = simulation.run_call(simulation.submit(pool, 2_000))
    assert took < 1.1 * (2_000 * seconds / 2) + 0.03


@pytest.mark.parametrize("workers", [2, 8])
def test_a_skewed_map_ends_within_a_tenth_of_ideal(workers: int) -> None:
    simulation = Simulation(make_resources(workers))
    long = 980
    pool = simulation.define(make_spec(), lambda _c, index, _a: 0.5 if index >= long else 0.001)
    took = simulation.run_call(simulation.submit(pool, 1_000))
    rounds = -(-20 // workers)
    ideal = long * 0.001 / workers + rounds * 0.5
    assert took < 1.1 * ideal


def test_unstarted_inputs_are_taken_back_for_an_idle_worker() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, index, _a: 0.5 if 40 < index < 60 else 1e-4)
    call = simulation.submit(pool, 100)
    simulation.run_call(call)
    assert simulation.effects["TakeBack"] > 0
    took = simulation.finished_at[call] - 100.0
    assert took < 0.5 * 10 + 0.6
    assert set(simulation.started.values()) == {1}


def test_calls_of_a_pool_take_turns() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), 0.01)
    long = simulation.submit(pool, 1_000)
    simulation.run(1.0)
    short = simulation.submit(pool, 20)
    assert simulation.run_call(short) < 0.5
    assert long not in simulation.finished_at


def test_pools_that_compete_for_a_cpu_get_the_same_share() -> None:
    simulation = Simulation(make_resources(1))
    first = simulation.define(make_spec("f"), 0.002)
    second = simulation.define(make_spec("g"), 0.02)
    f, g = simulation.submit(first, 10_000), simulation.submit(second, 1_000)
    simulation.run(4.0)
    done = {call: len(simulation.history.reported[call]) for call in (f, g)}
    assert done[f] * 0.002 == pytest.approx(2.0, rel=0.15)
    assert done[g] * 0.02 == pytest.approx(2.0, rel=0.15)


def test_no_more_inputs_run_than_there_are_cpus() -> None:
    simulation = Simulation(make_resources(4))
    pool = simulation.define(make_spec(resources=Resources(cpu=2.0)), 0.1)
    took = simulation.run_call(simulation.submit(pool, 10))
    assert simulation.running_most[pool] == 2
    assert took == pytest.approx(0.5, abs=0.05)


def test_the_ceiling_holds() -> None:
    simulation = Simulation(make_resources(8))
    spec = make_spec(settings=PoolSettings(max_containers=3))
    pool = simulation.define(spec, 0.1)
    simulation.run_call(simulation.submit(pool, 30))
    assert simulation.running_most[pool] == 3
    assert simulation.effects["StartWorker"] == 3


def test_short_leases_are_granted_ahead() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    simulation.submit(pool, 10_000)
    simulation.run(1.0)
    assert any(len(w.leases) == 2 for w in simulation.workers.values())


@pytest.mark.parametrize("waiting", [10, 0.9], ids=["all busy", "some idle"])
def test_an_answer_costs_the_same_however_many_workers_are_busy(
    waiting: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = []
    for workers in (10, 200):
        simulation = Simulation(make_resources(workers), checked=False)
        pool = simulation.define(make_spec(), 1.0)
        simulation.run_call(simulation.submit(pool, 2 * workers))
        simulation.submit(pool, round(waiting * workers))
        simulation.run(0.5)
        answers = calls = 0

        def handle(
            event: Any, now: float, handle: Any = simulation.core.handle
        ) -> list[effects.Effect]:
            nonlocal answers, calls
            found: list[effects.Effect] = []
            answers += isinstance(event, events.RangeSucceeded)
            calls += counted(lambda: found.extend(handle(event, now)))
            return found

        monkeypatch.setattr(simulation.core, "handle", handle)
        simulation.run(1.0)
        costs.append(calls / answers)
    assert costs[1] < 1.2 * costs[0]


def test_nothing_is_granted_ahead_where_a_worker_may_be_parked() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    kept = simulation.submit(pool, 300)
    simulation.core._state.calls[kept].keeps_failed = True
    simulation.run(0.2)
    assert not any(len(w.leases) == 2 for w in simulation.workers.values())


def grants(simulation: Simulation) -> list[effects.GrantLease]:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease)]


def test_an_indivisible_batch_is_not_sent_too_often() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.02)
    call = simulation.submit(pool, 2_000, batch=1_000)
    simulation.run_call(call)
    # The first batch came divisible, the second one whole.
    whole = [e for e in grants(simulation) if e.start >= 1_000]
    assert len(whole) < 120


@pytest.mark.parametrize("max_inputs", [1, 2])
def test_nothing_is_granted_of_a_pool_for_which_nothing_waits(max_inputs: int) -> None:
    simulation = Simulation()
    spec = make_spec(max_inputs=max_inputs, settings=PoolSettings(min_containers=1))
    simulation.define(spec)
    simulation.run(0.1)
    state = simulation.core._state
    state.backlogged[spec.pool] = state.pools[spec.pool]
    granting.grant_all(state)
    assert state.take_effects() == []


def test_a_lease_that_could_not_be_sent_goes_behind_whoever_had_less() -> None:
    simulation = Simulation(make_resources(cpu=1))
    stuck, other = (simulation.define(make_spec(name), 0.001) for name in "fg")
    simulation.run_call(simulation.submit(other, 1))
    simulation.run_call(simulation.submit(stuck, 1))
    simulation.submit(stuck, 1, attached=False)
    grant = simulation.log[-1]
    assert isinstance(grant, effects.GrantLease)
    waiting = simulation.submit(other, 1)
    assert simulation.log[-1] == grant, "there is one CPU"
    simulation.feed(events.InputsReturned(grant.worker, grant.lease, grant.start, grant.stop))
    granted = [e.call for e in simulation.log if isinstance(e, effects.GrantLease)]
    assert granted[-1] == waiting


def test_what_comes_while_nothing_waits_is_granted_at_once_and_owes_as_if_it_had_waited() -> None:
    simulation = Simulation(make_resources(cpu=1))
    long, late = (simulation.define(make_spec(name), 1.0) for name in "fg")
    simulation.run_call(simulation.submit(late, 1))
    simulation.run_call(simulation.submit(long, 5))
    pools, before = simulation.core._state.pools, len(grants(simulation))
    assert pools[late].served_seconds < pools[long].served_seconds
    call = simulation.submit(late, 1)
    assert [grant.call for grant in grants(simulation)[before:]] == [call]
    assert pools[late].served_seconds >= simulation.core._state.virtual_seconds
    second = simulation.submit(late, 1)  # the CPU is taken: it waits
    assert [grant.call for grant in grants(simulation)[before:]] == [call]
    simulation.run_call(second)
