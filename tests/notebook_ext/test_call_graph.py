"""A tree of inputs is made from what a broker knows; and what a broker of ours tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import notebook_ext as nb
from kernel_worker import records, traces
from kernel_worker.model import CallId, Outcome, WorkerId
from kernel_worker.traces import CallTrace
from kernel_worker.wire.messages import Graph, TreeCall
from notebook_ext.call_graph import InputInfo, InputStatus, read_graph
from notebook_ext.exception import NotFoundError

ROOT, CHILD, NONE = CallId("fc-r"), CallId("fc-c"), CallId("")
WORKER = WorkerId("ta-i-1")


def read(
    calls: list[TreeCall], told: list[CallTrace], facts: list[records.Record] | None = None
) -> list[InputInfo]:
    frames = [msgspec.msgpack.encode(told)]
    if facts is not None:
        frames.append(msgspec.msgpack.encode(facts))
    return read_graph(Graph(ROOT, calls), frames)


def attached(rows: bytes = b"", **fields: Any) -> CallTrace:
    given: dict[str, Any] = {
        "call": ROOT,
        "parent": NONE,
        "parent_index": 0,
        "name": "f",
        "module": "m",
        "submitted_at": 100.0,
        "total": 4,
        "workers": "ta-i",
        "rows": rows,
    }
    return CallTrace(**(given | fields))


def test_the_inputs_of_an_attached_call() -> None:
    rows = bytearray()
    traces.add(rows, 0, 2, 1, (3.0, 2.0), 1, Outcome.SUCCEEDED)
    running = ((WORKER, 2, 3, 2, 105.0),)
    nodes = read([], [attached(bytes(rows), running=running, attempts=((3, 2),))])
    assert [(n.status.name, n.task_id, n.attempt, n.started_at, n.ended_at) for n in nodes] == [
        ("SUCCESS", "ta-i-1", 1, 101.0, 102.0),
        ("SUCCESS", "ta-i-1", 1, 102.0, 103.0),
        ("PENDING", "ta-i-1", 2, 105.0, None),
        ("PENDING", "", 2, None, None),
    ]
    first = nodes[0]
    assert (first.input_id, first.function_call_id) == ("in-r-0", "fc-r")
    assert (first.function_name, first.module_name, first.children) == ("f", "m", [])


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.SUCCEEDED, InputStatus.SUCCESS),
        (Outcome.FAILED, InputStatus.FAILURE),
        (Outcome.LOST, InputStatus.FAILURE),
        (Outcome.CANCELLED, InputStatus.TERMINATED),
        (Outcome.TIMED_OUT, InputStatus.TIMEOUT),
        (Outcome.INIT_FAILED, InputStatus.INIT_FAILURE),
    ],
)
def test_each_outcome_has_its_status(outcome: Outcome, status: InputStatus) -> None:
    rows = bytearray()
    traces.add(rows, 0, 1, 0, (3.0, 0.0), 1, outcome)
    node = read([], [attached(bytes(rows), total=1)])[0]
    assert (node.status, node.task_id, node.started_at, node.ended_at) == (status, "", None, 103.0)


def test_what_the_journal_says_is_newer_than_what_runs() -> None:
    spawned = TreeCall(ROOT, NONE, 0, "f", "m", 100.0)
    running = ((WORKER, 0, 2, 1, 105.0),)
    facts: list[records.Record] = [
        records.InputsAdded(ROOT, 0, 3),
        records.InputsClosed(ROOT, 4),
        records.AttemptFailed(ROOT, 3, 1),
        records.RangeSucceeded(ROOT, 0, 1, 0, 1, WORKER, 105.0, 106.0),
        records.InputEnded(ROOT, 2, 1, Outcome.FAILED, 1, "", WORKER, 106.0, 107.0),
        records.InputEnded(CHILD, 0, 1, Outcome.FAILED, 1, "", WORKER, 106.0, 107.0),
        records.CallCancelled(ROOT),
    ]
    nodes = read([spawned], [attached(total=4, running=running)], facts)
    assert [(n.status.name, n.attempt, n.started_at, n.ended_at) for n in nodes] == [
        ("SUCCESS", 1, 105.0, 106.0),
        ("PENDING", 1, None, None),
        ("FAILURE", 1, 106.0, 107.0),
        ("PENDING", 2, None, None),
    ]


def test_what_an_old_journal_does_not_say_is_none() -> None:
    spawned = TreeCall(ROOT, NONE, 0, "f", "m", 100.0)
    (node,) = read(
        [spawned], [], [records.InputsAdded(ROOT, 0, 1), records.RangeSucceeded(ROOT, 0, 1, 0)]
    )
    assert (node.status.name, node.started_at, node.ended_at) == ("SUCCESS", None, None)


def test_calls_hang_below_the_input_that_made_them_in_order() -> None:
    spawned = TreeCall(ROOT, NONE, 0, "top", "m", 100.0)
    rows = bytearray()
    traces.add(rows, 0, 2, 1, (1.0, 1.0), 1, Outcome.SUCCEEDED)
    ended = [
        attached(
            bytes(rows),
            call=CallId(name),
            parent=ROOT,
            parent_index=1,
            name=name,
            total=2,
            submitted_at=at,
        )
        for name, at in (("fc-late", 102.0), ("fc-early", 101.0))
    ]
    facts: list[records.Record] = [records.InputsClosed(ROOT, 2)]
    facts += [records.AttachedCallEnded(ROOT, trace) for trace in ended]
    orphan = TreeCall(CHILD, CallId("fc-gone"), 0, "orphan", "m", 99.0)
    facts.append(records.InputsClosed(CHILD, 1))
    live = attached(call=CallId("fc-late"), parent=ROOT, parent_index=1, name="fc-late", total=2)
    nodes = read([spawned, orphan], [msgspec.structs.replace(live, submitted_at=102.0)], facts)
    assert [node.function_name for node in nodes] == ["orphan", "top", "top"]
    below = nodes[2].children
    assert [n.function_name for n in below] == ["fc-early"] * 2 + ["fc-late"] * 2
    assert {n.status for n in below} == {InputStatus.SUCCESS}, "what has ended replaces what ran"
    assert nodes[1].children == []


def test_a_chain_of_calls_may_be_long() -> None:
    chain = [
        attached(call=CallId(f"fc-{n}"), parent=CallId(f"fc-{n - 1}"), total=1)
        for n in range(5_000)
    ]
    node, depth = read([], chain)[0], 1
    while node.children:
        node, depth = node.children[0], depth + 1
    assert depth == 5_000


def test_a_hundred_thousand_inputs_are_a_node_each() -> None:
    rows = bytearray()
    for start in range(100_000):
        traces.add(rows, start, start + 1, 1, (start / 100, 0.01), 1, Outcome.SUCCEEDED)
    nodes = read([], [attached(bytes(rows), total=100_000)])
    assert len(nodes) == 100_000


def test_the_graph_of_a_call_that_runs_and_has_ended(live: nb.App, loop: Any) -> None:
    @live.function
    def leaf(x: int) -> int:
        return x

    @live.function
    def top(n: int) -> tuple[int, str]:
        import notebook_ext as nb

        found = sum(leaf.map(range(n)))
        call = nb.FunctionCall.from_id(str(nb.current_function_call_id()))
        (mine,) = call.get_call_graph()
        assert mine.input_id == nb.current_input_id()
        assert [child.status.name for child in mine.children] == ["SUCCESS"] * n
        assert mine.status is nb.call_graph.InputStatus.PENDING
        return found, call.object_id

    found, name = top.remote(3)
    assert found == 3
    (root,) = nb.FunctionCall.from_id(name).get_call_graph()
    assert (root.status, len(root.children)) == (InputStatus.SUCCESS, 3)
    call = top.spawn(2)
    call.get()
    (root,) = call.get_call_graph()
    (again,) = loop.run(nb.FunctionCall.from_id(call.object_id).get_call_graph.aio())
    assert root == again
    assert root.task_id.startswith("ta-")
    assert root.started_at is not None
    assert root.ended_at is not None
    for child in root.children:
        assert child.started_at is not None
        assert root.started_at - 1 < child.started_at < root.ended_at
    with pytest.raises(NotFoundError, match="fc-0"):
        nb.FunctionCall.from_id("fc-0").get_call_graph()
