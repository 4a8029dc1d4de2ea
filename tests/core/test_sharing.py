"""Workers that several inputs share: room, targets, nesting in one of them, and groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel_worker.core import effects, events
from kernel_worker.core.invariants import InvariantBroken, check
from kernel_worker.model import (
    CallContext,
    CallId,
    Digest,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    RetryPolicy,
)
from tests.core.simulation import CLIENT, HOST, Nested, Simulation, make_resources, make_spec

ONE = PoolSettings(max_containers=1)


def grants(simulation: Simulation) -> list[effects.GrantLease]:
    return [e for e in simulation.log if isinstance(e, effects.GrantLease)]


def submit(simulation: Simulation, pool: PoolId, name: str, count: int, **more: str) -> CallId:
    """Submit a closed call that captured or shares what is given."""
    call = CallId(name)
    simulation.left[call] = count
    context = CallContext(more.get("directory", ""), traceparent=more.get("traceparent", ""))
    event = events.CallSubmitted(
        CLIENT, call, pool, True, count, closed=True,
        snapshot=Digest(more.get("snapshot", "")), context=context,
    )  # fmt: skip
    simulation.feed(event)
    return call


# -- concurrent


def test_a_worker_runs_so_many_inputs_at_once_and_occupies_its_cpu_once() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=10, settings=ONE), 1.0)
    took = simulation.run_call(simulation.submit(pool, 30))
    assert simulation.running_most[pool] == 10
    assert took == pytest.approx(3.0, abs=0.1)
    assert all(e.stop - e.start == 1 for e in grants(simulation))
    assert simulation.effects["TakeBack"] == 0


def test_workers_fill_up_before_another_one_is_woken() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(max_inputs=4, settings=PoolSettings(2)), 1.0)
    simulation.run(0.5)
    simulation.submit(pool, 3)
    assert len({e.worker for e in grants(simulation)}) == 1
    simulation.submit(pool, 3)
    by_worker = [e.worker for e in grants(simulation)]
    assert sorted(map(by_worker.count, set(by_worker))) == [2, 4]


def test_a_target_starts_workers_early_and_is_exceeded_where_none_can_be() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(max_inputs=4, target_inputs=2), 1.0)
    simulation.submit(pool, 3)
    simulation.run(0.5)
    assert len(simulation.alive(pool)) == 2
    simulation.submit(pool, 5)
    by_worker = [e.worker for e in grants(simulation)]
    assert sorted(map(by_worker.count, set(by_worker))) == [4, 4]
    simulation.run(0.1)
    assert len(simulation.alive(pool)) == 2  # there is no CPU for a third


def test_a_target_ends_no_worker_of_another_pool() -> None:
    simulation = Simulation(make_resources(4, memory_mib=2_000))
    other = simulation.define(make_spec("g", resources=Resources(memory_mib=1_000)), 0.01)
    simulation.run_call(simulation.submit(other, 1))
    spec = make_spec(max_inputs=4, target_inputs=1, resources=Resources(memory_mib=1_000))
    pool = simulation.define(spec, 1.0)
    simulation.submit(pool, 3)
    simulation.run(0.5)
    assert (len(simulation.alive(pool)), len(simulation.alive(other))) == (1, 1)


def test_inputs_of_calls_that_captured_other_values_do_not_share_a_worker() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=4, settings=ONE), 1.0)
    first = submit(simulation, pool, "fc-a", 2, snapshot="1")
    second = submit(simulation, pool, "fc-b", 2, snapshot="2")
    simulation.run(0.5)
    assert {e.call for e in grants(simulation)} == {first}
    simulation.run_call(second)
    assert simulation.running_most[pool] == 2


@pytest.mark.parametrize("halts", [False, True])
@pytest.mark.parametrize("limit", [1, None])
def test_a_chain_of_its_own_inputs_ends(halts: bool, limit: int | None) -> None:
    simulation = Simulation(make_resources(1))
    spec = make_spec(max_inputs=2, settings=PoolSettings(max_containers=limit))
    depth = {"left": 30}

    def deeper(_c: CallId, _i: int, _a: int) -> Iterator[float | Nested]:
        if depth["left"]:
            depth["left"] -= 1
            yield Nested(spec.pool, halts=halts)

    pool = simulation.define(spec, deeper)  # type: ignore[arg-type]
    simulation.run_call(simulation.submit(pool, 3))
    assert not simulation.inputs


def test_a_chain_on_one_device_ends_where_its_worker_has_room() -> None:
    simulation = Simulation(make_resources(1, gpus=1))
    spec = make_spec(max_inputs=2, resources=Resources(gpu=1))
    depth = {"left": 5}

    def deeper(_c: CallId, _i: int, _a: int) -> Iterator[float | Nested]:
        if depth["left"]:
            depth["left"] -= 1
            yield Nested(spec.pool)

    pool = simulation.define(spec, deeper)  # type: ignore[arg-type]
    call = simulation.submit(pool, 1)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    assert simulation.effects["StartWorker"] == 1


def test_a_chain_on_one_device_fails_where_its_worker_is_halted() -> None:
    simulation = Simulation(make_resources(1, gpus=1))
    spec = make_spec(max_inputs=2, resources=Resources(gpu=1))
    first = {"is": True}

    def deeper(_c: CallId, _i: int, _a: int) -> Iterator[float | Nested]:
        if first.pop("is", False):
            yield Nested(spec.pool, halts=True)
        yield 100.0

    pool = simulation.define(spec, deeper)  # type: ignore[arg-type]
    simulation.submit(pool, 1)
    simulation.run(1.0)
    (nested,) = (e for e in simulation.log if isinstance(e, effects.ReportEnd))
    assert nested.outcome is Outcome.INIT_FAILED
    assert "f -> f" in nested.message


def test_one_that_waits_leaves_its_place_to_others() -> None:
    simulation = Simulation(make_resources(2))
    child = simulation.define(make_spec("g"), 1.0)
    spec = make_spec(max_inputs=2, settings=ONE)
    pool = simulation.define(spec, lambda _c, _i, _a: iter([Nested(child)]))  # type: ignore[arg-type,return-value]
    call = simulation.submit(pool, 6)
    simulation.run(0.5)
    assert len([e for e in grants(simulation) if e.call == call]) == 6
    simulation.run_call(call)


def test_a_cancelled_call_interrupts_its_inputs_and_no_others() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=4, settings=ONE), 10.0)
    one, other = simulation.submit(pool, 2), simulation.submit(pool, 2)
    simulation.run(0.5)
    simulation.feed(events.CallCancelled(one, terminate=False))
    assert simulation.effects["TakeBack"] == 0
    simulation.run_call(one)
    assert simulation.outcomes(one) == {"CANCELLED": 2}
    simulation.run_call(other)
    assert simulation.outcomes(other) == {"SUCCEEDED": 2}


def test_who_does_not_answer_is_killed_after_its_own_time() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=2, settings=ONE), lambda *_: "hang")
    one, other = simulation.submit(pool, 1), simulation.submit(pool, 1)
    simulation.run(0.5)
    (worker,) = simulation.alive(pool)
    for call in (one, other):
        state = simulation.core._state.calls[call]
        (lease,) = state.leases.values()
        simulation.inputs.pop(lease.id)  # it is deaf
        simulation.feed(events.CallCancelled(call, terminate=False))
        if call is one:
            simulation.run(4.0)
            answer = events.InputEnded(worker.id, lease.id, 0, Outcome.CANCELLED, 4.0)
            simulation.feed(answer)
    simulation.run(6.0)
    assert simulation.effects["KillWorker"] == 0
    simulation.run(1.5)
    assert simulation.effects["KillWorker"] == 1


def test_every_input_that_ran_in_a_dead_worker_counts() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(
        make_spec(max_inputs=2, settings=ONE), lambda _c, index, _a: "crash" if index > 0 else 1.0
    )
    call = simulation.submit(pool, 2)
    simulation.run_call(call)
    assert simulation.started[call, 1] == 3
    assert simulation.outcomes(call)["LOST"] >= 1


def test_one_whose_neighbour_timed_out_to_death_runs_again_uncounted() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=2, settings=ONE), 5.0)
    call = simulation.submit(pool, 2)
    simulation.run(0.5)
    (worker,) = simulation.alive(pool)
    first, second = (e.lease for e in grants(simulation))
    worker.dead = True
    simulation._end_inputs(worker)
    gone = events.WorkerExited(worker.id, "killed", first, 0, timed_out=True, started=(second,))
    simulation.feed(gone)
    assert simulation.core._state.calls[call].life(1).deaths == 0
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"TIMED_OUT": 1, "SUCCEEDED": 1}


def test_a_lost_host_loses_what_ran_at_most_once() -> None:
    simulation = Simulation(make_resources(1))
    spec = make_spec(max_inputs=3, settings=ONE, rerun_on_crash=False)
    pool = simulation.define(spec, 5.0)
    call = simulation.submit(pool, 3)
    simulation.run(0.5)
    simulation.feed(events.HostLost(HOST))
    assert simulation.outcomes(call) == {"LOST": 3}


# -- inputs that run on after their answer


def lingering(count: int) -> tuple[Simulation, PoolId, list[effects.GrantLease]]:
    """Return a worker of two places in which `count` inputs run on that are answered."""
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=2, settings=ONE), 1000.0)
    simulation.submit(pool, count)
    simulation.run(0.1)
    held = grants(simulation)
    for lease in held:
        simulation._forget_input(lease)
        answer = events.InputEnded(
            lease.worker, lease.lease, lease.start, Outcome.CANCELLED, 0.1, lingers=True
        )
        simulation.feed(answer)
    return simulation, pool, held


def test_what_runs_on_holds_its_place_until_it_has_ended() -> None:
    simulation, pool, held = lingering(2)
    simulation.submit(pool, 2)
    assert len(grants(simulation)) == 2
    simulation.feed(events.InputLeft(held[0].worker, held[0].lease))
    assert len(grants(simulation)) == 3
    simulation.feed(events.InputLeft(held[1].worker, held[1].lease))
    assert len(grants(simulation)) == 4
    simulation.run(60.0)
    assert simulation.effects["StopWorker"] == 0
    simulation.feed(events.InputLeft(held[1].worker, held[1].lease))
    simulation.feed(events.InputLeft("ta-nobody", LeaseId(1)))  # type: ignore[arg-type]
    simulation.feed(
        events.InputEnded("ta-nobody", LeaseId(1), 0, Outcome.CANCELLED, 0.0, lingers=True)  # type: ignore[arg-type]
    )


def test_a_worker_in_which_something_will_not_end_is_replaced() -> None:
    simulation, pool, _ = lingering(2)
    simulation.constant[pool] = 0.1
    call = simulation.submit(pool, 2)
    assert simulation.run_call(call) == pytest.approx(5.1, abs=0.2)
    assert simulation.effects["StopWorker"] == 1


def test_it_is_replaced_once_its_other_inputs_have_ended() -> None:
    simulation, pool, held = lingering(1)
    simulation.constant[pool] = 8.0
    call = simulation.submit(pool, 2)
    simulation.run(6.0)
    assert simulation.effects["StopWorker"] == 0
    simulation.run_call(call)
    workers = [e.worker for e in grants(simulation) if e.call == call]
    assert workers[0] == held[0].worker != workers[1]


# -- groups


def batched(size: int = 4, wait: float = 1.0, **more: object) -> tuple[Simulation, PoolId]:
    simulation = Simulation(make_resources(1))
    spec = make_spec(max_batch_size=size, batch_wait_seconds=wait, settings=ONE, **more)  # type: ignore[arg-type]
    pool = simulation.define(spec, 0.1)
    simulation.feed(events.PoolConfigured(CLIENT, pool, min_containers=1))
    simulation.run(0.5)
    return simulation, pool


def sizes(simulation: Simulation) -> list[int]:
    return [sum(e.stop - e.start for e in group) for group in simulation.groups]


def test_the_inputs_of_a_call_are_grouped_and_the_rest_waits_its_time() -> None:
    simulation, pool = batched()
    took = simulation.run_call(simulation.submit(pool, 10))
    assert sizes(simulation) == [4, 4, 2]
    assert took == pytest.approx(1.1, abs=0.05)


def test_inputs_of_many_calls_make_a_group() -> None:
    simulation, pool = batched()
    calls = [simulation.submit(pool, 1) for _ in range(8)]
    simulation.run(until=lambda: all(call in simulation.finished_at for call in calls))
    assert sizes(simulation) == [4, 4]
    assert {e.call for e in simulation.groups[0]} == set(calls[:4])
    assert simulation.now < 101.0


def test_a_group_that_is_not_full_waits_from_its_first_input_on() -> None:
    simulation, pool = batched(wait=2.0)
    begun = simulation.now
    simulation.submit(pool, 1)
    simulation.run(1.5)
    last = simulation.submit(pool, 1)
    simulation.run_call(last)
    assert sizes(simulation) == [2]
    assert simulation.finished_at[last] - begun == pytest.approx(2.1, abs=0.05)


def test_what_came_while_the_worker_was_busy_need_not_wait_again() -> None:
    simulation, pool = batched(wait=0.05)
    simulation.run_call(simulation.submit(pool, 4))
    simulation.submit(pool, 4)
    simulation.run(0.01)
    late = simulation.submit(pool, 1)
    assert simulation.run_call(late) == pytest.approx(0.19, abs=0.02)


def test_batches_of_one_call_are_leases_of_one_group() -> None:
    simulation, pool = batched(size=6)
    simulation.run_call(simulation.submit(pool, 12, batch=4))
    assert sizes(simulation) == [6, 6]
    assert [(e.start, e.stop) for e in simulation.groups[0]] == [(0, 4), (4, 6)]


def test_calls_that_captured_other_values_are_not_grouped() -> None:
    simulation, pool = batched(wait=0.2)
    for name, role in (("a", "1"), ("b", "2"), ("c", "1"), ("d", "2"), ("e", "1"), ("f", "1")):
        submit(simulation, pool, f"fc-{name}", 1, snapshot=role)
    submit(simulation, pool, "fc-g", 1, snapshot="1", directory="/elsewhere")
    simulation.run(5.0)
    assert [[e.call for e in group] for group in simulation.groups] == [
        ["fc-a", "fc-c", "fc-e", "fc-f"],
        ["fc-b", "fc-d"],
        ["fc-g"],
    ]


def test_calls_of_other_traces_are_grouped() -> None:
    simulation, pool = batched(wait=0.2)
    for number in range(4):
        submit(simulation, pool, f"fc-{number}", 1, traceparent=str(number))
    simulation.run(5.0)
    assert sizes(simulation) == [4]


def test_a_retried_input_is_a_group_by_itself_and_need_not_wait() -> None:
    simulation, pool = batched(retries=RetryPolicy(1, 1.0, 0.0))
    simulation.behaviours[pool] = lambda _c, _i, attempt: 0.1 if attempt > 1 else "fail"
    call = simulation.submit(pool, 4)
    assert simulation.run_call(call) < 0.6
    assert sizes(simulation) == [4, 1, 1, 1, 1]
    assert simulation.outcomes(call) == {"SUCCEEDED": 4}


def test_an_input_that_kills_its_worker_takes_its_group_with_it_once() -> None:
    simulation, pool = batched()

    def guilty(_c: CallId, index: int, attempt: int) -> float | str:
        return "crash" if attempt == 1 or index == 2 else 0.1

    simulation.behaviours[pool] = guilty
    call = simulation.submit(pool, 4)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 3, "LOST": 1}
    assert [simulation.started[call, index] for index in range(4)] == [2, 2, 3, 2]


def test_a_group_that_had_to_be_killed_for_its_time_timed_out() -> None:
    simulation, pool = batched()
    simulation.constant[pool] = 1000.0
    call = simulation.submit(pool, 4)
    simulation.run(0.1)
    (worker,) = simulation.alive(pool)
    (lease,) = grants(simulation)
    simulation._end_inputs(worker)
    worker.dead = True
    simulation.feed(
        events.WorkerExited(worker.id, "killed", LeaseId(lease.group), 0, timed_out=True)
    )
    assert simulation.outcomes(call) == {"TIMED_OUT": 4}


def test_who_needs_too_much_memory_fails_where_it_ran_alone() -> None:
    simulation, pool = batched()
    simulation.constant[pool] = 1000.0
    call = simulation.submit(pool, 2)
    for _ in range(3):
        simulation.run(2.0)
        (worker,) = simulation.alive(pool)
        first = simulation._end_inputs(worker)[0].leases[0]
        worker.dead = True
        gone = events.WorkerExited(
            worker.id, "killed", LeaseId(first.group), first.start, over_memory_mib=9
        )
        simulation.feed(gone)
    assert sizes(simulation) == [2, 1, 1]
    assert simulation.outcomes(call) == {"LOST": 2}


def test_a_group_that_had_not_begun_runs_again_untouched() -> None:
    simulation, pool = batched()
    simulation.constant[pool] = 1000.0
    call = simulation.submit(pool, 4)
    (worker,) = simulation.alive(pool)
    (lease,) = grants(simulation)
    worker.dead = True
    simulation.feed(events.WorkerExited(worker.id, "killed", LeaseId(lease.group), -1))
    assert simulation.core._state.calls[call].lives == {}


def test_a_group_that_runs_on_after_its_answers_holds_its_worker() -> None:
    simulation, pool = batched()
    simulation.constant[pool] = 1000.0
    call = simulation.submit(pool, 2)
    simulation.run(2.0)
    (lease,) = grants(simulation)
    simulation.feed(events.CallCancelled(call, terminate=False))
    for index in range(2):
        simulation.feed(
            events.InputEnded(
                lease.worker, lease.lease, index, Outcome.CANCELLED, 1.0, lingers=True
            )
        )
    simulation.submit(pool, 4)
    assert len(grants(simulation)) == 1
    simulation.feed(events.InputLeft(lease.worker, lease.lease))
    assert len(grants(simulation)) == 2


def test_a_group_that_waits_for_a_call_gives_its_cpu_up_whole() -> None:
    simulation = Simulation(make_resources(1))
    child = simulation.define(make_spec("g"), 0.1)
    spec = make_spec(max_batch_size=4, batch_wait_seconds=0.1)
    pool = simulation.define(spec, lambda *_: iter([Nested(child)]))  # type: ignore[arg-type]
    calls = [simulation.submit(pool, 1) for _ in range(4)]
    simulation.run_call(calls[0])
    assert sizes(simulation) == [4]
    assert simulation.effects["TakeBack"] == 0


def test_groups_start_as_many_workers_as_there_are_groups() -> None:
    simulation = Simulation(make_resources(8))
    pool = simulation.define(make_spec(max_batch_size=10, batch_wait_seconds=0.1), 5.0)
    simulation.submit(pool, 25)
    simulation.run(0.5)
    assert len(simulation.alive(pool)) == 3


# -- the sentences


def test_broken_sentences_about_sharing_are_named() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=2, settings=ONE), 1.0)
    call = simulation.submit(pool, 2)
    simulation.run(0.1)
    check(simulation.core)
    state = simulation.core._state
    first = next(iter(state.calls[call].leases.values()))
    known = state.pools[pool].spec
    state.pools[pool].spec = make_spec(max_inputs=1)
    with pytest.raises(InvariantBroken, match="runs 2 of 1"):
        check(simulation.core)
    state.pools[pool].spec = known
    first.worker.waiting = 1
    with pytest.raises(InvariantBroken, match="counts 1 blocked"):
        check(simulation.core)
    first.worker.waiting = 0
    other = simulation.submit(pool, 1)
    state.calls[other].kinship = 1
    next(iter(state.calls[call].leases.values())).call = state.calls[other]
    with pytest.raises(InvariantBroken, match=r"not kin|leased"):
        check(simulation.core)


def test_a_broken_group_is_named() -> None:
    simulation, pool = batched()
    call = simulation.submit(pool, 4)
    state = simulation.core._state
    check(simulation.core)
    known = state.pools[pool].spec
    state.pools[pool].spec = make_spec(max_batch_size=3)
    with pytest.raises(InvariantBroken, match="runs 4 inputs, a group is 3"):
        check(simulation.core)
    state.pools[pool].spec = known
    state.calls[call].leases.clear()


def test_a_parent_that_is_gone_blocks_nobody() -> None:
    simulation, pool = batched()
    simulation.submit(pool, 4)
    (lease,) = grants(simulation)
    gone = ParentInput(lease.call, 0, 9, lease.worker, lease.lease)
    simulation.feed(events.WorkerBlocked(gone, (lease.call,)))
    simulation.feed(events.WorkerResumed(gone))
    check(simulation.core)


def test_an_input_that_waits_beside_a_worker_with_room_is_named() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=2, settings=ONE), lambda *_: "hang")
    simulation.submit(pool, 3)
    simulation.run(0.1)
    simulation.core._state.pools[pool].spec = make_spec(max_inputs=3, settings=ONE)
    with pytest.raises(InvariantBroken, match="no input waits while a worker could run it"):
        check(simulation.core)


def test_a_worker_is_killed_once_whatever_it_holds_of_a_call() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(max_inputs=4, settings=ONE), lambda *_: "hang")
    first, second = simulation.submit(pool, 2), simulation.submit(pool, 2)
    simulation.run(0.1)
    simulation.feed(events.CallCancelled(first, terminate=True))
    simulation.feed(events.CallCancelled(second, terminate=False))
    assert (simulation.effects["KillWorker"], simulation.effects["Interrupt"]) == (1, 0)
    simulation.run(1)
    assert simulation.outcomes(first) == simulation.outcomes(second) == {"CANCELLED": 2}


def test_a_group_is_full_whatever_batches_its_inputs_came_in() -> None:
    simulation = Simulation(make_resources(1))
    spec = make_spec(max_batch_size=3, batch_wait_seconds=0.5, settings=ONE)
    pool = simulation.define(spec, 0.1)
    simulation.run_call(simulation.submit(pool, 7, batch=2))
    sizes: dict[int, int] = {}
    for grant in grants(simulation):
        sizes[grant.group] = sizes.get(grant.group, 0) + grant.stop - grant.start
    assert list(sizes.values()) == [3, 3, 1]


def test_an_idle_worker_without_a_free_cpu_takes_nothing() -> None:
    simulation = Simulation(make_resources(1))
    warm = PoolSettings(min_containers=1)
    pool = simulation.define(make_spec(max_inputs=2, settings=warm), 0.01)
    simulation.run(0.1)
    busy = simulation.define(make_spec("g"), 1.0)
    first = simulation.submit(busy, 1)
    simulation.run(0.1)
    second = simulation.submit(pool, 1)
    simulation.run_call(second)
    assert simulation.finished_at[first] < simulation.finished_at[second]
