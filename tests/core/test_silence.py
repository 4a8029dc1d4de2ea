"""A silent host's inputs go elsewhere, under another attempt; what must not run twice waits."""

from __future__ import annotations

from collections import Counter

from kernel_worker.core import effects, events
from kernel_worker.model import HostId, PoolSettings, Resources, WorkerId
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec

OTHER = HostId("ho-other")


def starts(simulation: Simulation) -> Counter[HostId]:
    return Counter(e.host for e in simulation.log if isinstance(e, effects.StartWorker))


def killed(simulation: Simulation) -> list[WorkerId]:
    return [e.worker for e in simulation.log if isinstance(e, effects.KillWorker)]


def worker_on(simulation: Simulation, host: HostId) -> WorkerId:
    return next(w.worker for w in simulation.core.status().workers if w.host == host)


def test_workers_are_spread_by_what_is_free() -> None:
    simulation = Simulation(make_resources(2))
    simulation.feed(events.HostJoined(OTHER, make_resources(4), is_far=True))
    pool = simulation.define(make_spec(), 1.0)
    simulation.submit(pool, 6)
    simulation.run(0.9)
    assert starts(simulation) == {HOST: 2, OTHER: 4}


def test_what_a_silent_host_runs_is_given_to_others_and_answered_late() -> None:
    simulation = Simulation(make_resources(2))
    simulation.feed(events.HostJoined(OTHER, make_resources(2), is_far=True))
    pool = simulation.define(make_spec(), 5.0)
    call = simulation.submit(pool, 3)
    simulation.run(1.0)
    there = {w.worker for w in simulation.core.status().workers if w.host == OTHER}
    simulation.feed(events.HostSilent(OTHER))
    simulation.feed(events.HostSilent(OTHER))
    assert set(killed(simulation)) == there, "it is told when it comes back"
    assert {h.state for h in simulation.core.status().hosts} == {"", "silent"}
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 3}
    last = {e.start: e.attempt for e in simulation.log if isinstance(e, effects.GrantLease)}
    assert sorted(last.values()) == [1, 2, 2] or sorted(last.values()) == [1, 1, 2]
    assert starts(simulation)[OTHER] == len(there), "nothing begins there"
    simulation.feed(events.HostHeard(OTHER))
    simulation.feed(events.HostHeard(OTHER))
    again = simulation.submit(pool, 4)
    simulation.run_call(again)
    assert starts(simulation)[OTHER] > len(there)


def test_a_device_of_a_silent_host_has_one_owner_when_it_is_back() -> None:
    simulation = Simulation(make_resources(2))
    simulation.feed(events.HostJoined(OTHER, make_resources(2, gpus=1), is_far=True))
    pool = simulation.define(make_spec(resources=Resources(gpu=1)), 5.0)
    call = simulation.submit(pool, 1)
    simulation.run(1.0)
    worker = simulation.workers[worker_on(simulation, OTHER)]
    simulation._heap.clear()  # what it says does not come through
    simulation.feed(events.HostSilent(OTHER))
    assert "silent, or about to leave" not in simulation.core.call_progress(call).waiting_for  # type: ignore[union-attr]
    simulation.feed(events.HostHeard(OTHER))
    simulation.feed(events.TimePassed())
    assert starts(simulation)[OTHER] == 1, "the one before it has not been reaped"
    worker.dead = True
    simulation.feed(events.WorkerExited(worker.id, "killed on request"))
    assert starts(simulation)[OTHER] == 2
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}


def test_what_must_not_run_twice_is_answered_late_or_lost_with_its_host() -> None:
    for comes_back in (True, False):
        simulation = Simulation(make_resources(1))
        busy = simulation.define(make_spec("busy"), 1000.0)
        simulation.submit(busy, 1)
        simulation.feed(events.HostJoined(OTHER, make_resources(1), is_far=True))
        pool = simulation.define(make_spec(rerun_on_crash=False), 30.0)
        call = simulation.submit(pool, 1, attached=False)
        simulation.run(10.0)
        simulation.feed(events.HostSilent(OTHER))
        assert not killed(simulation)
        if comes_back:
            simulation.run(5.0)
            simulation.feed(events.HostHeard(OTHER))
        else:
            for worker in simulation.workers.values():
                worker.dead = worker.pool == pool
            simulation.run(10.0)
            assert not simulation.outcomes(call)
            simulation.feed(events.HostLost(OTHER))
        simulation.run_call(call)
        assert simulation.outcomes(call) == {"SUCCEEDED" if comes_back else "LOST": 1}
        assert sum(e.call == call for e in simulation.log if isinstance(e, effects.GrantLease)) == 1


def test_a_host_that_drains_ends_what_it_has_and_begins_nothing() -> None:
    simulation = Simulation(make_resources(2))
    pool = simulation.define(
        make_spec(settings=PoolSettings(min_containers=1), resources=Resources(memory_mib=10)), 1.0
    )
    call = simulation.submit(pool, 4)
    simulation.run(0.5)
    simulation.feed(events.HostDraining(HOST))
    simulation.feed(events.HostDraining(HOST))
    simulation.run(10.0)
    assert not simulation.core.status().workers
    assert simulation.outcomes(call) == {"SUCCEEDED": 2}
    progress = simulation.core.call_progress(call)
    assert progress is not None
    assert "each is silent, or about to leave" in progress.waiting_for
    simulation.feed(events.HostJoined(OTHER, make_resources(2)))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 4}


def test_unknown_hosts_are_nothing() -> None:
    simulation = Simulation()
    for kind in (events.HostSilent, events.HostHeard, events.HostDraining):
        simulation.feed(kind(OTHER))
    assert len(simulation.core.status().hosts) == 1


def test_workers_that_start_wait_or_have_several_leases_are_dealt_with() -> None:
    simulation = Simulation(make_resources(3))
    pool = simulation.define(make_spec(), 0.0001)
    call = simulation.submit(pool, 5000, batch=500)
    simulation.run(0.05)
    simulation.define(make_spec("warm", settings=PoolSettings(min_containers=1)))
    simulation.feed(events.HostDraining(HOST))
    simulation.feed(events.HostJoined(OTHER, make_resources(2)))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 5000}


def test_nobody_is_lent_a_worker_of_another_machine() -> None:
    simulation = Simulation(make_resources(1))
    simulation.feed(events.HostLost(HOST))
    simulation.feed(events.HostJoined(OTHER, make_resources(1), is_far=True))
    pool = simulation.define(make_spec(), 0.01)
    simulation.run_call(simulation.submit(pool, 1))
    call = simulation._new_call()
    simulation.pool_of[call], simulation.left[call] = pool, 1
    simulation.feed(
        events.CallSubmitted(CLIENT, call, pool, attached=True, count=1, closed=True, lends=True)
    )
    simulation.run_call(call)
    assert not any(e.lends for e in simulation.log if isinstance(e, effects.GrantLease))


def test_warm_workers_of_a_host_that_drains_stop() -> None:
    simulation = Simulation(make_resources(2))
    simulation.define(make_spec(settings=PoolSettings(min_containers=1)))
    simulation.run(1.0)
    assert [w.state for w in simulation.core.status().workers] == ["idle"]
    simulation.feed(events.HostDraining(HOST))
    assert simulation.core.status().hosts[0].state == "draining"
    assert any(isinstance(e, effects.StopWorker) for e in simulation.log)
