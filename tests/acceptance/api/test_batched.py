"""API.md section 1, `batched(max_batch_size=, wait_ms=)`: one run of a function, many inputs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import Lines
from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

pytestmark = pytest.mark.clock

DEFINED = """
import asyncio, os, time

@app.function(max_containers=1)
@nb.batched(max_batch_size=4, wait_ms=300)
def sizes(xs):
    return [(x, len(xs)) for x in xs]

@app.function(max_containers=1)
@nb.batched(max_batch_size=4, wait_ms=300)
async def sizes_async(xs):
    await asyncio.sleep(0)
    return [(x, len(xs)) for x in xs]

@app.function(max_containers=1)
@nb.batched(max_batch_size=2, wait_ms=2000)
def waits(paths):
    for path in paths:
        with open(path + '.began', 'a') as file:
            file.write(f'{os.getpid()} ')
    while not os.path.exists(paths[0] + '.go'):
        time.sleep(0.01)
    return [os.path.basename(path) for path in paths]
"""

both = pytest.mark.parametrize("name", ["sizes", "sizes_async"])


@pytest.fixture(autouse=True)
def _defined(notebook: PlainKernel) -> None:
    typed(notebook, DEFINED)


@both
def test_inputs_of_a_map_are_grouped_and_what_is_left_does_not_wait_for_ever(
    notebook: PlainKernel, name: str
) -> None:
    assert value(notebook, f"list({name}.map(range(10)))") == [
        *[(x, 4) for x in range(8)], (8, 2), (9, 2),
    ]  # fmt: skip


@both
def test_a_single_call_is_a_list_of_one_and_gets_its_own_result(
    notebook: PlainKernel, name: str
) -> None:
    assert value(notebook, f"{name}.remote(7), {name}.spawn(8).get()") == ((7, 1), (8, 1))


@both
def test_calls_that_are_awaited_together_are_grouped(notebook: PlainKernel, name: str) -> None:
    found = value(
        notebook,
        f"""
        many = {name}.with_batching(max_batch_size=100, wait_ms=2000)
        results = await asyncio.gather(*[many.remote.aio(x) for x in range(100)])
        [x for x, _ in results] == list(range(100)), {{size for _, size in results}}
        """,
    )
    assert found == (True, {100})


def test_spawned_calls_are_grouped(notebook: PlainKernel) -> None:
    found = value(notebook, "nb.gather(*[sizes.spawn(x) for x in range(4)])")
    assert [x for x, _ in found] == [0, 1, 2, 3]
    assert max(size for _, size in found) > 1


def test_keywords_positions_and_defaults_meet_in_one_list_each(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1)
        @nb.batched(max_batch_size=3, wait_ms=3000)
        def adds(xs, ys=10, *, scale=1):
            return [(x + y) * scale for x, y in zip(xs, ys)] + [] if scale == 1 else None

        await asyncio.gather(
            adds.remote.aio(1, 2), adds.remote.aio(xs=3, ys=4), adds.remote.aio(5))
        """,
    )
    assert found == [3, 7, 15]


def test_keywords_that_a_map_shares_are_lists_too(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1)
        @nb.batched(max_batch_size=2, wait_ms=300)
        def shares(xs, ys):
            return [(x, y, len(ys)) for x, y in zip(xs, ys)]

        list(shares.map(range(2), kwargs={'ys': 'y'}))
        """,
    )
    assert found == [(0, "y", 2), (1, "y", 2)]


def test_what_is_no_list_of_results_fails_all_and_says_so(notebook: PlainKernel) -> None:
    said = value(
        notebook,
        """
        @app.function(max_containers=1)
        @nb.batched(max_batch_size=2, wait_ms=300)
        def short(xs):
            return xs[1:]

        [str(each) for each in short.map(
            range(2), return_exceptions=True, wrap_returned_exceptions=False)]
        """,
    )
    (one,) = set(said)
    assert one == (
        "short is batched: it has to return a list with a result for each of its 2 inputs, "
        "and returned a list of 1."
    )


def test_an_exception_fails_all_and_one_in_the_list_its_own_input(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1)
        @nb.batched(max_batch_size=4, wait_ms=300)
        def picky(xs):
            if 'bad' in xs:
                raise ValueError(f'{len(xs)} of us')
            return [KeyError(x) if x == 'odd' else x for x in xs]

        def outcomes(xs):
            given = picky.map(xs, return_exceptions=True, wrap_returned_exceptions=False)
            return [repr(each) for each in given]

        outcomes(['a', 'bad', 'c', 'd']), outcomes(['a', 'odd', 'c', 'd'])
        """,
    )
    assert found == (
        ["ValueError('4 of us')"] * 4,
        ["'a'", "KeyError('odd')", "'c'", "'d'"],
    )


def test_retried_inputs_run_by_themselves(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1, retries=nb.Retries(max_retries=1, initial_delay=0))
        @nb.batched(max_batch_size=4, wait_ms=300)
        def needs_room(xs):
            if len(xs) > 1:
                raise MemoryError
            return [len(xs)]

        list(needs_room.map(range(4)))
        """,
    )
    assert found == [1, 1, 1, 1]


def test_a_cancelled_input_is_answered_and_its_group_goes_on(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    typed(notebook, f"one, other = waits.spawn({str(one)!r}), waits.spawn({str(other)!r})")
    wait_until(Path(f"{other}.began").exists, 20, "the group runs")
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
    Path(f"{one}.go").touch()
    assert value(notebook, "other.get(timeout=10)") == "other"


def test_a_group_over_its_time_times_out_whole(notebook: PlainKernel, tmp_path: Path) -> None:
    found = value(
        notebook,
        f"""
        given = waits.with_options(timeout=1).map(
            {[str(tmp_path / each) for each in "ab"]!r},
            return_exceptions=True, wrap_returned_exceptions=False)
        [type(each).__name__ for each in given]
        """,
    )
    assert found == ["FunctionTimeoutError"] * 2


def test_a_group_whose_worker_is_killed_runs_again(notebook: PlainKernel, tmp_path: Path) -> None:
    paths = [tmp_path / each for each in "ab"]
    typed(notebook, f"calls = [waits.spawn(path) for path in {[str(path) for path in paths]!r}]")
    for path in paths:
        wait_until(Path(f"{path}.began").exists, 20, "the group runs")
    os.kill(int(Path(f"{paths[0]}.began").read_text().split()[0]), signal.SIGKILL)
    for path in paths:
        Path(f"{path}.go").touch()
    assert value(notebook, "[call.get(timeout=20) for call in calls]") == ["a", "b"]


def test_a_batched_function_calls_others_and_knows_its_first_input(notebook: PlainKernel) -> None:
    found = value(
        notebook,
        """
        @app.function(max_containers=1)
        @nb.batched(max_batch_size=2, wait_ms=20_000)
        def calls_out(xs):
            inner = sizes.remote(len(xs)) if xs[0] else None
            return [(inner, nb.current_input_id().rsplit('-', 1)[1]) for x in xs]

        list(calls_out.map([1, 2]))
        """,
    )
    assert found == [((2, 1), "0"), ((2, 1), "0")]


def test_in_a_script(run_script: ScriptRunner) -> None:
    script = """
import asyncio
import notebook_ext as nb

app = nb.App()

@app.function(max_containers=1)
@nb.batched(max_batch_size=3, wait_ms=2000)
def sizes(xs):
    return [len(xs)] * len(xs)

async def main():
    return await asyncio.gather(*[sizes.remote.aio(x) for x in range(3)])

print(list(sizes.map(range(6))), asyncio.run(main()))
"""
    assert run_script(script) == "[3, 3, 3, 3, 3, 3] [3, 3, 3]\n"


BATCHED_CLASSES = """
@app.cls(max_containers=1)
class Batched:
    name: str = nb.parameter(default="base")

    @nb.enter()
    def load(self):
        self.factor = len(self.name)

    @nb.batched(max_batch_size=4, wait_ms=5000)
    def run(self, xs, add=0):
        return [(x * self.factor, len(xs)) for x in xs]

@app.cls(max_containers=1)
class Later:
    @nb.batched(max_batch_size=2, wait_ms=5000)
    @nb.method()
    async def run(self, xs):
        return [KeyError(x) if x else len(xs) for x in xs]

@app.cls(max_containers=1)
class Single:
    @nb.method()
    def run(self, x):
        return [len(x), x] if isinstance(x, list) else x
"""


def test_inputs_of_a_batched_method_are_grouped_for_each_instance(lines: Lines) -> None:
    lines.run(BATCHED_CLASSES)
    assert lines.value("list(Batched('ab').run.map(range(4)))") == [(0, 4), (2, 4), (4, 4), (6, 4)]
    assert lines.value("Batched('ab').run.local([3], [0])") == [(6, 1)]
    assert lines.value(
        "[repr(x) for x in Later().run.map(range(2), return_exceptions=True,"
        " wrap_returned_exceptions=False)]"
    ) == ["2", "KeyError(1)"]


def test_with_batching_of_a_class_is_a_variant(lines: Lines) -> None:
    lines.run(BATCHED_CLASSES)
    lines.run("Grouped = Single.with_batching(max_batch_size=2, wait_ms=5000)")
    assert lines.value("(list(Grouped().run.map('ab')), Single().run.remote(3))") == (
        [2, ["a", "b"]],
        3,
    )
    lines.run("Many = Single.with_concurrency(max_inputs=4, target_inputs=2)")
    assert lines.value("Many().run.remote(3)") == 3
    assert lines.value(
        "(Many().run.info().options.max_inputs, Grouped().run.info().options.max_batch_size)"
    ) == (4, 2)
    failed = lines.fails("Single.with_concurrency(max_inputs=0)")
    assert failed.name == "InvalidError"


def test_a_batched_method_that_is_deployed(lines: Lines) -> None:
    lines.run("app = nb.App('batched classes')" + BATCHED_CLASSES + "app.deploy()")
    assert lines.value(
        "list(nb.Cls.from_name('batched classes', 'Batched')('abc').run.map(range(4)))"
    ) == [(0, 4), (3, 4), (6, 4), (9, 4)]
