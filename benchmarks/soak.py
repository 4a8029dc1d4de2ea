"""`python -m benchmarks.soak`: does anything grow while a function is called and redefined?

A client calls a function 10,000 times and redefines it 100 times on the way. After each tenth of
that, the memory (PSS: shared pages counted once) of client, broker, host agent, and of templates
and workers together, is looked at. Printed, and written as JSON: those figures, and by how much all
of them together are larger at the end than after the first tenth. The limit is 10 MB.

The measured process is a child that runs `probe` and waits, after each tenth, until it is told to
go on; the processes that it caused to start are looked at from here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import (
    PARTS,
    ROOT,
    become_subreaper,
    isolated_environment,
    part_of,
    sweep,
)

LIMIT_MB = 10.0
_STEPS = 10
_SETTLE_SECONDS = 1.0

Sizes = dict[str, float]


def probe(calls: int, redefinitions: int) -> None:
    """Run in the measured process: call and redefine, a tenth at a time."""
    import notebook_ext as nb  # noqa: PLC0415  the parent needs none

    app = nb.App("soak")
    for number in range(redefinitions):
        function = _define(app, number)
        for argument in range(calls // redefinitions):
            if function.remote(argument) != argument + number:
                raise RuntimeError("a call ran what was not defined last")
        if (number + 1) % (redefinitions // _STEPS) == 0:
            print(number + 1, flush=True)
            sys.stdin.readline()


def _define(app: Any, number: int) -> Any:
    """Return the function as a cell that was edited defines it."""
    names: dict[str, Any] = {}
    exec(f"def soaked(x):\n    return x + {number}\n", names)  # noqa: S102  as a cell is
    return app.function()(names["soaked"])


def measure(calls: int, redefinitions: int) -> list[Sizes]:
    """Return the sizes in MB after each tenth."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    counts = [str(calls), str(redefinitions)]
    sizes: list[Sizes] = []
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak", "--probe", *counts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=isolated_environment(directory),
        cwd=directory,
        start_new_session=True,
        text=True,
    )
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("pipes were asked for")
    try:
        for _ in range(_STEPS):
            if not child.stdout.readline():
                raise RuntimeError("the measured process ended")
            sizes.append(_sizes(child.pid))
            child.stdin.write("\n")
            child.stdin.flush()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return sizes


def _sizes(client: int) -> Sizes:
    """Return how large every part is, once the superseded workers have gone."""
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_SETTLE_SECONDS)
    sizes = dict.fromkeys(PARTS, 0.0)
    for process in psutil.Process().children(recursive=True):
        try:
            sizes[part_of(process, client)] += process.memory_full_info().pss / 1e6
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended meanwhile
    return sizes


def growth_mb(sizes: list[Sizes]) -> float:
    """Return by how much all parts together are larger at the end than after the first tenth."""
    return sum(sizes[-1].values()) - sum(sizes[0].values())


def main() -> None:
    """Measure, print, write the JSON; the exit status is 1 where it grew too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--redefinitions", type=int, default=100)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "soak.json")
    parser.add_argument("--probe", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe is not None:
        probe(*options.probe)
        return
    become_subreaper()
    sizes = measure(options.calls, options.redefinitions)
    print("MB after calls".rjust(16), *(part.rjust(22) for part in PARTS), "all".rjust(8))
    for step, found in enumerate(sizes, 1):
        columns = [f"{found[part]:22.1f}" for part in PARTS]
        print(f"{options.calls * step // _STEPS:16,}", *columns, f"{sum(found.values()):8.1f}")
    grown = growth_mb(sizes)
    print(f"grown by {grown:.1f} MB since the first tenth (limit {LIMIT_MB:g})")
    options.json.write_text(json.dumps({"grown_mb": grown, "sizes": sizes}, indent=1) + "\n")
    sys.exit(grown > LIMIT_MB)


if __name__ == "__main__":
    main()
