"""API.md section 1, `concurrent(max_inputs=, target_inputs=)`: several inputs of a worker at once.

What overlaps is shown by inputs that meet (each waits until the others are there), not by time.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

MEET = """
import asyncio, os, time

def there(directory, x):
    '''Say that an input runs, and return how many have said so.'''
    open(os.path.join(directory, str(x)), 'w').close()
    return len(os.listdir(directory))

@app.function(max_containers=1)
@nb.concurrent(max_inputs=4)
async def meets(directory, x, count=4):
    there(directory, x)
    while there(directory, x) < count:
        await asyncio.sleep(0.01)
    print('met', x)
    return x, nb.current_input_id(), nb.current_function_call_id(), os.getpid()

@app.function(max_containers=1)
@nb.concurrent(max_inputs=4)
def meets_on_threads(directory, x, count=4):
    there(directory, x)
    while there(directory, x) < count:
        time.sleep(0.01)
    print('met', x)
    return x, nb.current_input_id(), nb.current_function_call_id(), os.getpid()

@app.function(max_containers=1)
@nb.concurrent(max_inputs=4)
async def waits_for(path):
    open(path + '.began', 'w').close()
    try:
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        open(path + '.cancelled', 'w').close()
        raise
    return os.path.basename(path)

@app.function(max_containers=1)
@nb.concurrent(max_inputs=4)
def waits_on_threads_for(path):
    open(path + '.began', 'w').close()
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.path.basename(path)
"""

both = pytest.mark.parametrize("name", ["meets", "meets_on_threads"])
waiters = pytest.mark.parametrize("name", ["waits_for", "waits_on_threads_for"])


@pytest.fixture(autouse=True)
def _defined(notebook: PlainKernel) -> None:
    typed(notebook, MEET)


@both
def test_inputs_of_a_map_run_at_once_each_with_its_own_ids_and_prints(
    notebook: PlainKernel, name: str, tmp_path: Path
) -> None:
    cell = typed(
        notebook, f"results = list({name}.starmap([({str(tmp_path)!r}, x) for x in range(4)]))"
    )
    assert sorted(cell.stdout.splitlines()) == [f"met {x}" for x in range(4)]
    results = value(notebook, "results")
    assert [x for x, *_ in results] == [0, 1, 2, 3]
    assert [one_id.rsplit("-", 1)[1] for _, one_id, *_ in results] == list("0123")
    assert len({call for _, _, call, _ in results}) == len({pid for *_, pid in results}) == 1


@both
def test_calls_that_are_awaited_together_run_at_once(
    notebook: PlainKernel, name: str, tmp_path: Path
) -> None:
    found = value(
        notebook,
        f"""
        folder = {str(tmp_path)!r}
        together = await asyncio.gather(*[{name}.remote.aio(folder, x) for x in range(4)])
        [x for x, *_ in together], len({{call for _, _, call, _ in together}})
        """,
    )
    assert found == ([0, 1, 2, 3], 4)


def test_no_more_inputs_than_the_limit_run_at_once(notebook: PlainKernel) -> None:
    most = value(
        notebook,
        """
        live = most = 0

        @app.function(max_containers=1)
        @nb.concurrent(max_inputs=3)
        async def counts(x):
            global live, most
            live += 1
            most = max(most, live)
            await asyncio.sleep(0.01)
            live -= 1
            return most

        list(counts.map(range(20)))[-1]
        """,
    )
    assert most == 3


def test_the_spelling_of_2024_and_variants(notebook: PlainKernel, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    found = value(
        notebook,
        f"""
        @app.function(max_containers=1, allow_concurrent_inputs=2)
        def spelled(directory, x):
            while there(directory, x) < 2:
                time.sleep(0.01)
            return x

        @app.function(max_containers=1)
        def plain(directory, x):
            while there(directory, x) < 2:
                time.sleep(0.01)
            return x

        variant = plain.with_concurrency(max_inputs=2)
        (
            list(spelled.starmap([({str(one)!r}, x) for x in range(2)])),
            list(variant.starmap([({str(other)!r}, x) for x in range(2)])),
        )
        """,
    )
    assert found == ([0, 1], [0, 1])


@waiters
def test_a_cancelled_input_leaves_its_neighbour_alone(
    notebook: PlainKernel, name: str, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    typed(notebook, f"one, other = {name}.spawn({str(one)!r}), {name}.spawn({str(other)!r})")
    for path in (one, other):
        wait_until(Path(f"{path}.began").exists, 20, "the input runs")
    said = value(
        notebook,
        """
        one.cancel()
        try:
            one.get(timeout=10)
        except nb.exception.CallCancelledError as error:
            said = type(error).__name__
        said
        """,
    )
    assert said == "CallCancelledError"
    assert Path(f"{one}.cancelled").exists() is (name == "waits_for")
    other.touch()
    assert value(notebook, "other.get(timeout=10)") == "other"
    one.touch()


@waiters
def test_an_input_over_its_time_leaves_its_neighbour_alone(
    notebook: PlainKernel, name: str, tmp_path: Path
) -> None:
    late, other = tmp_path / "late", tmp_path / "other"
    typed(
        notebook, f"limited = {name}.with_options(timeout=1)\nlate = limited.spawn({str(late)!r})"
    )
    wait_until(Path(f"{late}.began").exists, 20, "the input runs")
    other.touch()
    found = value(
        notebook,
        f"""
        quick = limited.remote({str(other)!r})
        try:
            late.get(timeout=15)
        except nb.exception.FunctionTimeoutError as error:
            said = type(error).__name__
        quick, said
        """,
    )
    assert found == ("other", "FunctionTimeoutError")
    late.touch()


@waiters
def test_inputs_of_a_killed_worker_run_again(
    notebook: PlainKernel, name: str, tmp_path: Path
) -> None:
    gates = [tmp_path / each for each in "abc"]
    pid = value(
        notebook,
        f"""
        @app.function(max_containers=1)
        @nb.concurrent(max_inputs=4)
        def pid_and_wait(path):
            with open(path + '.began', 'a') as file:
                file.write(str(os.getpid()) + ' ')
            while not os.path.exists(path):
                time.sleep(0.01)
            return os.getpid()

        calls = [pid_and_wait.spawn(path) for path in {[str(gate) for gate in gates]!r}]
        len(calls)
        """,
    )
    assert pid == 3
    for gate in gates:
        wait_until(Path(f"{gate}.began").exists, 20, "the input runs")
    first = int(Path(f"{gates[0]}.began").read_text().split()[0])
    os.kill(first, signal.SIGKILL)
    for gate in gates:
        gate.touch()
    pids = value(notebook, "[call.get(timeout=20) for call in calls]")
    assert first not in pids
    assert len(set(pids)) == 1


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("async def", "await deep.remote.aio(n - 1)"),
        ("async def", "deep.remote(n - 1)"),
        ("def", "deep.remote(n - 1)"),
        ("def", "list(deep.map([n - 1]))[0]"),
    ],
)
def test_inputs_that_wait_for_their_own_function_never_block_it(
    notebook: PlainKernel, head: str, body: str
) -> None:
    found = value(
        notebook,
        f"""
        @app.function(max_containers=1)
        @nb.concurrent(max_inputs=2)
        {head} deep(n):
            return 0 if n == 0 else 1 + {body}

        deep.remote(12), list(deep.map([3, 4, 5, 6]))
        """,
        timeout=60,
    )
    assert found == (12, [3, 4, 5, 6])


def test_a_failure_shows_the_cell_and_ends_its_input_alone(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1, retries=nb.Retries(max_retries=1, initial_delay=0))
        @nb.concurrent(max_inputs=4)
        async def fails(x):
            await asyncio.sleep(0.01)
            if x % 2:
                raise ValueError(f'odd {x}')
            return x

        [str(each) for each in fails.map(
            range(4), return_exceptions=True, wrap_returned_exceptions=False)]
        """,
    )
    assert found == ["0", "odd 1", "2", "odd 3"]


def test_methods_of_a_concurrent_class_run_at_once(notebook: PlainKernel, tmp_path: Path) -> None:
    found = value(
        notebook,
        f"""
        @app.cls(max_containers=1)
        @nb.concurrent(max_inputs=2)
        class Meeting:
            @nb.enter()
            async def begin(self):
                self.began = 1
            @nb.method()
            async def awaits(self, directory, x):
                while there(directory, x) < 2:
                    await asyncio.sleep(0.01)
                return x, self.began
            @nb.method()
            def blocks(self, directory, x):
                while there(directory, x) < 2:
                    time.sleep(0.01)
                return x, self.began
            @nb.exit()
            async def end(self):
                open({str(tmp_path / "ended")!r}, 'w').close()

        folder, meeting = {str(tmp_path / "both")!r}, Meeting()
        os.mkdir(folder)
        await asyncio.gather(
            meeting.awaits.remote.aio(folder, 1), meeting.blocks.remote.aio(folder, 2))
        """,
    )
    assert found == [(1, 1), (2, 1)]


def test_in_a_script(run_script: ScriptRunner) -> None:
    script = """
import asyncio
import notebook_ext as nb

app = nb.App()
here = set()

@app.function(max_containers=1)
@nb.concurrent(max_inputs=3, target_inputs=2)
async def meets(x):
    here.add(x)
    while len(here) < 3:
        await asyncio.sleep(0.01)
    return x

async def main():
    return await asyncio.gather(*[meets.remote.aio(x) for x in range(3)])

print(list(meets.map(range(3))), asyncio.run(main()))
"""
    assert run_script(script) == "[0, 1, 2] [0, 1, 2]\n"
