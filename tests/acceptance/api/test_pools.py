"""API.md sections 1 (options of pools), 2 (the autoscaler, waiting) and 4 (workers that die)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kernel_worker.host.resources import available_memory_mib
from tests.acceptance.cells import typed, until_printed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until

AUTOSCALED = f"""
import asyncio, time
{HEAD}

@app.function(min_containers=1, max_containers=2, scaledown_window=0.5)
def work(x):
    time.sleep(0.05)
    return x

def there():
    return work.get_current_stats().num_total_runners

def until(count):
    end = time.monotonic() + 20
    while there() != count:
        assert time.monotonic() < end, (there(), count)
        time.sleep(0.02)

assert sum(work.map(range(10))) == 45
until(2)  # the ceiling, under load
until(1)  # the floor, after the window
assert work.keep_warm(2).min_containers == 2
until(2)
settings = work.update_autoscaler(min_containers=0, max_containers=1, scaledown_window=0.2)
assert (settings.min_containers, settings.max_containers) == (0, 1)
until(0)
assert work.remote(3) == 3 and there() == 1
call = work.spawn_map(range(40))
work.update_autoscaler(max_containers=3, buffer_containers=1)
until(3)  # two CPUs' worth and the buffer, while it runs
call.get(index=39)
until(0)
settings = asyncio.run(work.update_autoscaler.aio(min_containers=1))
assert settings.min_containers == 1 and work.autoscaler.settings() == settings
until(1)
print("ok")
"""


def test_min_max_buffer_and_window_under_changing_load(run_script: ScriptRunner) -> None:
    """`min_containers`, `max_containers`, `buffer_containers`, `scaledown_window`."""
    variables = {"NOTEBOOK_EXT_MAX_WORKERS": "2"}
    assert run_script(AUTOSCALED, variables) == "ok\n"


def test_single_use_containers_run_one_input_each(notebook: PlainKernel) -> None:
    """`single_use_containers`: a fresh worker per input, under map and remote."""
    typed(
        notebook,
        """
        import os
        @app.function(single_use_containers=True)
        def process(x=None):
            return os.getpid()
        """,
    )
    assert value(notebook, "len({*process.map(range(6)), *[process.remote() for _ in '123']})") == 9
    assert value(notebook, "len({await process.remote.aio(), await process.remote.aio()})") == 2


def test_rerun_on_crash_false_is_at_most_once(notebook: PlainKernel, tmp_path: object) -> None:
    """`rerun_on_crash=False`: an input whose worker died fails as InternalFailure."""
    typed(
        notebook,
        f"""
        import os, signal
        marks = {str(tmp_path)!r} + '/marks'
        @app.function(rerun_on_crash=False)
        def dies(x):
            if x == 3:
                open(marks, 'a').write('x')
                os.kill(os.getpid(), signal.SIGKILL)
            return x
        ended = list(dies.map(range(6), return_exceptions=True, wrap_returned_exceptions=False))
        """,
    )
    assert value(notebook, "[x for x in ended if isinstance(x, int)]") == [0, 1, 2, 4, 5]
    assert value(notebook, "type(ended[3]) is nb.exception.InternalFailure") is True
    assert "SIGKILL" in value(notebook, "str(ended[3])")
    assert value(notebook, "open(marks).read()") == "x"


MEMORY = """
import os, time
@app.function(memory=(64, 300), max_containers=1)
def grows(x):
    held = [bytearray(b'x' * 10_000_000)]
    if x == 2:
        open(marks, 'a').write('x')
        while True:
            held.append(bytearray(b'x' * 10_000_000))
            time.sleep(0.001)
    return x
"""


def test_a_worker_over_its_memory_limit_is_stopped_and_the_error_says_so(
    notebook: PlainKernel, tmp_path: object
) -> None:
    """`memory=(request, limit)` enforces the limit: that input fails, the others run."""
    typed(notebook, f"marks = {str(tmp_path)!r} + '/marks'\n{MEMORY}")
    typed(
        notebook,
        "ended = list(grows.map(range(5), return_exceptions=True, wrap_returned_exceptions=False))",
    )
    assert value(notebook, "[x for x in ended if isinstance(x, int)]") == [0, 1, 3, 4]
    assert value(notebook, "type(ended[2]) is nb.exception.InternalFailure") is True
    message = value(notebook, "str(ended[2])")
    assert "input 2 of grows" in message
    assert "limit of 300 MiB (memory=(64, 300))" in message
    assert value(notebook, "open(marks).read()") == "x", "it is not run again"


def test_an_allocation_that_no_limit_allows_is_an_ordinary_memory_error(
    notebook: PlainKernel,
) -> None:
    """`memory=(request, limit)`: what is asked for at once raises where it stands."""
    typed(
        notebook,
        """
        @app.function(memory=(64, 300))
        def asks(size):
            return len(bytearray(size))
        try:
            asks.remote(60_000_000_000)
        except MemoryError as error:
            notes = error.__notes__
        """,
    )
    assert "asks may use 300 MiB" in value(notebook, "' '.join(notes)")
    assert value(notebook, "asks.remote(1000)") == 1000


@pytest.mark.clock
def test_one_hundred_functions_called_in_turn_share_two_cores(run_script: ScriptRunner) -> None:
    """Idle workers take no CPU: none of 100 functions waits for another one's window."""
    script = f"""
import time
{HEAD}
functions = []
for number in range(100):
    def f(x, number=number):
        return x + number
    functions.append(app.function(name=f"f{{number}}", memory=64)(f))
worst = 0
for turn in range(3):
    for number, function in enumerate(functions):
        begun = time.monotonic()
        assert function.remote(turn) == turn + number
        worst = max(worst, time.monotonic() - begun)
print(worst < 10)
"""
    assert run_script(script, {"NOTEBOOK_EXT_MAX_WORKERS": "2"}) == "True\n"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("depth", [50, pytest.param(200, marks=pytest.mark.large)])
def test_deep_recursion_ends_on_a_pool_of_two(notebook: PlainKernel, depth: int) -> None:
    """Nested calls never deadlock, however deep and however small the pool."""
    typed(
        notebook,
        """
        @app.function(max_containers=2)
        def deep(n):
            return 0 if n == 0 else 1 + deep.remote(n - 1)
        """,
    )
    assert value(notebook, f"deep.remote({depth})", timeout=300) == depth

    def shrunk() -> bool:
        found = value(notebook, "deep.get_current_stats().num_total_runners")
        assert isinstance(found, int)
        return found <= 2

    wait_until(shrunk, 20, "what a nested call left above the ceiling goes at once")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.large)])
def test_many_spawned_calls_are_gathered(notebook: PlainKernel, count: int) -> None:
    """`spawn`: durable from the moment it returns; `gather`: results in order."""
    typed(notebook, "@app.function()\ndef next_one(x):\n    return x + 1")
    source = f"nb.gather(*[next_one.spawn(x) for x in range({count})]) == [*range(1, {count + 1})]"
    assert value(notebook, source, timeout=300) is True


WAITS = """
@app.function(max_containers=1)
def holds(gate):
    import os, time
    while not os.path.exists(gate):
        time.sleep(0.01)
import time
first = holds.spawn({gate!r})
while holds.get_current_stats().num_running_inputs != 1:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "call",
    [
        "holds.remote('/')",
        "await holds.remote.aio('/')",
        "nb.config.progress = 'off'; list(holds.map(['/']))",
        "holds.spawn('/').get()",
        "nb.gather(holds.spawn('/'))",
        "await holds.spawn('/')",
    ],
)
def test_a_call_that_has_waited_two_seconds_says_for_what(
    notebook: PlainKernel, tmp_path: Path, call: str
) -> None:
    """A call that has waited for 2 s says what it waits for."""
    typed(notebook, WAITS.format(gate=str(tmp_path / "gate")))
    cell = notebook.begin(call)
    try:
        until_printed(
            notebook, cell, "waits: max_containers: pool holds runs 1 of 1", stream="stderr"
        )
        assert not cell.finished
    finally:
        (tmp_path / "gate").touch()
    notebook.finish(cell)
    assert cell.error is None, cell.error.traceback


@pytest.mark.clock
def test_functions_that_run_at_once_share_the_cores_fairly(run_script: ScriptRunner) -> None:
    """Several functions on two cores: each gets its share, whoever came first."""
    script = f"""
import time
{HEAD}
calls = []
for number in range(3):
    def f(x):
        time.sleep(0.02)
        return x
    calls.append(app.function(name=f"f{{number}}")(f).spawn_map(range(150)))
end = time.monotonic() + 60
while not any(call.status().state == 'succeeded' for call in calls):
    assert time.monotonic() < end
    time.sleep(0.02)
print(min(call.status().succeeded for call in calls) > 75)
nb.gather(*calls)
"""
    assert run_script(script, {"NOTEBOOK_EXT_MAX_WORKERS": "2"}) == "True\n"


@pytest.mark.clock
def test_an_idle_worker_makes_room_for_another_function(notebook: PlainKernel) -> None:
    """`memory`: an idle worker's reservation never keeps another function waiting."""
    typed(
        notebook,
        f"""
        import os
        most = {available_memory_mib() * 6 // 10}
        @app.function(memory=most, min_containers=1)
        def first():
            return os.getpid()
        @app.function(memory=most)
        def second():
            return os.getpid()
        """,
    )
    begun = time.monotonic()
    pids = value(notebook, "first.remote(), second.remote(), first.remote()")
    assert time.monotonic() - begun < 10 * PATIENCE, "it does not wait for the window"
    assert len(set(pids)) == 3
    typed(notebook, "assert first.get_current_stats().num_total_runners == 1")
    typed(notebook, "assert second.get_current_stats().num_total_runners == 0")
    typed(notebook, "first.keep_warm(0)")
