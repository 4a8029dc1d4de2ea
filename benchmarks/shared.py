"""`python -m benchmarks.shared`: what further workers of a class cost that loads once for all.

A class loads weights (a numpy array) in `enter(snap=True)`, in its template. Measured: seconds to
the first result, seconds to the result of a call that needs the second, third and fourth worker
while the others are busy, and by how much the memory of all processes together (PSS: shared pages
counted once) grows with each of them. Every call reads all of the weights. Printed beside the
limits, and written as JSON; the start from nothing is in directories of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

WORKERS = 4
LIMITS = {
    "new_worker_seconds": (0.100, "a call that needs a further worker, the slowest (s)"),
    "growth_mb": (30.0, "PSS of all processes, per further worker, the largest (MB)"),
}

Answer = dict[str, Any]


def probe(megabytes: int) -> None:
    """Run in the measured process: one worker after the other; say how it went after each."""
    import numpy as np  # noqa: PLC0415  what is measured starts here

    import notebook_ext as nb  # noqa: PLC0415  as above

    app = nb.App("shared")

    @app.cls(cpu=0.2, max_containers=WORKERS)
    class Model:
        size: int = nb.parameter()

        @nb.enter(snap=True)
        def load(self) -> None:
            self.weights = np.random.default_rng(0).random(self.size)

        @nb.method()
        def total(self, seconds: float) -> float:
            found = float(self.weights.sum())
            time.sleep(seconds)
            return found

    made: Any = Model  # no longer the class that it was written as
    model = made(megabytes * 1_000_000 // 8)
    for running in range(WORKERS):
        _until(lambda running=running: model.get_current_stats().num_running_inputs == running)
        begun = time.perf_counter()
        expected = model.total.remote(0)
        seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        if model.total.remote(0) != expected:
            raise RuntimeError("two workers have different weights")
        warm = time.perf_counter() - begun
        _say({"seconds": seconds, "beyond_warm": seconds - warm})
        model.total.spawn(600)


def _say(answer: Answer) -> None:
    """Print, and wait until it was taken in."""
    print(json.dumps(answer), flush=True)
    sys.stdin.readline()


def _until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the pool did not get there within 60 s")
        time.sleep(0.005)


def measure(megabytes: int) -> Answer:
    """Run one round from nothing and return what it measured."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.shared", "--probe", "--megabytes", str(megabytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=isolated_environment(directory),
        cwd=directory,
        start_new_session=True,
    )
    starts, totals = [], []
    try:
        for _ in range(WORKERS):
            starts.append(json.loads(child.stdout.readline() if child.stdout else b""))
            totals.append(_pss_mb(child.pid))
            if child.stdin:
                child.stdin.write(b"\n")
                child.stdin.flush()
    finally:
        child.kill()
        child.wait()
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    further = [start["beyond_warm"] for start in starts[1:]]
    growth = [after - before for before, after in itertools.pairwise(totals)]
    return {
        "first_result_seconds": starts[0]["seconds"],
        "new_workers_seconds": further,
        "new_worker_seconds": max(further),
        "totals_mb": totals,
        "growths_mb": growth,
        "growth_mb": max(growth),
    }


def _pss_mb(leave_out: int) -> float:
    """Return the memory of all our descendants but one."""
    everyone = psutil.Process().children(recursive=True)
    return float(sum(p.memory_full_info().pss for p in everyone if p.pid != leave_out)) / 1e6


def main() -> None:
    """Measure, print each figure beside its limit, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=500, help="of weights")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "shared.json")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.megabytes)
        return
    become_subreaper()
    rounds = [measure(options.megabytes) for _ in range(options.rounds)]
    for name, (limit, title) in LIMITS.items():
        median = statistics.median(answer[name] for answer in rounds)
        print(f"{title:>62}: {median:8.3f}   (limit {limit:g})")
    for answer in rounds:
        print(
            f"first result {answer['first_result_seconds']:.2f} s, further workers "
            f"{', '.join(f'{s * 1000:.0f}' for s in answer['new_workers_seconds'])} ms, PSS "
            f"{', '.join(f'{mb:.0f}' for mb in answer['totals_mb'])} MB"
        )
    options.json.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
