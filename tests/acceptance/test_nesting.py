"""Functions that call functions: no pool is too small for a tree of calls."""

from __future__ import annotations

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place
from tests.plain_kernel import PlainKernel

ONE_SLOT = """
import notebook_ext as nb

app = nb.App()

@app.function(timeout=5, retries=nb.Retries(max_retries=1, initial_delay=0.2))
def late(x):
    import os
    marks = os.environ["NOTEBOOK_EXT_DATA_DIR"] + ".mark"
    if x == 0 and not os.path.exists(marks):
        open(marks, "w").close()
        raise ValueError
    return x

@app.function(timeout=30)
def gathers():
    return nb.gather(*[late.spawn(x) for x in (1, 2, 3)])

@app.function(timeout=30)
def maps():
    return list(late.map(range(3)))

print(gathers.spawn().get(timeout=20), maps.spawn().get(timeout=20))
"""


def test_recursive_remote_calls_end_on_a_pool_of_two(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        @app.function(max_containers=2)
        def fib(n):
            return n if n < 2 else fib.remote(n - 1) + fib.remote(n - 2)
        """,
    )
    assert value(notebook, "fib.remote(12)", timeout=60) == 144


def test_a_map_inside_a_map_ends_on_one_pool_of_two(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        @app.function(max_containers=2)
        def row(n, depth=1):
            if depth == 0:
                return n
            return sum(row.map(range(n), kwargs={'depth': depth - 1}))
        """,
    )
    expected = [sum(range(n)) for n in range(10)]
    assert value(notebook, "list(row.map(range(10)))") == expected


def test_spawn_and_gather_work_inside_a_function(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        @app.function(max_containers=2)
        def leaf(x): return x + 1
        @app.function(max_containers=2)
        def branch(x): return nb.gather(leaf.spawn(x), leaf.spawn(x + 1))
        @app.function(max_containers=2)
        async def branch_aio(x): return await leaf.remote.aio(x)
        """,
    )
    assert value(notebook, "branch.remote(1), branch_aio.remote(1)") == ([2, 3], 2)


def test_who_waits_for_several_outcomes_frees_the_only_slot_for_each_of_them(
    own_place: Place, run_script: ScriptRunner
) -> None:
    variables = own_place.variables | {"NOTEBOOK_EXT_MAX_WORKERS": "1"}
    assert run_script(ONE_SLOT, variables) == "[1, 2, 3] [0, 1, 2]\n"
