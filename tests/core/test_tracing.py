"""What the core keeps for the call graph: exact while a call is open, small, and not for ever."""

from __future__ import annotations

import msgspec
import pytest

from kernel_worker import records, traces
from kernel_worker.core import effects, events, tracing
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import CallId, Outcome, ParentInput, PoolId, RetryPolicy, WorkerId
from kernel_worker.traces import CallTrace
from tests.core.simulation import (
    CLIENT,
    HOST,
    Nested,
    Script,
    Simulation,
    make_resources,
    make_spec,
)

OTHER = CallId("fc-other")


def tree(simulation: Simulation, call: CallId) -> dict[CallId, CallTrace]:
    """Return what the core tells of the tree of a call."""
    root = simulation.core.root_of(call)
    assert root is not None
    found = [msgspec.msgpack.decode(e, type=CallTrace) for e in simulation.core.call_tree(root)]
    assert len({trace.call for trace in found}) == len(found)
    return {trace.call: trace for trace in found}


def told(trace: CallTrace) -> dict[int, str]:
    """Return how inputs ended, by index."""
    return {
        index: Outcome(row.outcome).name
        for row in traces.rows_of(trace.rows)
        for index in range(row.start, row.start + row.size)
    }


def nested_records(simulation: Simulation) -> list[records.AttachedCallEnded]:
    found = [one.record for one in simulation.log if isinstance(one, effects.Record)]
    return [record for record in found if isinstance(record, records.AttachedCallEnded)]


def calling(pool: PoolId, count: int = 1) -> Script:
    """Run for a moment, and call and wait for `pool`."""
    yield 0.001
    yield Nested(pool, count)
    return ""


def hanging_child(simulation: Simulation, call: CallId, child: PoolId) -> CallId:
    """Submit an attached call of `child` inside the input 0 of `call`, which runs."""
    grant = next(
        one
        for one in reversed(simulation.log)
        if isinstance(one, effects.GrantLease) and one.call == call
    )
    parent = ParentInput(call, 0, grant.attempt, grant.worker, grant.lease)
    simulation.feed(events.CallSubmitted(CLIENT, OTHER, child, True, 1, closed=True, parent=parent))
    return OTHER


def test_the_trace_of_a_map_tells_how_every_input_ended() -> None:
    simulation = Simulation()
    spec = make_spec(retries=RetryPolicy(1, 1.0, 0.1))
    ends = {3: "fail", 5: "crash"}
    pool = simulation.define(spec, lambda _c, index, _a: ends.get(index, 0.02))
    call = simulation.submit(pool, 12)
    simulation.run(until=lambda: len(simulation.history.reported.get(call, {})) > 6)
    trace = tree(simulation, call)[call]
    assert told(trace) == simulation.history.reported[call]
    held = {index for _, first, stop, _, _ in trace.running for index in range(first, stop)}
    assert held.isdisjoint(told(trace))
    simulation.run_call(call)
    trace = tree(simulation, call)[call]
    assert told(trace) == simulation.history.reported[call]
    assert (trace.total, trace.running, trace.attempts, trace.parent) == (12, (), (), "")
    attempts = {row.start: row.attempt for row in traces.rows_of(trace.rows)}
    assert (attempts[3], attempts[5]) == (2, 3)
    slow = next(row for row in traces.rows_of(trace.rows) if row.start == 0)
    assert slow.elapsed_seconds == pytest.approx(0.02, abs=0.001)
    assert WorkerId(f"{trace.workers}-{slow.worker}") in simulation.workers


def test_what_waits_for_another_attempt_says_which() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(retries=RetryPolicy(1, 1.0, 60.0)), lambda *_: "fail")
    call = simulation.submit(pool, 1)
    simulation.run(1)
    trace = tree(simulation, call)[call]
    assert (trace.attempts, trace.rows) == (((0, 2),), b"")


def test_a_million_quick_inputs_cost_a_row_a_lease() -> None:
    simulation = Simulation(checked=False)
    call = simulation.submit(simulation.define(make_spec(), 1e-6), 1_000_000, batch=5_000)
    simulation.run_call(call)
    trace = tree(simulation, call)[call]
    assert len(trace.rows) < 20_000
    assert sum(row.size for row in traces.rows_of(trace.rows)) == 1_000_000


def test_a_worker_that_answers_a_lease_in_parts_extends_its_row() -> None:
    simulation = Simulation(make_resources(1))
    pool = simulation.define(make_spec(), lambda _c, index, _a: 0.0001 if index < 200 else 0.004)
    call = simulation.submit(pool, 300)
    simulation.run_call(call)
    trace = tree(simulation, call)[call]
    rows = list(traces.rows_of(trace.rows))
    assert len(rows) == simulation.effects["GrantLease"] < simulation.effects["ReportRange"]
    assert told(trace) == simulation.history.reported[call]
    assert sum(row.elapsed_seconds for row in rows) == pytest.approx(0.42, rel=0.05)


def test_a_trace_that_grows_too_long_is_condensed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_BYTES", 10 * traces.ROW_BYTES)
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda _c, i, _a: "fail" if i == 50 else 0.02)
    call = simulation.submit(pool, 200)
    simulation.run_call(call)
    trace = tree(simulation, call)[call]
    assert len(trace.rows) <= 11 * traces.ROW_BYTES
    assert told(trace) == simulation.history.reported[call]
    failing = simulation.define(make_spec("g"), lambda _c, i, _a: "fail" if i % 2 else 0.02)
    call = simulation.submit(failing, 40)
    simulation.run_call(call)
    assert told(tree(simulation, call)[call]) == simulation.history.reported[call]


def test_nested_calls_that_ended_stay_with_their_root() -> None:
    simulation = Simulation()
    leaf = simulation.define(make_spec("leaf"))
    middle = simulation.define(make_spec("middle"), lambda *_: calling(leaf, 3))
    top = simulation.define(make_spec("top"), lambda *_: calling(middle, 2))
    call = simulation.submit(top, 1)
    simulation.run_call(call)
    found = tree(simulation, call)
    assert sorted(trace.name for trace in found.values()) == ["leaf", "leaf", "middle", "top"]
    middle_call = next(trace.call for trace in found.values() if trace.name == "middle")
    leaves = [trace for trace in found.values() if trace.name == "leaf"]
    assert {trace.parent for trace in leaves} == {middle_call}
    assert sorted(trace.parent_index for trace in leaves) == [0, 1]
    assert found[middle_call].parent == call
    assert not nested_records(simulation)


def test_no_record_is_made_where_nobody_spawned_and_one_each_where_somebody_did() -> None:
    simulation = Simulation()
    leaf = simulation.define(make_spec("leaf"))
    top = simulation.define(make_spec("top"), lambda *_: calling(leaf, 3))
    simulation.run_call(simulation.submit(top, 1))
    assert simulation.effects["Record"] == 0
    call = simulation.submit(top, 2, attached=False)
    simulation.run_call(call)
    ended = nested_records(simulation)
    assert [one.call for one in ended] == [call, call]
    assert [one.trace.parent for one in ended] == [call, call]
    assert sorted(one.trace.parent_index for one in ended) == [0, 1]
    assert [len(told(one.trace)) for one in ended] == [3, 3]
    assert simulation.core.root_of(call) is None
    assert simulation.core.call_tree(call) == []


def test_a_trace_is_told_in_parts_and_what_may_grow_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: 0.02)
    call = simulation.submit(pool, 40)
    core = simulation.core
    assert core.call_trace(OTHER, 0, 100) is None
    simulation.run(until=lambda: len(simulation.history.reported.get(call, {})) > 6)
    lease = next(iter(core._state.calls[call].leases.values()))
    lease.traced_at = 4 * traces.ROW_BYTES  # as if it had answered a part of its inputs
    lease.traced_to = lease.next
    part = core.call_trace(call, 0, 10**6)
    assert part is not None
    assert (part.more, part.after) == (False, lease.traced_at)
    with monkeypatch.context() as patched:
        patched.setattr(tracing, "TOLD_AGAIN_BYTES", 0)
        far = core.call_trace(call, 0, 10**6)
    assert far is not None
    assert far.after == len(far.trace.rows)
    lease.traced_to = -1
    simulation.run_call(call)
    whole = tree(simulation, call)[call]
    rows, after, more = b"", 0, True
    while more:
        part = core.call_trace(call, after, 3 * traces.ROW_BYTES)
        assert part is not None
        rows, after, more = rows + part.trace.rows, part.after, part.more
    assert rows == whole.rows
    assert len(told(whole)) == 40
    again = core.call_trace(call, len(rows) + 1, 10**6)
    assert again is not None
    assert again.trace == whole


def test_a_spawned_call_inside_a_nested_one_belongs_to_the_tree_and_keeps_its_own() -> None:
    simulation = Simulation()
    leaf = simulation.define(make_spec("leaf"), lambda *_: "hang")
    top = simulation.define(make_spec("top"), lambda *_: "hang")
    call = simulation.submit(top, 1)
    simulation.run(0.1)
    child = hanging_child(simulation, call, leaf)
    parent = ParentInput(child, 0, 1, WorkerId("ta"), 1)  # type: ignore[arg-type]
    spawned = CallId("fc-spawned")
    simulation.feed(
        events.CallSubmitted(CLIENT, spawned, leaf, False, 1, closed=True, parent=parent)
    )
    assert {simulation.core.root_of(each) for each in (call, child, spawned)} == {call}
    record = next(
        one.record
        for one in simulation.log
        if isinstance(one, effects.Record) and isinstance(one.record, records.CallSubmitted)
    )
    assert (record.parent, record.root) == (parent, call)
    again = Scheduler("again")
    ended = records.AttachedCallEnded(spawned, CallTrace(child, call, 0, "f", "m", 0.0, 1, "ta"))
    again.restore([record, ended], 0.0)
    again.handle(events.HostJoined(HOST, make_resources()), 1.0)
    assert again.root_of(spawned) == call
    trace = msgspec.msgpack.decode(again.call_tree(call)[0], type=CallTrace)
    assert (trace.call, trace.parent) == (spawned, child)
    assert again._state.calls[spawned].keeper == spawned


def test_records_of_spawned_calls_say_who_ran_them_and_when() -> None:
    simulation = Simulation()
    ends = {1: "fail", 2: "hang"}
    pool = simulation.define(make_spec(), lambda _c, index, _a: ends.get(index, 0.5))
    call = simulation.submit(pool, 4, attached=False)
    simulation.run(2)
    simulation.feed(events.CallCancelled(call, terminate=False))
    simulation.run(2)
    facts = [one.record for one in simulation.log if isinstance(one, effects.Record)]
    values = [one for one in facts if isinstance(one, records.RangeSucceeded)]
    ended = {one.index: one for one in facts if isinstance(one, records.InputEnded)}
    assert {one.start for one in values} == {0, 3}
    both: list[records.RangeSucceeded | records.InputEnded] = [*values, *ended.values()]
    for fact in both:
        assert fact.worker in simulation.workers
        assert fact.began_at <= fact.ended_at
        assert fact.attempt == 1
    assert values[0].ended_at - values[0].began_at == pytest.approx(0.5)
    assert ended[2].outcome is Outcome.CANCELLED


def test_what_never_ran_has_no_worker() -> None:
    simulation = Simulation(start=1e9)
    call = simulation.submit(simulation.define(make_spec()), 3, attached=False)
    simulation.feed(events.CallCancelled(call, terminate=False))
    facts = [one.record for one in simulation.log if isinstance(one, effects.Record)]
    ended = next(one for one in facts if isinstance(one, records.InputEnded))
    assert (ended.count, ended.worker, ended.ended_at) == (3, "", simulation.now)


def test_only_the_last_roots_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "RECENT_CALLS", 3)
    simulation = Simulation()
    pool = simulation.define(make_spec())
    calls = [simulation.submit(pool, 1) for _ in range(5)]
    simulation.run(10)
    assert [simulation.core.root_of(call) for call in calls] == [None, None, *calls[2:]]
    monkeypatch.setattr(tracing, "RECENT_BYTES", 0)
    last = simulation.submit(pool, 1)
    simulation.run_call(last)
    assert list(simulation.core._state.recent) == [last]
    assert simulation.core._state.recent_bytes == traces.ROW_BYTES


def test_a_tree_keeps_only_so_much_of_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "TREE_BYTES", 200)
    simulation = Simulation(make_resources(1))
    leaf = simulation.define(make_spec("leaf"))
    call = simulation.submit(simulation.define(make_spec("top"), lambda *_: calling(leaf)), 20)
    simulation.run_call(call)
    assert 2 < len(tree(simulation, call)) < 10


def test_a_nested_call_that_outlives_its_root_is_still_told_with_it() -> None:
    simulation = Simulation()
    leaf = simulation.define(make_spec("leaf"), lambda *_: "hang")
    top = simulation.define(make_spec("top", rerun_on_crash=False), lambda *_: "hang")
    call = simulation.submit(top, 1)
    simulation.run(0.1)
    child = hanging_child(simulation, call, leaf)
    simulation.run(0.1)
    worker = next(one for one in simulation.workers.values() if one.pool == top)
    simulation.kill(worker)
    simulation.run(0.0002, until=lambda: call in simulation.finished_at)
    assert call in simulation.finished_at
    assert simulation.core.root_of(child) == call
    assert [row.outcome for row in traces.rows_of(tree(simulation, call)[call].rows)] == [
        Outcome.LOST
    ]
    simulation.run_call(child)
    assert told(tree(simulation, call)[child]) == {0: "CANCELLED"}
    state = simulation.core._state
    assert state.recent_bytes == sum(
        len(one.trace) + one.history_bytes for one in [state.recent[call]]
    )


def test_a_call_whose_parent_is_not_known_is_a_root() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), lambda *_: "hang")
    parent = ParentInput(CallId("fc-gone"), 0, 1, WorkerId("ta"), 1)  # type: ignore[arg-type]
    simulation.feed(events.CallSubmitted(CLIENT, OTHER, pool, True, 1, closed=True, parent=parent))
    assert simulation.core.root_of(OTHER) == OTHER
    assert simulation.core.root_of(CallId("fc-gone")) is None
