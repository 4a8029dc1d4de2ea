"""API.md section 3, `get_call_graph()`: exact while it runs, after its end and after a restart."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.acceptance.cells import begun, typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel

DEFINE = f"""
{HEAD}
import os, time

@app.function(max_containers=2)
def leaf(x):
    if x == 3:
        raise ValueError(x)
    return x

@app.function(max_containers=2)
def middle(n):
    return len(list(leaf.map(range(n), return_exceptions=True)))

@app.function(max_containers=2, retries=nb.Retries(max_retries=2, initial_delay=0))
def top(n, mark):
    if n == 2:
        with open(mark, 'a') as file:
            file.write('x')
        if os.path.getsize(mark) < 3:
            raise ConnectionResetError(n)
    spawned = leaf.spawn(n)
    return middle.remote(n) + spawned.get()

def shape(nodes):
    return [(n.function_name, n.status.name, n.attempt, shape(n.children)) for n in nodes]

def every(nodes):
    for node in nodes:
        yield node
        yield from every(node.children)
"""
LEAF: tuple[str, str, int, list[Any]] = ("leaf", "SUCCESS", 1, [])
LEAVES = [LEAF] * 3
EXPECTED: list[Any] = [
    (
        "top",
        "SUCCESS",
        3,
        [LEAF, ("middle", "SUCCESS", 1, LEAVES[:2])],
    ),
    (
        "top",
        "FAILURE",
        3,
        [("leaf", "FAILURE", 1, []), ("middle", "SUCCESS", 1, LEAVES)] * 3,
    ),
]


@pytest.fixture(scope="module")
def defined(notebook: PlainKernel, tmp_path_factory: pytest.TempPathFactory) -> PlainKernel:
    """Return the kernel with a spawned call of two inputs, with retries and nested maps."""
    mark = tmp_path_factory.mktemp("marks") / "mark"
    typed(notebook, DEFINE)
    typed(
        notebook,
        f"""
        call = top.spawn_map([2, 3], kwargs={{'mark': {str(mark)!r}}})
        for index in range(2):
            try:
                call.get(index=index)
            except ValueError:
                pass
        graph = call.get_call_graph()
        """,
    )
    return notebook


def test_the_graph_of_an_ended_call_with_retries_and_nested_calls(defined: PlainKernel) -> None:
    """`get_call_graph()` "the roots of the tree that this call belongs to"."""
    assert value(defined, "shape(call.get_call_graph())") == EXPECTED
    assert value(defined, "shape(await call.get_call_graph.aio())") == EXPECTED


def test_the_graph_is_had_by_any_call_of_the_tree(defined: PlainKernel) -> None:
    """A spawned child belongs to the same tree."""
    found = value(
        defined,
        """
        child = nb.FunctionCall.from_id(graph[0].children[0].function_call_id)
        child.get_call_graph() == graph
        """,
    )
    assert found


def test_every_node_says_what_modals_does_and_more(defined: PlainKernel) -> None:
    """`input_id, function_call_id, task_id, status, function_name, module_name, children`."""
    typed(
        defined,
        """
        from notebook_ext.call_graph import InputInfo, InputStatus
        nodes = list(every(graph))
        assert all(type(n) is InputInfo and type(n.status) is InputStatus for n in nodes)
        assert graph[0].input_id == f"in-{call.object_id[3:]}-0"
        assert {n.function_call_id for n in graph} == {call.object_id}
        assert all(n.task_id.startswith('ta-') for n in nodes)
        assert {n.module_name for n in nodes} == {'__main__'}
        assert len({n.input_id for n in nodes}) == len(nodes)
        for node in nodes:
            assert node.started_at <= node.ended_at
            assert abs(node.ended_at - time.time()) < 600
            assert isinstance(node.children, list)
        assert [s.name for s in InputStatus] == [
            'PENDING', 'SUCCESS', 'FAILURE', 'INIT_FAILURE', 'TERMINATED', 'TIMEOUT']
        """,
    )


def test_statuses(defined: PlainKernel) -> None:
    """`InputStatus`: `PENDING, SUCCESS, FAILURE, TERMINATED, TIMEOUT, INIT_FAILURE`."""
    found = value(
        defined,
        """
        @app.function(timeout=0.3)
        def slow(seconds):
            time.sleep(seconds)

        def status_of(call, ends=True):
            if ends:
                try:
                    call.get()
                except BaseException:
                    pass
            return call.get_call_graph()[0].status.name

        class Unloadable:
            def __reduce__(self):
                return (eval, ('1 / 0',))

        thing = Unloadable()

        @app.function()
        def broken():
            return thing

        waits = slow.with_options(timeout=60).spawn(60)
        pending = status_of(waits, ends=False)
        waits.cancel()
        [status_of(slow.spawn(0)), status_of(slow.spawn(30)), pending, status_of(waits),
         status_of(broken.spawn())]
        """,
    )
    assert found[:4] == ["SUCCESS", "TIMEOUT", "PENDING", "TERMINATED"]
    assert found[4] in ("INIT_FAILURE", "FAILURE")


def test_an_attached_call_is_seen_from_inside_while_it_runs(defined: PlainKernel) -> None:
    """`nb.current_function_call_id()` names the call whose graph it is."""
    inside = value(
        defined,
        """
        @app.function()
        def inside(n):
            list(leaf.map(range(n)))
            call = nb.FunctionCall.from_id(nb.current_function_call_id())
            return call.object_id, shape(call.get_call_graph())
        name, seen = inside.remote(2)
        seen, shape(nb.FunctionCall.from_id(name).get_call_graph())
        """,
    )
    children = [LEAF] * 2
    assert inside == (
        [("inside", "PENDING", 1, children)],
        [("inside", "SUCCESS", 1, children)],
    )


def test_after_a_restart_of_the_broker_and_from_another_process(
    own_place: Place, start_kernel: KernelStarter, run_script: ScriptRunner, tmp_path: Any
) -> None:
    """The graph of a spawned call is the same for everybody, also after `kill -9` of the broker."""
    kernel = start_kernel(variables=own_place.variables)
    before = value(
        kernel,
        f"{DEFINE}\ncall = top.spawn(1, {str(tmp_path / 'mark')!r})\ncall.get()\n"
        "(call.object_id, repr(call.get_call_graph()), shape(call.get_call_graph()))",
    )
    assert before[2] == [("top", "SUCCESS", 1, [LEAF, ("middle", "SUCCESS", 1, [LEAF])])]
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    after = run_script(
        f"{HEAD}\nprint(nb.FunctionCall.from_id({before[0]!r}).get_call_graph())",
        own_place.variables,
    )
    assert after.strip() == before[1]


def test_a_restart_in_the_middle_keeps_what_had_ended(
    own_place: Place, start_kernel: KernelStarter, tmp_path: Any
) -> None:
    """Nested attached calls that ended before the broker was killed stay under their input."""
    kernel = start_kernel(variables=own_place.variables)
    go = tmp_path / "go"
    cell = begun(
        kernel,
        f"""{DEFINE}
@app.function()
def waits(path):
    leaf.remote(1)
    print('started', flush=True)
    while not os.path.exists(path):
        time.sleep(0.01)
    return 1

call = waits.spawn({str(go)!r})
name = call.object_id
call.get()
shape(call.get_call_graph())
""",
    )
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    go.touch()
    kernel.finish(cell, 60.0)
    assert cell.error is None, cell.error.traceback
    (root,) = value(kernel, "shape(call.get_call_graph())")
    assert root[:2] == ("waits", "SUCCESS")
    assert root[3] == [LEAF], "and the input goes on: what it had called it does not call again"
