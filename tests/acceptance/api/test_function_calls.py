"""API.md section 3, `FunctionCall`: results, how a call stands, and finding it again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import in_both_ways
from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel

DEFINE = f"""
{HEAD}

@app.function(max_containers=2)
def work(x, fails=False):
    if fails:
        raise KeyError(x)
    return 10 * x
"""
SPAWN = "call = work.spawn_map(range(4))\nassert list(call.iter()) == [0, 10, 20, 30]"

LINES = {
    "fc.get() is repeatable": (
        "[call.get(), call.get(timeout=0)] == [0, 0]",
        "await call.get.aio() == 0",
    ),
    "fc.get(index=)": ("call.get(index=2) == 20", "await call.get.aio(index=2) == 20"),
    "fc.iter()": (
        "list(call.iter()) == [0, 10, 20, 30]",
        "[each async for each in call.iter.aio()] == [0, 10, 20, 30]",
    ),
    "fc.iter(start, end)": (
        "list(call.iter(1, end=3)) == [10, 20]",
        "[each async for each in call.iter.aio(start=1, end=3)] == [10, 20]",
    ),
    "fc.num_inputs()": ("call.num_inputs() == 4", "await call.num_inputs.aio() == 4"),
    "FunctionCall.from_id of one that ended": (
        "nb.FunctionCall.from_id(call.object_id).num_inputs() == 4",
        "await nb.FunctionCall.from_id(call.object_id).num_inputs.aio() == 4",
    ),
    "FunctionCall.from_id(id, client=None, is_generator=False)": (
        "nb.FunctionCall.from_id(call.object_id, None, is_generator=False).get(index=1) == 10",
        "await nb.FunctionCall.from_id(call.object_id, client=None).get.aio(index=1) == 10",
    ),
    "fc.status()": (
        "call.status().state == 'succeeded' and call.status().succeeded == 4",
        "(await call.status.aio()).done",
    ),
    "nb.gather(*calls)": (
        "nb.gather(call, work.spawn(7)) == [0, 70]",
        "await nb.gather.aio(call, call) == [0, 0]",
    ),
    "FunctionCall.gather(*calls)": (
        "nb.FunctionCall.gather(call, call) == [0, 0]",
        "await nb.FunctionCall.gather.aio(call) == [0]",
    ),
    "await fc": ("call.get() == 0", "await call == 0"),
    "nb.calls(app=, status=, limit=)": (
        "call.object_id in {c.object_id for c in nb.calls(app, status='succeeded', limit=50)}",
        "len(await nb.calls.aio('acceptance', limit=1)) == 1",
    ),
}
of_each_line = pytest.mark.parametrize("line", LINES)


@pytest.fixture(scope="module")
def ended(notebook: PlainKernel) -> PlainKernel:
    """Return the kernel with a `call` of four inputs that has ended."""
    typed(notebook, f"{DEFINE}\n{SPAWN}")
    return notebook


@of_each_line
def test_in_a_cell(ended: PlainKernel, line: str) -> None:
    blocking, awaited = LINES[line]
    typed(ended, f"assert {blocking}\nassert {awaited}")


def test_in_a_script(run_script: ScriptRunner) -> None:
    run_script(in_both_ways(f"{DEFINE}\n{SPAWN}", LINES))


def test_inside_a_worker(ended: PlainKernel) -> None:
    """`fc` and `nb.calls` "inside a function that itself runs on a worker"."""
    typed(
        ended,
        """
        @app.function()
        def inside(call):
            import notebook_ext as nb
            assert list(call.iter(2)) == [20, 30]
            assert call.status().num_inputs == 4
            return [c.object_id for c in nb.calls(limit=1000)]
        assert call.object_id in inside.remote(call)
        """,
    )


def test_gather_raises_the_first_failure_and_the_rest_go_on(ended: PlainKernel) -> None:
    """`nb.gather`: "the first failure is raised, and the rest go on unless `cancel_on_error`"."""
    typed(
        ended,
        """
        @app.function(max_containers=2)
        def slow(seconds):
            import time
            time.sleep(seconds)
            return seconds

        goes_on, stops = slow.spawn(0.5), slow.spawn(60)
        try:
            nb.gather(goes_on, work.spawn(3, fails=True))
        except KeyError as error:
            assert error.args == (3,)
        assert goes_on.get() == 0.5
        try:
            nb.FunctionCall.gather(stops, work.spawn(4, fails=True), cancel_on_error=True)
        except KeyError as error:
            assert error.args == (4,)
        try:
            stops.get()
        except nb.exception.CallCancelledError:
            assert stops.status().state == 'cancelled'
        assert isinstance(nb.exception.CallCancelledError(), nb.exception.RemoteError)
        """,
    )


def test_still_pending_is_both_timeout_errors(ended: PlainKernel) -> None:
    """`fc.get(timeout=)`: "Still pending -> `StillPendingError`, which is both"."""
    errors = value(
        ended,
        """
        import builtins

        @app.function()
        def sleeps():
            import time
            time.sleep(60)

        waits, seen = sleeps.spawn(), []
        assert waits.status().state in ('pending', 'running') and not waits.status().done
        for kind in (builtins.TimeoutError, nb.exception.TimeoutError):
            try:
                waits.get(timeout=0)
            except kind as error:
                seen.append(type(error).__name__)
        waits.cancel()
        seen
        """,
    )
    assert errors == ["StillPendingError"] * 2


def test_ids_of_what_runs_are_right_in_threads_and_tasks(ended: PlainKernel) -> None:
    """`nb.current_input_id()` …: "right under threads and asyncio too"."""
    typed(
        ended,
        """
        import asyncio, contextvars, threading
        from concurrent.futures import ThreadPoolExecutor

        def ids():
            return nb.current_function_call_id(), nb.current_input_id(), nb.is_local()

        @app.function(max_containers=2)
        def sync(x):
            found = [ids()]
            thread = threading.Thread(target=lambda: found.append(ids()))
            thread.start()
            thread.join()
            with ThreadPoolExecutor(2) as pool:
                found += [each.result() for each in [pool.submit(ids) for _ in range(3)]]
                context = contextvars.copy_context()
                found.append(pool.submit(context.run, ids).result())
            found += [asyncio.run(asyncio.to_thread(ids))]
            assert len(set(found)) == 1, found
            return found[0]

        @app.function(max_containers=2)
        async def aio(x):
            async def later():
                await asyncio.sleep(0.001)
                return ids()
            found = [ids(), *await asyncio.gather(*[later() for _ in range(5)])]
            found.append(await asyncio.to_thread(ids))
            found.append(await asyncio.get_running_loop().run_in_executor(None, ids))
            assert len(set(found)) == 1, found
            return found[0]

        for function in (sync, aio):
            seen = list(function.map(range(10)))
            assert len({call for call, _, _ in seen}) == 1
            assert [name for _, name, _ in seen] == [
                f"in-{seen[0][0][3:]}-{index}" for index in range(10)]
            assert {local for _, _, local in seen} == {False}
            single = function.spawn(1)
            assert single.get()[0] == single.object_id
        assert ids() == (None, None, True)
        """,
    )


def test_functions_and_calls_are_arguments(ended: PlainKernel) -> None:
    """A `Function` or `FunctionCall` passed to a call works there; versions are the notebook's."""
    typed(
        ended,
        """
        FACTOR = 2

        @app.function()
        def scaled(x):
            return work.remote(x) * FACTOR

        @app.function()
        def apply(function, x):
            return function.remote(x)

        @app.function()
        async def apply_aio(functions, call):
            return [await f.remote.aio(1) for f in functions['all']] + [await call]

        assert apply.remote(scaled, 2) == 40
        assert apply_aio.remote({'all': [work, scaled]}, call) == [10, 20, 0]
        assert await apply_aio.remote.aio({'all': [scaled]}, call) == [20, 0]
        assert list(apply.map([scaled, work], [1, 2])) == [20, 20]
        """,
    )
    assert value(ended, "FACTOR = 3\napply.remote(scaled, 2)") == 60


def test_a_function_argument_survives_the_broker_and_the_client(
    own_place: Place, start_kernel: KernelStarter, run_script: ScriptRunner, tmp_path: Path
) -> None:
    """What a spawned call needs is on disk before `spawn` returns: its arguments' functions too."""
    go = tmp_path / "go"
    kernel = start_kernel(variables=own_place.variables)
    name = value(
        kernel,
        f"""{DEFINE}
import os, time

@app.function()
def waits(function, path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return function.remote(4)

waits.spawn(work, {str(go)!r}).object_id
""",
    )
    kernel.close()
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    go.touch()
    told = run_script(
        f"{HEAD}\nprint(nb.FunctionCall.from_id({name!r}).get(timeout=60))", own_place.variables
    )
    assert told == "40\n"


def test_what_a_function_is(ended: PlainKernel) -> None:
    """`f.get_raw_f()`, `f.version`, `f.info()`, `f.autoscaler`, `f.get_current_stats()`."""
    typed(
        ended,
        """
        @app.function(min_containers=1, timeout=7)
        def named(x: int, *, y=2) -> int:
            return x

        info = named.info()
        assert (info.name, info.module) == ('named', '__main__')
        assert info.signature in ('(x: int, *, y=2) -> int', "(x: 'int', *, y=2) -> 'int'")
        assert info.options.timeout_seconds == 7 and info.version == named.version
        before = named.version
        assert named.autoscaler.settings().min_containers == 1
        assert named.autoscaler.update(max_containers=3).max_containers == 3
        assert (await named.autoscaler.settings.aio()).max_containers == 3
        assert named.version == before, 'settings are no code'
        named.remote(1)
        stats = named.get_current_stats()
        assert type(stats) is nb.FunctionStats
        assert stats._fields == (
            'backlog', 'num_total_runners', 'num_running_inputs', 'input_headroom')
        assert stats == (0, 1, 0, 1), stats
        assert nb.FunctionStats(1, 2) == (1, 2, 0, 0)
        named.keep_warm(0)

        @app.function(min_containers=1, timeout=7)
        def named(x: int, *, y=2) -> int:
            return x + 1

        assert named.version != before
        assert named.get_raw_f()(1) == 2
        named.keep_warm(0)
        """,
    )


def test_calls_are_found_again_after_the_kernel_and_the_broker_are_gone(
    own_place: Place, start_kernel: KernelStarter
) -> None:
    """`nb.calls`: "after a kernel restart this is how they are found again"."""
    first = start_kernel(variables=own_place.variables)
    names = value(
        first,
        f"{DEFINE}\ndone = work.spawn_map(range(3))\nbad = work.spawn(1, fails=True)\n"
        "nb.gather(done)\nassert bad.status()\n"
        "try:\n    bad.get()\nexcept KeyError:\n    pass\n[done.object_id, bad.object_id]",
    )
    first.close()
    own_place.kill_broker()
    second = start_kernel(variables=own_place.variables)
    found = value(
        second,
        f"{HEAD}\n[(c.object_id, c.function_name, c.state, c.num_inputs) for c in nb.calls(app)]",
    )
    assert found == [(names[1], "work", "failed", 1), (names[0], "work", "succeeded", 3)]
    assert value(second, "list(nb.calls(status='succeeded')[0].call.iter())") == [0, 10, 20]
    typed(second, "%load_ext notebook_ext")
    shown = typed(second, "%remote_calls").result
    assert shown is not None
    assert shown.index(names[1]) < shown.index(names[0])


def test_results_expire_after_their_time_to_live(
    own_place: Place, start_kernel: KernelStarter
) -> None:
    """`fc.get`: "for 7 days (setting `result_ttl`); after that `OutputExpiredError`"."""
    kernel = start_kernel(variables={**own_place.variables, "NOTEBOOK_EXT_RESULT_TTL": "1"})
    assert value(
        kernel,
        f"""{DEFINE}
import time
call = work.spawn(4)
assert call.get() == 40
until = time.monotonic() + 60
while not nb.calls(status='expired') and time.monotonic() < until:
    time.sleep(0.05)
again = nb.FunctionCall.from_id(call.object_id)
try:
    again.get()
except nb.exception.OutputExpiredError as error:
    text = str(error)
assert nb.calls() == []
(again.status().state, again.num_inputs(), call.object_id in text)
""",
    ) == ("expired", 1, True)
