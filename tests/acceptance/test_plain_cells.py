"""The one rule: every line works in a plain cell, an `await` cell, a thread and a script."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until


@dataclass(frozen=True)
class Seed:
    """One example: what it defines, how it is called on the two surfaces, what comes out."""

    name: str
    define: str
    call: str
    call_aio: str
    printed: str


SEEDS = [
    Seed(
        "remote",
        "@app.function()\ndef double(x):\n    return 2 * x",
        "double.remote(21)",
        "await double.remote.aio(21)",
        "42",
    ),
    Seed(
        "map",
        "@app.function()\ndef square(x):\n    return x * x",
        "list(square.map([1, 2, 3, 4]))",
        "[y async for y in square.map.aio([1, 2, 3, 4])]",
        "[1, 4, 9, 16]",
    ),
    Seed(
        "starmap",
        "@app.function()\ndef add(a, b):\n    return a + b",
        "list(add.starmap([(1, 2), (3, 4)]))",
        "[y async for y in add.starmap.aio([(1, 2), (3, 4)])]",
        "[3, 7]",
    ),
    Seed(
        "exceptions",
        "@app.function()\ndef fails_at_two(x):\n"
        "    if x == 2:\n        raise Exception('ohno')\n    return x",
        "list(fails_at_two.map(range(3), return_exceptions=True))",
        "[y async for y in fails_at_two.map.aio(range(3), return_exceptions=True)]",
        "[0, 1, UserCodeException(Exception('ohno'))]",
    ),
    Seed(
        "gather",
        "@app.function()\ndef one():\n    return 1\n\n@app.function()\ndef two():\n    return 2",
        "nb.gather(one.spawn(), two.spawn())",
        "await nb.gather.aio(await one.spawn.aio(), await two.spawn.aio())",
        "[1, 2]",
    ),
    Seed(
        "for_each",
        "import os\nos.makedirs('seen', exist_ok=True)\n"
        "@app.function()\ndef leave_mark(x):\n    open(f'seen/{x}', 'w').close()",
        "(leave_mark.for_each(range(3)), sorted(os.listdir('seen')))",
        "(await leave_mark.for_each.aio(range(3)), sorted(os.listdir('seen')))",
        "(None, ['0', '1', '2'])",
    ),
    Seed(
        "spawn",
        "@app.function()\ndef three():\n    return 3",
        "nb.FunctionCall.from_id(three.spawn().object_id).get(timeout=30)",
        "await nb.FunctionCall.from_id((await three.spawn.aio()).object_id).get.aio(timeout=30)",
        "3",
    ),
    Seed(
        "local",
        "@app.function()\ndef four():\n    return 4",
        "(four(), four.local(), four.get_raw_f()())",
        "(four(), four.local(), four.get_raw_f()())",
        "(4, 4, 4)",
    ),
]
of_each_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: str(seed.name))


@of_each_seed
def test_seed_examples_work_in_a_plain_cell(notebook: PlainKernel, seed: Seed) -> None:
    cell = typed(notebook, f"{seed.define}\nprint({seed.call})")
    assert cell.stdout == seed.printed + "\n"


@of_each_seed
def test_seed_examples_work_in_an_await_cell(notebook: PlainKernel, seed: Seed) -> None:
    cell = typed(notebook, f"{seed.define}\nprint({seed.call_aio})")
    assert cell.stdout == seed.printed + "\n"


@of_each_seed
def test_seed_examples_work_in_a_thread(notebook: PlainKernel, seed: Seed) -> None:
    typed(notebook, seed.define)
    cell = typed(
        notebook,
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(1) as threads:\n"
        f"    print(threads.submit(lambda: {seed.call}).result())",
    )
    assert cell.stdout == seed.printed + "\n"


@pytest.mark.parametrize("interpreter", ["python", "ipython"])
def test_seed_examples_work_in_a_script(run_script: ScriptRunner, interpreter: str) -> None:
    command = {
        "python": (sys.executable,),
        "ipython": (sys.executable, "-m", "IPython", "--colors=NoColor"),
    }
    body = "\n".join(f"{seed.define}\nprint({seed.call})" for seed in SEEDS)
    shown = run_script(f"{HEAD}\n{body}", interpreter=command[interpreter])
    assert shown == "".join(seed.printed + "\n" for seed in SEEDS)


def test_seed_examples_work_in_a_script_with_an_event_loop(run_script: ScriptRunner) -> None:
    definitions = "\n".join(seed.define for seed in SEEDS)
    calls = "\n".join(f"print({seed.call_aio})" for seed in SEEDS)
    body = f"async def main():\n{textwrap.indent(calls, '    ')}"
    shown = run_script(f"{HEAD}\nimport asyncio\n{definitions}\n{body}\nasyncio.run(main())")
    assert shown == "".join(seed.printed + "\n" for seed in SEEDS)


@pytest.mark.clock
def test_two_warm_floors_keep_no_third_function_from_running(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        @app.function()
        def left(): return 'left'
        @app.function()
        def right(): return 'right'
        @app.function()
        def third(): return 'third'
        left.keep_warm(2)
        right.keep_warm(2)
        """,
    )
    stats = "[f.get_current_stats().num_total_runners for f in (left, right)]"
    wait_until(lambda: value(notebook, stats) == [2, 2], what="both floors stand")
    cell = typed(notebook, "third.remote()")
    assert cell.result == "'third'"
    assert cell.seconds is not None
    assert cell.seconds < 2 * PATIENCE
    assert value(notebook, stats) == [2, 2]
    typed(notebook, "left.keep_warm(0)\nright.keep_warm(0)")


def test_a_hundred_redefinitions_while_maps_run_give_no_result_of_a_wrong_version(
    notebook: PlainKernel,
) -> None:
    typed(
        notebook,
        """
        import collections, threading, time
        results, threads = {}, collections.deque()

        def map_it(function, number):
            results[number] = list(function.map(range(30)))
        """,
    )
    for number in range(100):
        typed(
            notebook,
            f"""
            @app.function()
            def f(x):
                time.sleep(0.001)
                return {number}, x

            threads.append(threading.Thread(target=map_it, args=(f, {number})))
            threads[-1].start()
            if len(threads) > 4:
                threads.popleft().join()
            """,
        )
    typed(notebook, "while threads: threads.popleft().join()")
    wrong = (
        "{number: result for number, result in results.items() "
        "if result != [(number, x) for x in range(30)]}"
    )
    assert value(notebook, f"len(results), {wrong}") == (100, {})


def test_a_redefined_helper_is_what_runs_next(notebook: PlainKernel) -> None:
    typed(notebook, "@app.function()\ndef asks_helper(x):\n    return helper(x)")
    for number in range(10):
        typed(notebook, f"def helper(x):\n    return {number}, x")
        expected = [(number, x) for x in range(5)]
        assert value(notebook, "list(asks_helper.map(range(5)))") == expected


def test_a_changed_global_reaches_warm_workers_and_what_they_set_themselves_survives(
    notebook: PlainKernel,
) -> None:
    typed(
        notebook,
        """
        import os, time
        threshold = 1
        loaded = None

        @app.function(min_containers=2, max_containers=2)
        def ask(x):
            global loaded
            if loaded is None:
                loaded = os.urandom(8).hex()
            time.sleep(0.01)
            return os.getpid(), loaded, threshold
        """,
    )
    read = "sorted(set(ask.map(range(40))))"
    before = value(notebook, read)
    after = value(notebook, f"threshold = 2\n{read}")
    assert {threshold for _, _, threshold in before} == {1}
    assert {threshold for _, _, threshold in after} == {2}
    assert {worker[:2] for worker in after} <= {worker[:2] for worker in before}
    typed(notebook, "ask.keep_warm(0)")


def test_a_function_of_a_later_cell_can_be_called(notebook: PlainKernel) -> None:
    typed(notebook, "@app.function()\ndef early(x):\n    return defined_later.remote(x) + 1")
    typed(notebook, "@app.function()\ndef defined_later(x):\n    return 10 * x")
    assert value(notebook, "early.remote(4)") == 41


def test_an_edited_local_module_is_what_runs_next(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        from pathlib import Path
        Path('beside.py').write_text('def answer(): return "first"')
        import beside

        @app.function()
        def ask_module(): return beside.answer()
        """,
    )
    assert value(notebook, "ask_module.remote()") == "first"
    typed(notebook, "Path('beside.py').write_text('def answer(): return \"second, longer\"')")
    assert value(notebook, "ask_module.remote()") == "second, longer"


def test_a_remote_function_finds_the_notebooks_files(notebook: PlainKernel) -> None:
    typed(notebook, "open('x.csv', 'w').write('a,b')")
    typed(notebook, "@app.function()\ndef read(): return open('x.csv').read()")
    assert value(notebook, "read.remote()") == "a,b"


def test_what_a_remote_function_writes_has_the_permissions_that_the_notebook_gives(
    notebook: PlainKernel,
) -> None:
    typed(
        notebook,
        """
        import os
        @app.function()
        def mask():
            former = os.umask(0o77)
            os.umask(former)
            return former
        """,
    )
    assert value(notebook, "mask.remote() == mask.local()") is True


def test_many_threads_call_at_once(notebook: PlainKernel) -> None:
    right = value(
        notebook,
        """
        from concurrent.futures import ThreadPoolExecutor

        @app.function()
        def increment(x): return x + 1

        def all_ways(n):
            called = increment.remote(n)
            return called, list(increment.map(range(n))), increment.spawn(n).get()

        with ThreadPoolExecutor(16) as threads:
            results = list(threads.map(all_ways, range(100)))
        results == [(n + 1, list(range(1, n + 1)), n + 1) for n in range(100)]
        """,
    )
    assert right is True


def test_functions_of_one_name_in_two_notebooks_stay_apart(
    notebook: PlainKernel, start_kernel: KernelStarter
) -> None:
    other = start_kernel()
    typed(other, HEAD)
    mapped = "{number for number, _ in who.map(range(20_000))}"
    cells = []
    for number, kernel in enumerate((notebook, other)):
        typed(kernel, f"@app.function()\ndef who(x): return {number}, x")
        cells.append(kernel.begin(mapped))
    assert notebook.finish(cells[0]).result == "{0}"
    assert other.finish(cells[1]).result == "{1}"
