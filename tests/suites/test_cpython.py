"""CPython 3.11's own tests of executors, on `nb.Executor`.

What is run are the mixins of the interpreter's `test.test_concurrent_futures`, as they are: nothing
of them is kept here. Where the interpreter came without them, `make setup` brings those of the
distribution's Python (`.venv/cpython`), if it has them.

Of the tests for processes those are run too that look at no private attribute of the standard pool.
Two names of that module are ours here:
- `BrokenProcessPool`, what a future raises whose process has died. Ours is a `BrokenExecutor` too;
  where an argument or a result cannot be unpickled, which breaks the standard pool for everybody,
  ours fails that future alone, by a `DeserializationError` or by what unpickling has raised.
- `assert_python_ok`, which runs the scripts: they import our executor in place of the standard one.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.integrations.executor import BrokenExecutor

if sys.version_info[:2] != (3, 11):
    pytest.skip("the mixins are those of CPython 3.11", allow_module_level=True)

BROUGHT = Path(sys.prefix, "cpython")
if BROUGHT.is_dir() and str(BROUGHT) not in sys.path:
    sys.path.insert(0, str(BROUGHT))
try:
    suite: Any = importlib.import_module("test.test_concurrent_futures")
except ModuleNotFoundError:
    pytest.skip(
        "this Python came without its own tests (Debian: libpython3.11-testsuite; then make setup)",
        allow_module_level=True,
    )

suite.BrokenProcessPool = (BrokenExecutor, nb.exception.DeserializationError)
standard_python_ok = suite.assert_python_ok


def python_ok(option: str, script: str) -> Any:
    """Run a script of the tests, with our executor."""
    ours = script.replace("from concurrent.futures import", "from notebook_ext import")
    assert ours != script
    return standard_python_ok(option, f"import sys; sys.path[:] = {sys.path}\n{ours}")


suite.assert_python_ok = python_ok


@pytest.fixture(autouse=True, scope="module")
def connected(live: nb.App) -> Iterator[None]:
    """Start what stays from test to test: each looks for threads that it has left."""
    assert live.name
    with nb.Executor(1) as executor:
        executor.submit(pow, 2, 8).result()
    gc.collect()
    gc.freeze()  # many of the tests collect, again and again, what pytest holds
    yield
    gc.unfreeze()


class OnWorkers(suite.ExecutorMixin):  # type: ignore[misc]  # it has no types
    """What the mixins' tests use: `self.executor`, made anew for each."""

    executor_type = nb.Executor

    def get_context(self) -> Any:
        return suite.mp.get_context("fork")  # leaves no tracker of resources behind


class Executor(suite.ExecutorTest, OnWorkers, suite.BaseTestCase):  # type: ignore[misc]
    test_map_chunksize = suite.ProcessPoolExecutorTest.test_map_chunksize
    test_ressources_gced_in_workers = suite.ProcessPoolExecutorTest.test_ressources_gced_in_workers


class Wait(suite.WaitTests, OnWorkers, suite.BaseTestCase): ...  # type: ignore[misc]


class AsCompleted(suite.AsCompletedTests, OnWorkers, suite.BaseTestCase): ...  # type: ignore[misc]


class Shutdown(suite.ExecutorShutdownTest, OnWorkers, suite.BaseTestCase): ...  # type: ignore[misc]


class Deadlock(suite.ExecutorDeadlockTest, OnWorkers, suite.BaseTestCase):  # type: ignore[misc]
    test_shutdown_deadlock_pickle = None
    """Left out: it waits for a thread by a private name of the standard pool.

    tests/notebook_ext/integrations/test_executor.py does the same without.
    """


class Initializer(suite.InitializerMixin, OnWorkers, suite.BaseTestCase): ...  # type: ignore[misc]


class FailingInitializer(suite.FailingInitializerMixin, OnWorkers, suite.BaseTestCase):  # type: ignore[misc]
    ...
