"""Workers that die, in user code and before it."""

from __future__ import annotations

import pytest

from kernel_worker.core import effects, events
from kernel_worker.model import (
    CallId,
    HostId,
    LeaseId,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    RetryPolicy,
    WorkerId,
)
from kernel_worker.packages import NOWHERE
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec


def ends(simulation: Simulation) -> list[effects.ReportEnd]:
    return [e for e in simulation.log if isinstance(e, effects.ReportEnd)]


def test_a_killed_worker_costs_nothing_but_time() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.001)
    call = simulation.submit(pool, 1_000)
    simulation.run(0.2)
    simulation.kill(simulation.alive(pool)[0])
    simulation.run(0.1)
    assert len(simulation.alive(pool)) == 2
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1_000}
    assert sum(count > 1 for count in simulation.started.values()) <= 10


def test_a_poison_input_alone_fails_after_three_deaths() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, i, _a: "crash" if i == 500 else 0.001)
    call = simulation.submit(pool, 1_000)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 999, "LOST": 1}
    assert simulation.started[call, 500] == 3
    (end,) = ends(simulation)
    assert (end.index, end.count, end.attempt) == (500, 1, 3)
    assert "killed by SIGSEGV" in end.message
    assert "input 500" in end.message


def test_at_most_once_means_one_death_and_leases_of_one() -> None:
    simulation = Simulation()
    spec = make_spec(rerun_on_crash=False)
    pool = simulation.define(spec, lambda _c, i, _a: "crash" if i == 5 else 0.001)
    call = simulation.submit(pool, 10)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 9, "LOST": 1}
    assert set(simulation.started.values()) == {1}
    assert "rerun_on_crash=False" in ends(simulation)[0].message


@pytest.mark.parametrize(
    ("shared", "count"), [({}, 1), ({"max_inputs": 4}, 3), ({"max_batch_size": 3}, 3)]
)
def test_what_a_worker_held_as_it_died_may_have_run_although_nothing_ran_then(
    shared: dict[str, int], count: int
) -> None:
    simulation = Simulation()
    spec = make_spec(rerun_on_crash=False, settings=PoolSettings(max_containers=1), **shared)  # type: ignore[arg-type]
    pool = simulation.define(spec, lambda *_: "hang")
    call = simulation.submit(pool, count)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    simulation.feed(events.WorkerExited(grant.worker, "killed", LeaseId(0), -1))
    simulation.run(1)
    assert simulation.outcomes(call) == {"LOST": count}
    assert set(simulation.started.values()) == {1}


def test_a_timeout_that_needed_a_kill_is_a_timeout() -> None:
    simulation = Simulation()
    spec = make_spec(retries=RetryPolicy(1, 1.0, 1.0))
    pool = simulation.define(spec, lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    for attempt in (1, 2):
        grant = [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]
        assert grant.attempt == attempt
        simulation.workers[grant.worker].dead = True
        simulation.feed(events.WorkerExited(grant.worker, "killed", grant.lease, 0, timed_out=True))
        simulation.run(1.5)
    assert simulation.outcomes(call) == {"TIMED_OUT": 1}
    assert "timeout of 10 s (attempt 2)" in ends(simulation)[0].message


def test_workers_that_die_at_start_are_given_up_with_the_cause() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "crash")
    call = simulation.submit(pool, 10)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"INIT_FAILED": 10}
    (end,) = ends(simulation)
    assert (end.count, end.has_payload) == (10, False)
    assert "exit code 1" in end.message
    assert simulation.effects["StartWorker"] <= 4
    # The next call gets a verdict of its own, at once.
    assert simulation.run_call(simulation.submit(pool, 1)) < 0.1


def test_a_floor_that_crashes_backs_off_to_ten_seconds() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(min_containers=1))
    simulation.define(spec, lambda *_: "crash")
    simulation.run(100)
    assert 10 < simulation.effects["StartWorker"] < 25


def test_a_function_that_cannot_be_loaded_ends_what_waits_at_once() -> None:
    simulation = Simulation(start=1e9)
    spec = make_spec(settings=PoolSettings(min_containers=1))
    pool = simulation.define(spec)
    call = simulation.submit(pool, 10)
    first, second = [e.worker for e in simulation.log if isinstance(e, effects.StartWorker)]
    simulation.feed(events.WorkerStartFailed(first, "No module named 'nope'"))
    (end,) = ends(simulation)
    assert (end.call, end.count, end.has_payload) == (call, 10, True)
    starts = simulation.effects["StartWorker"]
    simulation.run(100)
    assert simulation.effects["StartWorker"] == starts, "its floor is not kept meanwhile"
    simulation.feed(events.WorkerStartFailed(first, "again"))
    simulation.feed(events.WorkerStartFailed(second, "No module named 'nope'"))
    simulation.submit(pool, 1)
    assert simulation.effects["StartWorker"] > starts


class Hosts:
    """A simulation with hosts of two CPUs more, and what is started where."""

    def __init__(self, *more: str) -> None:
        self.simulation = Simulation(make_resources(2), start=1e9)
        self.pool = self.simulation.define(make_spec())
        for name in more:
            self.simulation.feed(events.HostJoined(HostId(name), make_resources(2)))

    def submit(self, count: int = 1) -> CallId:
        return self.simulation.submit(self.pool, count)

    def starting(self) -> dict[HostId, list[WorkerId]]:
        found: dict[HostId, list[WorkerId]] = {}
        for each in self.simulation.core.status().workers:
            found.setdefault(each.host, []).append(each.worker)
        return found

    def refuse(self, host: HostId, worker: WorkerId | None = None) -> None:
        worker = worker or self.starting()[host][0]
        self.simulation.feed(events.WorkerStartFailed(worker, "no x", f"{host} has no x"))


def test_what_a_host_lacks_is_looked_for_on_the_others_and_nothing_is_started_there_again() -> None:
    other = HostId("ho-other")
    hosts = Hosts(other)
    call = hosts.submit(4)
    assert {host: len(workers) for host, workers in hosts.starting().items()} == {HOST: 2, other: 2}
    hosts.refuse(HOST)
    hosts.refuse(HOST)
    assert {host: len(workers) for host, workers in hosts.starting().items()} == {other: 2}
    (pool,) = hosts.simulation.core.status().pools
    assert pool.waiting_for == "a worker is starting"
    for worker in hosts.starting()[other]:
        hosts.simulation.feed(events.WorkerReady(worker))
        hosts.simulation.feed(events.WorkerExited(worker, "killed by SIGSEGV"))
    assert set(hosts.starting()) == {other}
    hosts.simulation.feed(events.HostDraining(other))
    (pool,) = hosts.simulation.core.status().pools
    assert f"{HOST} has no x" in pool.waiting_for
    assert hosts.simulation.outcomes(call) == {}


def test_what_no_host_has_ends_what_waits_and_says_what_each_has() -> None:
    one, two = HostId("ho-one"), HostId("ho-two")
    hosts = Hosts(one, two)
    call = hosts.submit(1)
    (first,) = hosts.starting()
    hosts.refuse(first)
    (second,) = hosts.starting()
    hosts.refuse(second)
    (third,) = hosts.starting()
    assert not ends(hosts.simulation)
    hosts.refuse(third)
    assert {first, second, third} == {HOST, one, two}
    (end,) = ends(hosts.simulation)
    assert (end.call, end.has_payload) == (call, True)
    assert end.message == NOWHERE + "; ".join(f"{each} has no x" for each in (one, HOST, two))
    assert not hosts.starting()
    hosts.submit(1)
    assert hosts.starting(), "who calls again has them asked again"


def test_where_the_only_host_that_fits_is_lost_those_that_refused_are_asked_again() -> None:
    other = HostId("ho-other")
    hosts = Hosts(other)
    hosts.submit(1)
    (first,) = hosts.starting()
    hosts.refuse(first)
    (second,) = hosts.starting()
    hosts.simulation.feed(events.HostLost(second))
    assert set(hosts.starting()) == {first}
    hosts.refuse(first)
    (end,) = ends(hosts.simulation)
    assert end.message == f"{NOWHERE}{first} has no x"


def test_a_host_that_is_too_small_is_no_other_one() -> None:
    hosts = Hosts()
    hosts.simulation.feed(events.HostJoined(HostId("ho-small"), make_resources(0.5)))
    hosts.submit(1)
    hosts.refuse(HOST)
    (end,) = ends(hosts.simulation)
    assert end.message == f"{NOWHERE}{HOST} has no x"


def test_a_device_that_others_have_is_no_failure_and_is_waited_for() -> None:
    simulation = Simulation(make_resources(2, gpus=1), start=1e9)
    pool = simulation.define(make_spec(resources=Resources(gpu=1)))
    floor = make_spec("kept", resources=Resources(gpu=1), settings=PoolSettings(min_containers=1))
    call = simulation.submit(pool, 1)
    for _ in range(5):
        (worker,) = simulation.core.status().workers
        simulation.feed(events.DevicesHeld(HOST, (0,), worker.worker))
        status = simulation.core.status()
        assert (status.workers, status.hosts[0].held) == ([], (0,))
        reason = "no free GPU: other brokers of the same machine have 1"
        assert status.pools[0].waiting_for == reason
        assert simulation.outcomes(call) == {}
        simulation.feed(events.DevicesHeld(HOST, ()))
    (worker,) = simulation.core.status().workers
    simulation.feed(events.DevicesHeld(HostId("ho-gone"), (0,), worker.worker))
    assert simulation.core.status().workers, "its host has not said that"
    simulation.feed(events.DevicesHeld(HOST, (0,), worker.worker))
    simulation.feed(events.CallCancelled(call, terminate=False))
    simulation.define(floor)
    assert not simulation.core.status().workers
    simulation.feed(events.DevicesHeld(HOST, ()))
    assert simulation.core.status().workers, "a floor is kept as soon as it can be"


def test_a_start_that_takes_too_long_is_killed() -> None:
    simulation = Simulation(start=1e9)
    pool = simulation.define(make_spec())
    call = simulation.submit(pool, 1)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"INIT_FAILED": 1}
    assert "not ready after 300 s" in ends(simulation)[0].message


def test_no_time_limit_runs_while_what_a_worker_starts_in_is_built() -> None:
    simulation = Simulation(start=1e9)
    pool = simulation.define(make_spec())
    call = simulation.submit(pool, 1)
    (worker,) = simulation.core.status().workers
    simulation.feed(events.WorkerDelayed(worker.worker))
    assert simulation.core.calls_waiting_in(pool) == [call]
    assert simulation.core.calls_waiting_in(PoolId("po-none")) == []
    simulation.run(10_000)
    assert simulation.core.status().workers, "it is waited for"
    simulation.feed(events.WorkerStarted(worker.worker, 7, "forked"))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"INIT_FAILED": 1}, "from then on it has its time"
    assert simulation.core.calls_waiting_in(pool) == []


def test_a_lost_host_is_no_death_and_its_late_answers_are_dropped() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.5)
    call = simulation.submit(pool, 4)
    simulation.run(0.2)
    for worker in simulation.workers.values():
        worker.dead = True
    simulation.feed(events.HostLost(HOST))
    simulation.feed(events.HostLost(HOST))
    assert not simulation.core.status().workers
    simulation.feed(events.HostJoined(HOST, make_resources()))
    for worker in simulation.workers.values():
        for lease in worker.leases:
            simulation.feed(events.RangeSucceeded(worker.id, lease.lease, lease.start, 1, 0.5))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 4}
    last = {e.start: e.attempt for e in simulation.log if isinstance(e, effects.GrantLease)}
    assert last == {0: 2, 1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize("attached", [True, False])
def test_calls_made_by_a_lost_attempt_are_cancelled(attached: bool) -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    child = CallId("fc-c")
    parent = parent_of(grant)
    simulation.feed(
        events.CallSubmitted(CLIENT, child, pool, attached, 1, closed=True, parent=parent)
    )
    simulation.kill(simulation.workers[grant.worker])
    simulation.run(0.01)
    assert simulation.outcomes(child) == {"CANCELLED": 1}


def parent_of(grant: effects.GrantLease) -> ParentInput:
    return ParentInput(grant.call, grant.start, grant.attempt, grant.worker, grant.lease)


OVER = Resources(memory_mib=100, memory_limit_mib=200)


def exceed(simulation: Simulation, grant: effects.GrantLease, index: int) -> None:
    """Let the host stop the worker of a lease for what it used in one input."""
    worker = simulation.workers[grant.worker]
    worker.dead = True
    worker.token += 1
    event = events.WorkerExited(grant.worker, "killed", grant.lease, index, over_memory_mib=321)
    simulation.feed(event)


def last_grant(simulation: Simulation) -> effects.GrantLease:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]


def test_an_input_that_exceeds_its_memory_fails_at_once_and_the_others_run() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(resources=OVER), 0.002)
    call = simulation.submit(pool, 400)
    simulation.run(0.3)
    grant = last_grant(simulation)
    assert grant.stop - grant.start > 1
    exceed(simulation, grant, grant.start)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 399, "LOST": 1}
    (end,) = ends(simulation)
    assert (end.index, end.attempt) == (grant.start, 1)
    for part in ("f", "321 MiB", "200 MiB", "memory=(100, 200)"):
        assert part in end.message


def test_retries_run_an_input_again_that_exceeded_its_memory() -> None:
    simulation = Simulation()
    policy = RetryPolicy(max_retries=1, initial_delay_seconds=1)
    pool = simulation.define(make_spec(resources=OVER, retries=policy), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    for attempt in (1, 2):
        simulation.run(2)
        grant = last_grant(simulation)
        assert grant.attempt == attempt
        exceed(simulation, grant, 0)
    assert simulation.outcomes(call) == {"LOST": 1}


def test_at_most_once_is_kept_where_memory_was_exceeded() -> None:
    simulation = Simulation()
    policy = RetryPolicy(max_retries=1, initial_delay_seconds=0)
    spec = make_spec(resources=OVER, retries=policy, rerun_on_crash=False)
    call = simulation.submit(simulation.define(spec, lambda *_: "hang"), 1)
    simulation.run(1)
    exceed(simulation, last_grant(simulation), 0)
    assert simulation.outcomes(call) == {"LOST": 1}


def test_a_cancelled_input_that_exceeded_its_memory_is_cancelled() -> None:
    simulation = Simulation()
    call = simulation.submit(simulation.define(make_spec(resources=OVER), lambda *_: "hang"), 1)
    simulation.run(1)
    simulation.feed(events.CallCancelled(call, terminate=False))
    exceed(simulation, last_grant(simulation), 0)
    assert simulation.outcomes(call) == {"CANCELLED": 1}


def test_a_worker_that_exceeds_its_memory_between_inputs_costs_nothing() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(resources=OVER), 0.01)
    simulation.run_call(simulation.submit(pool, 1))
    (worker,) = simulation.alive(pool)
    worker.dead = True
    simulation.feed(events.WorkerExited(worker.id, "killed", over_memory_mib=300))
    call = simulation.submit(pool, 2)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 2}
