"""What happens rarely: late messages, odd orders, and every sentence of the invariants broken."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from kernel_worker import records, traces
from kernel_worker.core import effects, events
from kernel_worker.core.calls import Call
from kernel_worker.core.hosts import Host
from kernel_worker.core.invariants import History, InvariantBroken, check
from kernel_worker.core.leases import Lease
from kernel_worker.core.pools import Condition, Worker
from kernel_worker.core.state import State
from kernel_worker.core.transitions import Cause
from kernel_worker.model import (
    CallId,
    Digest,
    HostId,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    WorkerId,
)
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec

NOBODY = WorkerId("ta-gone")


def running() -> tuple[Simulation, State, Call, Worker]:
    """Return a simulation in which one input runs, one waits and one worker is idle."""
    simulation = Simulation(make_resources(1, gpus=1))
    spec = make_spec(resources=Resources(gpu=0.5), settings=PoolSettings(min_containers=2))
    pool = simulation.define(spec, lambda *_: "hang")
    simulation.run(0.1)
    call = simulation.submit(pool, 2)
    simulation.run(0.1)
    state = simulation.core._state
    worker = next(w for w in state.workers.values() if w.leases)
    return simulation, state, state.calls[call], worker


# -- late and odd messages


def test_messages_about_what_is_gone_change_nothing() -> None:
    simulation, state, _, worker = running()
    before = len(simulation.log)
    lease = next(iter(worker.leases.values()))
    parent = ParentInput(lease.call.id, 0, 9, worker.id, lease.id)
    for event in (
        events.WorkerStarted(NOBODY, 1, "forked"),
        events.WorkerReady(NOBODY),
        events.WorkerDelayed(NOBODY),
        events.WorkerDelayed(worker.id),
        events.WorkerReady(worker.id),
        events.WorkerStartFailed(worker.id, "too late"),
        events.WorkerExited(NOBODY, "killed"),
        events.WorkerBlocked(parent, (lease.call.id,)),
        events.InputsAdded(CallId("fc-gone"), 0, 1),
        events.InputsClosed(CallId("fc-gone"), 1),
    ):
        simulation.feed(event)
    assert simulation.log[before:] == []
    simulation.feed(events.WorkerStarted(worker.id, 7, "forked"))
    assert (worker.pid, worker.start) == (7, "forked")
    state.timers.set(("cancel", worker.id), simulation.now)
    state.timers.set(("startup", worker.id), simulation.now)
    gone = [("retry", "fc-gone"), ("cancel", "ta-gone"), ("idle", "po-gone"), ("floor", "po-gone")]
    for key in gone:
        state.timers.set(key, simulation.now)
    simulation.feed(events.TimePassed())
    assert simulation.log[before:] == []


def test_a_middle_part_that_comes_back_is_not_believed() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), 1e-5)
    simulation.submit(pool, 3_000)
    simulation.run(
        until=lambda: any(
            isinstance(e, effects.GrantLease) and e.stop - e.start > 9 for e in simulation.log
        )
    )
    grant = [e for e in simulation.log if isinstance(e, effects.GrantLease)][-1]
    middle = events.InputsReturned(grant.worker, grant.lease, grant.start + 2, grant.start + 4)
    before = len(simulation.log)
    simulation.feed(middle)
    assert simulation.log[before:] == []
    simulation.feed(events.InputsReturned(grant.worker, grant.lease, grant.start, grant.start + 2))
    info = simulation.core.call_info(CallId("fc-1"))
    assert info is not None
    assert info.pending >= 2


def test_a_host_that_says_hello_again_may_have_more() -> None:
    simulation, _, _, _ = running()
    simulation.feed(events.HostJoined(HOST, make_resources(2, gpus=1)))
    assert simulation.core.status().hosts[0].resources.cpu == 2
    assert simulation.core.status().pools[0].busy == 2


def test_a_definition_with_other_settings_changes_them() -> None:
    simulation, _, call, _ = running()
    spec = make_spec(resources=Resources(gpu=0.5), settings=PoolSettings(min_containers=3))
    simulation.feed(events.FunctionDefined(CLIENT, spec))
    assert call.pool.settings.min_containers == 3
    packed_anew = msgspec.structs.replace(spec, code=Digest("same code, other bytes"))
    simulation.feed(events.FunctionDefined(CLIENT, packed_anew))
    assert call.pool.spec == packed_anew


def test_a_definition_under_the_id_of_another_changes_nothing_else() -> None:
    simulation, _, call, _ = running()
    known = call.pool.spec
    other = make_spec("g", "2", resources=Resources(cpu=1e-8), rerun_on_crash=False)
    wrong = msgspec.structs.replace(other, pool=known.pool)
    simulation.feed(events.FunctionDefined(CLIENT, wrong))
    kept = msgspec.structs.replace(known, code=wrong.code, settings=wrong.settings)
    assert call.pool.spec == kept
    assert not call.pool.superseded
    simulation.feed(events.FunctionReleased(CLIENT, known.pool))
    simulation.feed(events.CallCancelled(call.id, terminate=True))
    simulation.run(100)
    assert not simulation.core.status().pools


def test_workers_without_a_cpu_share_are_bounded_by_the_backlog() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(resources=Resources(cpu=0.0)), 0.5)
    call = simulation.submit(pool, 6)
    assert simulation.run_call(call) < 0.6
    assert simulation.running_most[pool] == 6


def test_a_small_host_is_passed_over() -> None:
    simulation = Simulation(make_resources(4, gpus=1))
    simulation.feed(events.HostJoined(HostId("ho-small"), make_resources(1, 100)))
    wide = make_spec(resources=Resources(cpu=2.0, memory_mib=3000))
    other = make_spec("g", resources=Resources(cpu=2.0, memory_mib=3000))
    held = simulation.define(wide, lambda *_: "hang")
    simulation.submit(held, 1)
    simulation.run(0.1)
    waiting = simulation.submit(simulation.define(other, 0.1), 1)
    simulation.run(10)
    progress = simulation.core.call_progress(waiting)
    assert progress is not None
    assert progress.waiting_for == "no free memory: pool f has 1"
    assert {w.host.id for w in simulation.core._state.workers.values()} == {HOST}


def test_a_drained_worker_hands_back_what_it_has_not_started() -> None:
    simulation = Simulation(make_resources(gpus=1))
    gpu = Resources(gpu=1)
    slow = simulation.define(
        make_spec("f", resources=gpu), lambda _c, i, _a: 3.0 if i >= 600 else 0.0004
    )
    first = simulation.submit(slow, 602)
    simulation.run(0.3)
    second = simulation.submit(simulation.define(make_spec("g", resources=gpu), 0.01), 1)
    simulation.run_call(second)
    simulation.run_call(first)
    assert simulation.outcomes(first) == {"SUCCEEDED": 602}


def test_an_endless_map_forgets_its_batches() -> None:
    simulation = Simulation(checked=False)
    pool = simulation.define(make_spec(), 1e-6)
    call = CallId("fc-endless")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, True, 0, closed=False))
    for start in range(0, 400_000, 500):
        simulation.feed(events.InputsAdded(call, start, 500))
        simulation.run(0.005)
    known = simulation.core._state.calls[call]
    assert known.states.begin > 300_000
    assert len(known._batches) < 500


def test_a_pool_that_backs_off_says_so() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "crash")
    call = simulation.submit(pool, 1)
    simulation.run(0.05)
    progress = simulation.core.call_progress(call, simulation.now + 10)
    assert progress is not None
    assert "died before it was ready" in progress.waiting_for


def test_a_chain_that_waits_for_itself_ends() -> None:
    simulation, state, call, worker = running()
    lease = next(iter(worker.leases.values()))
    call.parent = ParentInput(call.id, lease.next, 1, worker.id, lease.id)
    child = simulation.define(make_spec("g", resources=Resources(gpu=1)))
    simulation.feed(
        events.CallSubmitted(
            CLIENT, CallId("fc-c"), child, True, 1, closed=True, parent=call.parent
        )
    )
    assert isinstance(simulation.log[-1], effects.RejectCall)
    assert state.calls.keys() == {call.id}


# -- the sentences, broken one at a time

BREAKS: list[tuple[str, Callable[[State, Call, Worker], object]]] = [
    ("one live lease", lambda _s, c, _w: c.leases.clear()),
    ("one live lease", lambda _s, c, _w: c.leases.update({LeaseId(9): [*c.leases.values()][0]})),  # noqa: RUF015
    ("backlog is what is PENDING", lambda _s, c, _w: c.backlog.drain()),
    ("backlog is what is PENDING", lambda _s, c, _w: setattr(c, "in_turn", False)),
    ("backlog is what is PENDING", lambda _s, c, _w: setattr(c.pool, "backlog", 7)),
    ("backlog is what is PENDING", lambda s, _c, _w: s.backlogged.clear()),
    ("DELAYED has a time", lambda _s, c, _w: c.delays.append((1.0, 0))),
    ("counts of states", lambda _s, c, _w: c.states.counts.__setitem__(5, 1)),
    ("counts of states", lambda _s, c, _w: setattr(c.states, "live", 9)),
    ("tells of what has ended", lambda _s, c, _w: note(c, 0)),
    ("tells of an input twice", lambda _s, c, _w: note(c, 0, times=2)),
    ("is over is forgotten", lambda _s, c, _w: finish(c)),
    ("than its ceiling", lambda _s, c, _w: lower_ceiling(c)),
    ("CPUs are not given twice", lambda _s, _c, w: setattr(w.host, "cpu_used", 0.0)),
    ("CPUs are not given twice", lambda _s, _c, w: shrink(w.host)),
    ("memory and devices", lambda _s, _c, w: setattr(w, "devices", (0, 0, 0))),
    ("memory and devices", lambda _s, c, _w: want_memory(c)),
    ("condition follows", lambda _s, _c, w: setattr(w, "condition", Condition.BLOCKED)),
    ("condition follows", lambda s, _c, w: s.enter(w, Condition.IDLE)),
    ("condition follows", lambda _s, _c, w: setattr(w, "condition", Condition.IDLE)),
    ("condition follows", lambda _s, _c, w: take_off_cpu(w)),
    ("condition follows", lambda _s, c, _w: setattr(c.pool, "unblocked", 9)),
    ("condition follows", lambda _s, c, w: c.pool.by_condition[3].update({w.id: w})),
    ("blocked on it", lambda _s, c, _w: c.pool.nested.update({c.id: c})),
    ("blocked on it", lambda _s, c, _w: wait_for(c)),
    ("could run it", lambda _s, _c, w: widen(w.host)),
    ("has not begun", lambda _s, c, w: c.pool.divisible.update({LeaseId(9): first_of(w)})),
    ("has not begun", lambda s, _c, w: hold_several(s, w)),
]


def first_of(worker: Worker) -> Lease:
    return next(iter(worker.leases.values()))


def hold_several(state: State, worker: Worker) -> None:
    """Hold another input, which waits: but nobody is told that it may be taken back."""
    lease = first_of(worker)
    call = lease.call
    taken = call.backlog.take(1)
    assert taken.start == lease.stop
    call.states.move(taken.start, taken.stop, Cause.GRANTED)
    state.add_backlog(call, -1)
    lease.stop = taken.stop


def finish(call: Call) -> None:
    call.closed = True
    call.states.counts[:] = [0] * len(call.states.counts)
    call.states.live = 0
    call.states._bytes.clear()
    call.backlog.drain()
    call.pool.backlog = 0
    call.leases.clear()
    call.pool.nested.clear()


def note(call: Call, index: int, times: int = 1) -> None:
    for _ in range(times):
        traces.add(call.trace, index, index + 1, 0, (0.0, 0.0), 1, Outcome.FAILED)


def lower_ceiling(call: Call) -> None:
    call.pool.settings = PoolSettings(max_containers=0)
    call.pool.spec = make_spec(resources=Resources(gpu=0.5), settings=call.pool.settings)


def shrink(host: Host) -> None:
    host.resources = make_resources(0.5, gpus=1)


def widen(host: Host) -> None:
    host.resources = make_resources(9, gpus=1)


def want_memory(call: Call) -> None:
    call.pool.spec = make_spec(resources=Resources(memory_mib=9_000))


def take_off_cpu(worker: Worker) -> None:
    worker.on_cpu = False
    worker.host.cpu_used = 0.0


def wait_for(call: Call) -> None:
    (lease,) = call.leases.values()
    call.waiters[lease.id] = lease
    call.pool.nested[call.id] = call


@pytest.mark.parametrize(("sentence", "break_it"), BREAKS)
def test_a_broken_sentence_is_named(
    sentence: str, break_it: Callable[[State, Call, Worker], object]
) -> None:
    simulation, state, call, worker = running()
    check(simulation.core)
    break_it(state, call, worker)
    if sentence == "is over is forgotten":
        state.backlogged.clear()
    with pytest.raises(InvariantBroken, match=sentence):
        check(simulation.core)


CALL = CallId("fc-1")
ENDED = records.InputEnded(CALL, 0, 1, Outcome.FAILED, 1, "")


@pytest.mark.parametrize(
    ("turn", "trouble"),
    [
        (
            [effects.ReportRange(CALL, 0, 2, 0), effects.ReportRange(CALL, 1, 2, 1)],
            "reported twice",
        ),
        ([effects.FinishCall(CALL), effects.FinishCall(CALL)], "finished twice"),
        ([effects.FinishCall(CALL), effects.ReportRange(CALL, 0, 1, 0)], "after the end"),
        (
            [effects.Record(ENDED), effects.ReportRange(CALL, 1, 2, 1)],
            "before its record",
        ),
    ],
)
def test_a_history_that_cannot_be_is_named(turn: list[effects.Effect], trouble: str) -> None:
    with pytest.raises(InvariantBroken, match=trouble):
        History().observe(turn)


def test_a_spawned_call_that_is_dispatched_before_its_record_is_named() -> None:
    _, _, call, _ = running()
    call.attached = False
    grant = effects.GrantLease(NOBODY, LeaseId(1), call.id, 0, 1, 1)
    with pytest.raises(InvariantBroken, match="dispatched before"):
        History().observe([grant], [call])


def test_an_unknown_pool_has_no_numbers() -> None:
    assert Simulation().core.pool_stats(PoolId("po-x")) is None


def test_a_worker_is_known_until_its_end_is_reported() -> None:
    simulation, _, _, worker = running()
    assert simulation.core.knows_worker(worker.id)
    simulation.feed(events.WorkerExited(worker.id, "killed"))
    assert not simulation.core.knows_worker(worker.id)
