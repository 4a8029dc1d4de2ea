"""Functions that call functions: no pool is too small for a tree of calls."""

from __future__ import annotations

from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel


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
