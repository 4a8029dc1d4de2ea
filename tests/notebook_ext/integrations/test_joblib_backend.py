"""Loops of joblib run on kernel workers: batches, failures, generators, nested loops."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import notebook_ext as nb
from notebook_ext.integrations import joblib_backend
from tests.waiting import wait_until


def square(x: int) -> int:
    return x * x


def failing_at_five(x: int, gate: Path) -> int:
    import time

    if x == 5:
        raise ValueError("five")
    while x > 5 and not gate.exists():
        time.sleep(0.01)
    return x


def pid_of(_: int) -> int:
    return os.getpid()


def nested(x: int) -> list[int]:
    return list(Parallel(n_jobs=2)(delayed(square)(y) for y in range(x)))


@pytest.fixture(autouse=True)
def on_workers(live: nb.App) -> Iterator[None]:
    assert live.name
    with joblib.parallel_config(backend="notebook_ext", n_jobs=2):
        yield


def test_a_loop_runs_on_workers_that_stay() -> None:
    assert Parallel()(delayed(square)(x) for x in range(300)) == [x * x for x in range(300)]
    pids = set(Parallel()(delayed(pid_of)(x) for x in range(20)))
    assert os.getpid() not in pids
    assert set(Parallel()(delayed(pid_of)(x) for x in range(20))) & pids


def test_results_can_be_taken_as_they_come() -> None:
    made = Parallel(return_as="generator")(delayed(square)(x) for x in range(5))
    assert list(made) == [0, 1, 4, 9, 16]


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(ValueError, match="five"):
        Parallel()(delayed(failing_at_five)(x, gate) for x in range(20))
    stats: Any = joblib_backend.executor_of(2)._function.get_current_stats
    wait_until(lambda: stats().num_running_inputs == 0, 20, "what ran was cancelled")
    assert not gate.exists()
    assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_loops_inside_of_what_runs() -> None:
    assert Parallel()(delayed(nested)(x) for x in range(4)) == [
        [y * y for y in range(x)] for x in range(4)
    ]


def nested_on_workers(x: int) -> list[int]:
    found: list[int] = Parallel(n_jobs=2, backend="notebook_ext")(
        delayed(square)(y) for y in range(x)
    )
    return found


def test_loops_on_workers_inside_of_what_runs_on_all_workers() -> None:
    assert Parallel(n_jobs=joblib.cpu_count())(
        delayed(nested_on_workers)(x) for x in range(2 * joblib.cpu_count())
    ) == [[y * y for y in range(x)] for x in range(2 * joblib.cpu_count())]


@pytest.mark.parametrize(("asked", "jobs"), [(1, 1), (3, 3), (-1, joblib.cpu_count()), (None, 1)])
def test_how_many_jobs_there_are(asked: int | None, jobs: int) -> None:
    backend = joblib.parallel.BACKENDS["notebook_ext"]()
    assert backend.effective_n_jobs(asked) == jobs
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)


@pytest.mark.parametrize("first", ["notebook_ext", "joblib"])
def test_joblib_knows_it_whichever_is_imported_first(first: str) -> None:
    second = {"notebook_ext": "joblib", "joblib": "notebook_ext"}[first]
    told = "print('notebook_ext' in joblib.parallel.BACKENDS, joblib.__spec__.loader)"
    source = f"import sys, {first}\nprint('joblib' in sys.modules)\nimport {second}, joblib\n{told}"
    ended = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    loaded, known = ended.stdout.splitlines()
    assert loaded == str(first == "joblib")
    assert known.startswith("True <_frozen_importlib_external.SourceFileLoader")
    assert "joblib" in inspect.getsource(joblib).lower()
