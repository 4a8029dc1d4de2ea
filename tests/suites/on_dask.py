"""dask's tests of its local schedulers, with `nb.Executor` as scheduler and as pool.

Every `compute()` and every `get` of `dask.threaded`, `dask.multiprocessing` and, where the tests
ask for the synchronous one, `dask.local` goes to one executor; where they try kinds of pools, ours
is one more.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import dask
import pytest
from dask.local import get_async
from dask.system import CPU_COUNT

import notebook_ext as nb

LEFT_OUT = {
    r"test_pool_kwarg.*": "counts the threads of this process that tasks ran in",
    r"test_(contextvars|context_aware_warnings).*": (
        "shares a barrier, a ContextVar or the list of warnings with the tasks"
    ),
    r"test_ordering|test_ensure_calculate_only_whats_needed": (
        "tasks append to a list, or count in a variable, of the test's own process"
    ),
    r"test_process_initializer\[threading.*": "tasks share a global with the test",
    r"test_process_initializer\[processes-proc_init.*": (
        "hands an initializer to the pool that dask makes; dask ignores it where a pool is given"
    ),
    r"test_custom_context_used_python3_posix": "asks for a pool that is forked from this process",
    r"test_traverse_false": "the result is to be the very object that was given, not an equal one",
}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have our executor be one of the kinds of pools."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        kinds = mark.args[1]
        if mark.args[0] == "pool_typ" and {ThreadPoolExecutor, ProcessPoolExecutor} & set(kinds):
            kinds[:] = [nb.Executor]


@pytest.fixture(scope="session")
def executor() -> Iterator[nb.Executor]:
    """Return the executor of all tests."""
    with nb.Executor(CPU_COUNT) as made:
        yield made


@pytest.fixture(autouse=True)
def on_workers(
    executor: nb.Executor, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Have everything that a test computes be computed by the executor."""

    def get(graph: Any, keys: Any, num_workers: int = 1, **options: Any) -> Any:
        compute: Any = get_async  # without annotations, where dask is installed at all
        return compute(executor.submit, num_workers, graph, keys, **options)

    if hasattr(request.module, "get_sync"):
        monkeypatch.setattr(request.module, "get_sync", get)
    if getattr(request.cls, "get", None) is not None:
        monkeypatch.setattr(request.cls, "get", staticmethod(get))
    with dask.config.set(scheduler=executor, pool=executor):
        yield
