"""Other projects' own tests on our workers: `make suites`, or `python -m tests.suites [NAME ...]`.

Each suite is a run of pytest over the modules that the project has installed, or that `brought`
has from its repository; the table at the end
says what passed, what failed and what was left out. Why is above it, in each run's own summary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import leftovers
from tests.suites import brought
from tests.suites.hosting import BASE, FIGURES, TESTS
from tests.waiting import wait_until
from tools.own_directories import own_directories, stop_broker

ROOT = Path(__file__).parents[2]


class Suite(NamedTuple):
    """A run of pytest: whose tests, which of them, and the plugin that brings them to workers."""

    project: str
    tests: tuple[str, ...]
    brings: Callable[[Path], Path] | None = None
    """Puts the tests below a directory, where they are not installed; returns where they are."""


FOREST = ("parallel", "parallel_train", "backend_respected")
SUITES = (
    Suite(
        "dask",
        tuple(
            f"dask.tests.test_{each}"
            for each in ("threaded", "multiprocessing", "local", "delayed")
        ),
    ),
    Suite("joblib", ("joblib.test.test_parallel",)),
    Suite(
        "sklearn",
        (
            "sklearn.utils.tests.test_parallel",
            *(f"sklearn.ensemble.tests.test_forest::test_{each}" for each in FOREST),
            "sklearn.model_selection.tests.test_search",
        ),
    ),
    Suite("cloudpickle", ("cloudpickle_tests/cloudpickle_test.py",), brought.cloudpickle),
)


FIRST = """import sys
if not any("kernel_worker" in word for word in sys.orig_argv):
    import notebook_ext
"""
"""What scripts and processes of the tests begin with: they know our backend then."""


def run(suite: Suite) -> dict[str, float]:
    """Run it; return how many tests passed, failed, … and the seconds."""
    started = time.monotonic()
    with own_directories() as base:
        figures = base / "figures"
        first = base / "first"
        first.mkdir()
        (first / "sitecustomize.py").write_text(FIRST)
        plugins = ("-p", "tests.suites.hosting", "-p", f"tests.suites.on_{suite.project}")
        quiet = ("-p", "no:randomly", "-p", "no:cacheprovider", "-q", "-rsfExX", "--timeout=300")
        command = [sys.executable, "-m", "pytest", "-c", os.devnull, *plugins, *quiet]
        names = {FIGURES: str(figures), BASE: str(base), "PYTHONPATH": f"{first}:{ROOT}:{base}"}
        if suite.brings is not None:
            try:
                names[TESTS] = str(suite.brings(base))
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"the tests of {suite.project} are not to be had: {error}")
                return {"error": 1}
        subprocess.run(
            [*command, f"--rootdir={base}", "--pyargs", *suite.tests],
            cwd=base,
            env=os.environ | names,
            check=False,
        )
        counts: dict[str, float] = {"failed": 1}
        if figures.exists():
            counts = json.loads(figures.read_text())
        stop_broker()
        wait_until(lambda: not leftovers.processes(base), 20, "no process is left")
    return counts | {"seconds": time.monotonic() - started}


def main(names: list[str]) -> int:
    """Run the suites that are named, or all; return 0 where nothing failed."""
    chosen = [each for each in SUITES if not names or each.project in names]
    found = {each.project: run(each) for each in chosen}
    kinds = ("passed", "failed", "error", "skipped", "xfailed", "left_out", "seconds")
    print("suite".ljust(24), *(each.rjust(9) for each in kinds))
    for name, counts in found.items():
        print(name.ljust(24), *(f"{counts.get(each, 0):9.0f}" for each in kinds))
    bad = sum(counts.get("failed", 0) + counts.get("error", 0) for counts in found.values())
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
