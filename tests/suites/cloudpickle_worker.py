"""What stands in for the worker of cloudpickle's own tests, in them and in the scripts they run.

Their `testutils`, as it was brought, imports these names over its own. A worker of theirs is an
`nb.Executor` of one worker here: what they pickle by hand and send, goes the way that functions,
arguments and results of users go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

import notebook_ext as nb
from notebook_ext.exception import DeserializationError
from tests.suites.hosting import TESTS

__all__ = [
    "_make_cwd_env",
    "subprocess_pickle_echo",
    "subprocess_pickle_string",
    "subprocess_worker",
]

TIMEOUT_SECONDS = 60


class Worker:
    """One worker of ours, with the methods of theirs."""

    def __init__(self, executor: nb.Executor) -> None:
        """Have `executor` do the work."""
        self._executor = executor

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call `function` there; return or raise what it does.

        Where it cannot be unpickled there, theirs raises the reason; ours says so, because of it.
        """
        try:
            return self._executor.submit(function, *args, **options).result(TIMEOUT_SECONDS)
        except DeserializationError as error:
            raise error.__cause__ or error from None

    def memsize(self) -> int:
        """Return how many bytes of memory the worker has."""
        return int(psutil.Process(self.run(os.getpid)).memory_info().rss)


@contextmanager
def subprocess_worker(
    protocol: int | None = None, add_env: dict[str, str] | None = None
) -> Iterator[Worker]:
    """Yield a worker with `add_env` in its environment; the protocol is ours."""
    assert protocol is None or protocol > 0
    with nb.Executor(1, env=add_env or {}) as executor:
        yield Worker(executor)


def subprocess_pickle_echo(value: Any, protocol: int | None = None) -> Any:
    """Return what a worker returns of what it was given."""
    with subprocess_worker(protocol) as worker:
        return worker.run(lambda given: given, value)


def subprocess_pickle_string(
    value: Any, protocol: int | None = None, add_env: dict[str, str] | None = None
) -> bytes:
    """Return what cloudpickle makes on a worker of what that was given."""
    with subprocess_worker(protocol, add_env) as worker:
        pickled: bytes = worker.run(cloudpickle.dumps, value, protocol=protocol)
        return pickled


def _make_cwd_env() -> tuple[str, dict[str, str]]:
    """Return where a script runs, and its environment, in which it finds `testutils` and us."""
    theirs = Path(os.environ[TESTS])
    return str(theirs.parent), os.environ | {"PYTHONPATH": f"{theirs}:{os.environ['PYTHONPATH']}"}
