"""Calls inside calls never deadlock, and never take more than there is."""

from __future__ import annotations

import itertools

import pytest

from kernel_worker.core import effects, events
from kernel_worker.model import (
    NO_CALL,
    CallId,
    ClientId,
    Outcome,
    ParentInput,
    PoolSettings,
    Resources,
)
from tests.core.simulation import CLIENT, Nested, Script, Simulation, make_resources, make_spec


def fib(simulation: Simulation, n: int, *, parallel: bool, **options: int) -> CallId:
    """Submit a call of fib, which calls itself; the order of calls gives their arguments."""
    spec = make_spec("fib", settings=PoolSettings(**options))
    arguments: dict[tuple[CallId, int], int] = {}

    def behaviour(call: CallId, index: int, _attempt: int) -> float | Script:
        if index < 0:
            return 0.0
        return body(arguments.get((call, index), n))

    def body(n: int) -> Script:
        yield 0.001
        if n > 1 and parallel:
            call = simulation.next_call
            arguments[call, 0], arguments[call, 1] = n - 1, n - 2
            yield Nested(spec.pool, 2)
        elif n > 1:
            for less in (1, 2):
                arguments[simulation.next_call, 0] = n - less
                yield Nested(spec.pool)
        return ""

    pool = simulation.define(spec, behaviour)
    return simulation.submit(pool, 1)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("ceiling", [1, 2])
def test_fib_by_recursion_ends_in_a_small_pool(parallel: bool, ceiling: int) -> None:
    simulation = Simulation()
    call = fib(simulation, 12, parallel=parallel, max_containers=ceiling)
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    assert set(simulation.started.values()) == {1}
    assert simulation.alive_most <= 12 * ceiling + 2


def test_blocked_workers_grow_with_depth_only() -> None:
    simulation = Simulation()
    call = fib(simulation, 12, parallel=False, max_containers=2)
    simulation.run_call(call)
    assert simulation.alive_most <= 14
    assert simulation.effects["StartWorker"] <= 60


def test_a_map_inside_a_map() -> None:
    simulation = Simulation()
    inner = simulation.define(make_spec("inner"), 0.002)
    outer_spec = make_spec("outer")

    def outer(_call: CallId, index: int, _attempt: int) -> float | Script:
        return body() if index >= 0 else 0.0

    def body() -> Script:
        yield 0.001
        yield Nested(inner, 20)
        return ""

    outer_pool = simulation.define(outer_spec, outer)
    call = simulation.submit(outer_pool, 20)
    assert simulation.run_call(call) < 20 * 20 * 0.002
    assert simulation.outcomes(call) == {"SUCCEEDED": 20}


def blocked_parent(simulation: Simulation, spec: str = "f") -> ParentInput:
    """Let one input run, and return it as a parent."""
    pool = simulation.define(make_spec(spec, resources=Resources(gpu=1)), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    return ParentInput(call, 0, 1, grant.worker, grant.lease)


def test_a_child_that_needs_its_parents_device_is_rejected_with_the_chain() -> None:
    simulation = Simulation(make_resources(gpus=1))
    parent = blocked_parent(simulation, "train")
    child = simulation.define(make_spec("score", resources=Resources(gpu=1)))
    simulation.feed(
        events.CallSubmitted(CLIENT, CallId("fc-c"), child, True, 1, closed=True, parent=parent)
    )
    rejected = simulation.log[-1]
    assert isinstance(rejected, effects.RejectCall)
    assert rejected.error == "InvalidError"
    assert "train -> score" in rejected.message
    assert "1 GPU" in rejected.message


def test_a_spawned_child_fails_only_when_its_parent_waits_for_it() -> None:
    simulation = Simulation(make_resources(gpus=1))
    parent = blocked_parent(simulation)
    child = simulation.define(make_spec("g", resources=Resources(gpu=1)))
    call = CallId("fc-c")
    simulation.feed(events.CallSubmitted(CLIENT, call, child, False, 1, closed=True, parent=parent))
    assert not simulation.outcomes(call)
    simulation.feed(events.WorkerBlocked(parent, (call,)))
    assert simulation.outcomes(call) == {"INIT_FAILED": 1}


def test_a_second_device_is_enough() -> None:
    simulation = Simulation(make_resources(gpus=2))
    parent = blocked_parent(simulation)
    child = simulation.define(make_spec("g", resources=Resources(gpu=1)), 0.01)
    call = CallId("fc-c")
    simulation.feed(events.CallSubmitted(CLIENT, call, child, True, 1, closed=True, parent=parent))
    simulation.feed(events.WorkerBlocked(parent, (call,)))
    simulation.run(until=lambda: call in simulation.finished_at, seconds=5)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}


def test_waiting_for_calls_that_are_over_blocks_nothing() -> None:
    simulation = Simulation(make_resources(gpus=1))
    parent = blocked_parent(simulation)
    simulation.feed(events.WorkerBlocked(parent, (CallId("fc-over"),)))
    assert [w.state for w in simulation.core.status().workers] == ["busy"]


def test_waiting_for_what_is_no_call_frees_the_slot_until_it_runs_on() -> None:
    simulation = Simulation(make_resources(gpus=1))
    parent = blocked_parent(simulation)
    for calls in ((NO_CALL,), (CallId("fc-over"), NO_CALL)):
        simulation.feed(events.WorkerBlocked(parent, calls))
        assert [w.state for w in simulation.core.status().workers] == ["blocked"]
        simulation.feed(events.WorkerResumed(parent))
        assert [w.state for w in simulation.core.status().workers] == ["busy"]


def test_resuming_without_an_outcome_takes_the_slot_back() -> None:
    simulation = Simulation(make_resources(1, gpus=1))
    parent = blocked_parent(simulation)
    other = simulation.define(make_spec("g"), lambda *_: "hang")
    call = simulation.submit(other, 2)
    simulation.run(0.1)
    assert simulation.core.status().hosts[0].cpu_used == 1
    simulation.feed(events.WorkerBlocked(parent, (call,)))
    simulation.run(0.1)
    assert sorted(w.state for w in simulation.core.status().workers) == ["blocked", "busy"]
    simulation.feed(events.WorkerResumed(parent))
    assert simulation.core.status().hosts[0].cpu_used == 2
    simulation.feed(events.WorkerResumed(parent))


def test_the_outcome_of_a_child_gives_the_slot_back_in_the_same_turn() -> None:
    simulation = Simulation(make_resources(1, gpus=1))
    parent = blocked_parent(simulation)
    other = simulation.define(make_spec("g"), lambda *_: "hang")
    call = simulation.submit(other, 2)
    simulation.feed(events.WorkerBlocked(parent, (call,)))
    simulation.run(0.1)
    grant = [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]
    ended = events.InputEnded(grant.worker, grant.lease, grant.start, Outcome.FAILED, 0.1)
    simulation.feed(ended)
    assert sorted(w.state for w in simulation.core.status().workers) == ["busy", "idle"]
    assert simulation.core.status().hosts[0].cpu_used == 1


def test_what_a_blocked_worker_has_not_started_is_asked_back() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda _c, i, _a: "hang" if i == 200 else 0.0001)
    call = simulation.submit(pool, 1_000)
    simulation.run(2.0)
    held = simulation.alive(pool)[0].leases[0]
    parent = ParentInput(call, 200, 1, held.worker, held.lease)
    child = CallId("fc-c")
    simulation.feed(
        events.CallSubmitted(ClientId("cl-w"), child, pool, True, 1, closed=True, parent=parent)
    )
    before = simulation.effects["TakeBack"]
    simulation.feed(events.WorkerBlocked(parent, (child,)))
    assert simulation.effects["TakeBack"] > before
    simulation.run(5.0)
    assert child in simulation.finished_at


def test_children_of_a_blocked_worker_go_first() -> None:
    simulation = Simulation(make_resources(1, gpus=1))
    parent = blocked_parent(simulation)
    other = simulation.define(make_spec("g"), 0.05)
    simulation.submit(other, 100)
    child = simulation.submit(other, 1)
    simulation.feed(events.WorkerBlocked(parent, (child,)))
    assert simulation.run_call(child) < 0.2


def test_a_workers_connection_that_makes_no_calls_keeps_nothing_alive() -> None:
    simulation = Simulation()
    nested = ClientId("cl-nested")
    simulation.feed(events.ClientConnected(nested, is_nested=True))
    spec = make_spec("warm", settings=PoolSettings(min_containers=1, scaledown_window_seconds=1))
    simulation.feed(events.FunctionDefined(nested, spec))
    simulation.feed(events.ClientLost(CLIENT))
    simulation.run(90)
    assert simulation.core.is_idle()
    assert not simulation.alive(spec.pool)


def test_workers_connections_neither_keep_floors_nor_the_broker() -> None:
    simulation = Simulation(make_resources(gpus=1))
    parent = blocked_parent(simulation)
    nested = ClientId("cl-nested")
    simulation.feed(events.ClientConnected(nested))
    spec = make_spec("warm", settings=PoolSettings(min_containers=1, scaledown_window_seconds=1))
    simulation.feed(events.FunctionDefined(nested, spec))
    for number in itertools.count():
        call = CallId(f"fc-n{number}")
        simulation.define(spec, 0.01)
        simulation.feed(
            events.CallSubmitted(nested, call, spec.pool, True, 1, closed=True, parent=parent)
        )
        if number:
            break
    simulation.run(1)
    simulation.feed(events.ClientLost(CLIENT))
    simulation.run(90)
    assert simulation.core.is_idle()
    assert not simulation.alive(spec.pool)


def test_what_comes_back_of_a_child_waits_on_where_its_parent_holds_nothing_that_it_needs() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    above = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    parent = ParentInput(call, 0, 1, above.worker, above.lease)
    child = CallId("fc-child")
    simulation.feed(events.CallSubmitted(CLIENT, child, pool, True, 1, closed=True, parent=parent))
    simulation.feed(events.WorkerBlocked(parent, (child,)))
    simulation.run(0.1)
    grant = [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]
    assert grant.call == child
    back = events.InputsReturned(grant.worker, grant.lease, grant.start, grant.stop)
    told = simulation.core.handle(back, simulation.now)
    assert [type(effect).__name__ for effect in told] == ["GrantLease"], "it runs again"


def test_a_call_that_ends_without_an_input_is_awaited_no_more() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 1)
    simulation.run(0.1)
    grant = next(e for e in simulation.log if isinstance(e, effects.GrantLease))
    parent = ParentInput(call, 0, 1, grant.worker, grant.lease)
    empty = CallId("fc-empty")
    simulation.feed(events.CallSubmitted(CLIENT, empty, pool, True, 0, closed=False, parent=parent))
    simulation.feed(events.WorkerBlocked(parent, (empty,)))
    simulation.feed(events.InputsClosed(empty, 0))
    simulation.feed(events.WorkerResumed(parent))
    worker = simulation.core._state.workers[grant.worker]
    assert (worker.waiting, worker.on_cpu) == (0, True)


def waiting_for_one_call(parents: int) -> tuple[Simulation, CallId, list[ParentInput]]:
    """Return inputs that wait for one call, whose own input cannot run."""
    simulation = Simulation(make_resources(parents))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, parents)
    simulation.run(0.1)
    grants = [e for e in simulation.log if isinstance(e, effects.GrantLease)]
    above = [ParentInput(call, e.start, 1, e.worker, e.lease) for e in grants]
    none = simulation.define(make_spec("g", settings=PoolSettings(max_containers=0)))
    child = CallId("fc-child")
    simulation.feed(events.CallSubmitted(CLIENT, child, none, True, 1, closed=True))
    for parent in above:
        simulation.feed(events.WorkerBlocked(parent, (child,)))
    return simulation, child, above


def test_a_call_is_awaited_until_the_last_who_waits_runs_on() -> None:
    simulation, child, parents = waiting_for_one_call(2)
    state = simulation.core._state
    for left, parent in zip((1, 0), parents, strict=True):
        simulation.feed(events.WorkerResumed(parent))
        assert len(state.calls[child].waiters) == left
        assert (child in state.calls[child].pool.nested) is bool(left)


def test_an_input_that_is_answered_waits_no_more() -> None:
    simulation, child, (parent,) = waiting_for_one_call(1)
    late = events.InputEnded(parent.worker, parent.lease, 0, Outcome.TIMED_OUT, 10.0)
    simulation.feed(late)
    assert simulation.outcomes(parent.call) == {"TIMED_OUT": 1}
    assert not simulation.core._state.calls[child].waiters
    assert simulation.core._state.workers[parent.worker].waiting == 0
