"""How many workers there are."""

from __future__ import annotations

import pytest

from benchmarks import autoscaler
from kernel_worker.core import effects, events
from kernel_worker.core.scaling import MAX_KEPT, STARVED_SECONDS
from kernel_worker.model import ClientId, FunctionSpec, PoolId, PoolSettings, Resources
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec


def stats(simulation: Simulation, pool: str) -> tuple[int, int, int]:
    counts = simulation.core.pool_stats(PoolId(pool))
    assert counts is not None
    return counts[:3]


def configure(simulation: Simulation, pool: str, **changes: int) -> None:
    simulation.feed(events.PoolConfigured(CLIENT, PoolId(pool), **changes))


def test_two_warm_functions_never_keep_a_third_from_running() -> None:
    simulation = Simulation()
    warm = PoolSettings(min_containers=2)
    pools = [simulation.define(make_spec(name, settings=warm), 0.01) for name in "ab"]
    simulation.run(1)
    assert [stats(simulation, pool)[1] for pool in pools] == [2, 2]
    third = simulation.define(make_spec("c"), 0.01)
    assert simulation.run_call(simulation.submit(third, 1)) < 0.03
    assert [stats(simulation, pool)[1] for pool in pools] == [2, 2]


def test_demand_starts_no_more_workers_than_cpus() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.1)
    simulation.submit(pool, 100)
    simulation.run(1)
    assert stats(simulation, pool)[1] == 2
    configure(simulation, pool, min_containers=3, buffer_containers=1)
    assert stats(simulation, pool)[1] == 4


def test_a_floor_beyond_all_measure_starts_a_thousand_workers() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(settings=PoolSettings(min_containers=2**63 - 1)), 0.01)
    assert simulation.effects["StartWorker"] == MAX_KEPT
    configure(simulation, pool, buffer_containers=2**63 - 1)
    simulation.run_call(simulation.submit(pool, 1))
    assert simulation.effects["StartWorker"] <= MAX_KEPT + 2


def test_little_work_starts_one_worker() -> None:
    simulation = Simulation(make_resources(16))
    pool = simulation.define(make_spec(), 0.0001)
    simulation.run_call(simulation.submit(pool, 1))
    simulation.run_call(simulation.submit(pool, 20))
    assert simulation.effects["StartWorker"] <= 2


def test_idle_workers_stop_after_the_window_and_the_floor_stays() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(min_containers=1, scaledown_window_seconds=5))
    pool = simulation.define(spec, 0.1)
    simulation.run_call(simulation.submit(pool, 20))
    assert stats(simulation, pool) == (0, 2, 0)
    simulation.run(4.5)
    assert stats(simulation, pool)[1] == 2
    simulation.run(1)
    assert stats(simulation, pool)[1] == 1
    assert simulation.effects["RetirePool"] < 1
    configure(simulation, pool, min_containers=0)
    simulation.run(6)
    assert stats(simulation, pool)[1] == 0
    assert simulation.effects["RetirePool"] == 1
    assert simulation.core.next_deadline() is None, "nothing wakes an idle broker"


def test_a_new_version_drains_the_old_one() -> None:
    simulation = Simulation()
    warm = PoolSettings(min_containers=1)
    old = simulation.define(make_spec("f", "1", settings=warm), 0.1)
    other = simulation.define(make_spec("g", "1", settings=warm), 0.1)
    call = simulation.submit(old, 20)
    simulation.run(0.3)
    new = simulation.define(make_spec("f", "2", settings=warm), 0.1)
    simulation.run_call(call)
    simulation.run(0.1)
    assert stats(simulation, old)[1] == 0
    assert stats(simulation, new)[1] == 1
    assert stats(simulation, other)[1] == 1
    retired = [e.pool for e in simulation.log if isinstance(e, effects.RetirePool)]
    assert retired == [old]
    simulation.define(make_spec("f", "1", settings=warm), 0.1)
    simulation.run(1)
    assert stats(simulation, old)[1] == 1, "going back is a redefinition too"
    assert stats(simulation, new)[1] == 0


def test_other_options_of_the_same_version_supersede_nothing() -> None:
    simulation = Simulation()
    warm = PoolSettings(min_containers=1)
    spec = make_spec("f", "1", settings=warm)
    first = simulation.define(spec, 0.1)
    variant = FunctionSpec(
        pool=PoolId("po-variant"), key=spec.key, name="f", module="m",
        version=spec.version, code=spec.code, environment=spec.environment, settings=warm,
    )  # fmt: skip
    simulation.define(variant, 0.1)
    simulation.run(1)
    assert stats(simulation, first)[1] == 1


def test_a_floor_outlives_its_client_by_one_window() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(min_containers=2, scaledown_window_seconds=5))
    pool = simulation.define(spec, 0.1)
    simulation.run(1)
    simulation.feed(events.ClientLost(CLIENT))
    simulation.run(4)
    assert len(simulation.alive(pool)) == 2
    assert not simulation.core.is_idle()
    simulation.run(2)
    assert not simulation.alive(pool)
    assert simulation.core.is_idle()
    assert simulation.core.pool_stats(pool) is None


def test_a_restarted_kernel_finds_its_floor() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(min_containers=2, scaledown_window_seconds=5))
    pool = simulation.define(spec, 0.1)
    simulation.run(1)
    simulation.feed(events.ClientLost(CLIENT))
    simulation.run(2)
    again = ClientId("cl-again")
    simulation.feed(events.ClientConnected(again))
    simulation.feed(events.FunctionDefined(again, spec))
    simulation.run(60)
    assert simulation.effects["StartWorker"] == 2
    assert len(simulation.alive(pool)) == 2


def test_a_lowered_ceiling_ends_idle_workers() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.1)
    simulation.run_call(simulation.submit(pool, 20))
    configure(simulation, pool, max_containers=1)
    simulation.run(1)
    assert stats(simulation, pool)[1] == 1


def test_a_single_use_worker_runs_one_input() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(single_use=True), 0.01)
    call = simulation.submit(pool, 6)
    simulation.run_call(call)
    assert simulation.effects["StartWorker"] >= 6
    assert simulation.effects["StopWorker"] == 6
    simulation.run(30)
    assert simulation.effects["RetirePool"] < 1, "the template serves the next call"
    simulation.run(60)
    assert simulation.effects["RetirePool"] == 1


@pytest.mark.parametrize("wanted", [Resources(gpu=1), Resources(memory_mib=3000)])
def test_demand_ends_an_idle_worker_that_stands_in_the_way(wanted: Resources) -> None:
    simulation = Simulation(make_resources(gpus=1))
    warm = PoolSettings(min_containers=1)
    floor = simulation.define(make_spec("floor", resources=wanted, settings=warm), 0.1)
    bystander = simulation.define(make_spec("bystander", settings=warm), 0.1)
    simulation.run(1)
    pool = simulation.define(
        make_spec("g", resources=wanted, settings=PoolSettings(scaledown_window_seconds=3)), 0.1
    )
    assert simulation.run_call(simulation.submit(pool, 1)) < 0.2
    assert stats(simulation, floor)[1] == 0
    assert stats(simulation, bystander)[1] == 1
    simulation.run(5)
    assert stats(simulation, floor)[1] == 1, "the floor is refilled later"


def test_pools_that_compete_for_the_only_device_take_turns() -> None:
    simulation = Simulation(make_resources(gpus=1))
    gpu = Resources(gpu=1)
    first = simulation.define(make_spec("f", resources=gpu), 0.01)
    second = simulation.define(make_spec("g", resources=gpu), 0.01)
    long, short = simulation.submit(first, 3_000), simulation.submit(second, 10)
    assert simulation.run_call(short) < 3
    assert long not in simulation.finished_at
    simulation.run_call(long)
    assert simulation.outcomes(long) == {"SUCCEEDED": 3_000}


def test_fractions_share_a_device() -> None:
    simulation = Simulation(make_resources(gpus=1))
    spec = make_spec(resources=Resources(cpu=0.5, gpu=0.5))
    pool = simulation.define(spec, 0.1)
    simulation.run_call(simulation.submit(pool, 20))
    starts = [e for e in simulation.log if isinstance(e, effects.StartWorker)]
    assert [e.devices for e in starts] == [(0,), (0,)]


def test_nothing_starts_without_a_host() -> None:
    simulation = Simulation()
    simulation.feed(events.HostLost(HOST))
    pool = simulation.define(make_spec(settings=PoolSettings(min_containers=1)), 0.1)
    call = simulation.submit(pool, 1)
    simulation.run(3)
    progress = simulation.core.call_progress(call)
    assert progress is not None
    assert progress.waiting_for == "no host has joined yet"
    simulation.feed(events.HostJoined(HOST, make_resources()))
    simulation.run_call(call)


@pytest.mark.parametrize("buffer", [0, 1])
def test_a_load_that_repeats_within_the_window_starts_workers_once(buffer: int) -> None:
    simulation = Simulation(make_resources(8))
    settings = PoolSettings(buffer_containers=buffer, scaledown_window_seconds=10)
    pool = simulation.define(make_spec(settings=settings), 0.5)
    simulation.submit(pool, 6)
    simulation.run(9)
    started = simulation.effects["StartWorker"]
    for _ in range(20):
        simulation.submit(pool, 6)
        simulation.run(9)
    assert simulation.effects["StartWorker"] == started
    assert simulation.effects["StopWorker"] == 0


def test_settings_that_change_while_it_runs_count_at_once() -> None:
    simulation = Simulation(make_resources(8))
    pool = simulation.define(make_spec(), 0.5)
    simulation.submit(pool, 100)
    simulation.run(2)
    assert stats(simulation, pool)[1] == 8
    configure(simulation, pool, max_containers=3)
    simulation.run(2)
    assert stats(simulation, pool)[1] == 3
    configure(simulation, pool, max_containers=5, buffer_containers=1, scaledown_window_seconds=1)
    simulation.run(2)
    assert stats(simulation, pool)[1] == 5
    simulation.run(20)
    assert stats(simulation, pool)[1] == 0


def test_many_functions_share_two_cores_and_none_starves() -> None:
    simulation = Simulation(make_resources(2, memory_mib=1000), checked=False)
    spec = Resources(memory_mib=100)  # ten workers at most, idle ones included
    pools = [simulation.define(make_spec(f"f{n}", resources=spec), 0.1) for n in range(40)]
    calls = [simulation.submit(pool, 3) for pool in pools]
    begun = simulation.now
    simulation.run(until=lambda: len(simulation.finished_at) == len(calls))
    # 120 inputs of 0.1 s on two cores are 6 s; the starts of 40 workers come on top.
    assert simulation.now - begun < 6 * 1.6
    assert simulation.alive_most <= 10


def test_the_buffer_is_idle_workers_beside_the_busy_ones_as_long_as_they_run() -> None:
    simulation = Simulation(make_resources(4))
    settings = PoolSettings(buffer_containers=1, scaledown_window_seconds=5)
    pool = simulation.define(make_spec(settings=settings), 30)
    for count in (1, 2, 3):
        simulation.submit(pool, 1)
        simulation.run(8)
        assert stats(simulation, pool)[1] == count + 1
    assert simulation.effects["StopWorker"] == 0


def test_an_hour_of_recorded_bursts_breaks_no_invariant() -> None:
    trace = autoscaler.read()
    assert trace == autoscaler.arrivals(), "the file is what the formula makes"
    settings = PoolSettings(buffer_containers=1, scaledown_window_seconds=30)
    figures = autoscaler.replay(trace, settings, start_seconds=0.5, checked=True)
    assert figures.wait_p50 < 0.6
    assert figures.wait_max < 4
    assert figures.worker_seconds < 40_000


@pytest.mark.parametrize("floor", [1, 2])
def test_the_work_of_a_pool_whose_floor_gave_way_ends_idle_workers_too(floor: int) -> None:
    simulation = Simulation()
    wanted = Resources(memory_mib=3000)
    warm = PoolSettings(min_containers=floor)
    first = simulation.define(make_spec("f", resources=wanted, settings=warm), 0.1)
    second = simulation.define(make_spec("g", resources=wanted), 0.1)
    for pool in (first, second, first, second):
        assert simulation.run_call(simulation.submit(pool, 1)) < 0.2


@pytest.mark.parametrize(("first", "second", "wanted", "left"), [
    (1_000, 1_000, 2_900, set()),  # one is not enough
    (500, 2_500, 2_500, {"a"}),  # the older one is not enough, and not needed beside the other
])  # fmt: skip
def test_no_more_idle_workers_give_way_than_have_to(
    first: int, second: int, wanted: int, left: set[str]
) -> None:
    simulation = Simulation(make_resources(memory_mib=3_000))
    for name, memory in (("a", first), ("b", second)):
        pool = simulation.define(make_spec(name, resources=Resources(memory_mib=memory)), 0.01)
        simulation.run_call(simulation.submit(pool, 1))
        simulation.run(0.1)
    needy = simulation.define(make_spec("c", resources=Resources(memory_mib=wanted)), 0.01)
    simulation.run_call(simulation.submit(needy, 1))
    assert {name for name in "ab" if simulation.alive(PoolId(f"po-{name}-1"))} == left


def test_a_pool_that_is_short_of_memory_gives_none_of_its_own_workers_up() -> None:
    simulation = Simulation(make_resources(memory_mib=1_000))
    spec = make_spec(resources=Resources(memory_mib=600))
    pool = simulation.define(spec, lambda *_: "hang")
    simulation.submit(pool, 2)
    simulation.run(5.0)
    (worker,) = simulation.core._state.pools[pool].workers.values()
    assert not worker.draining


def test_who_gives_way_to_one_pool_already_is_not_asked_again_for_another() -> None:
    simulation = Simulation(make_resources(memory_mib=1_000))
    small, large = Resources(memory_mib=100), Resources(memory_mib=900)
    for name, held in (("a", small), ("b", large)):
        simulation.submit(simulation.define(make_spec(name, resources=held), 9.0), 1)
    simulation.run(0.1)
    calls = []
    for name, wanted in (("c", small), ("d", large)):
        needy = simulation.define(make_spec(name, resources=wanted), 0.01)
        calls.append(simulation.submit(needy, 1))
        simulation.run(2 * STARVED_SECONDS)
    held_by = {w.pool.spec.name: w.draining for w in simulation.core._state.workers.values()}
    assert held_by == {"a": True, "b": True}
    for call in calls:
        simulation.run_call(call)
