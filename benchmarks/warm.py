"""`python -m benchmarks.warm`: one warm call by the broker, and where its time is.

Calls that go by the broker (of a function that must not run twice: it has no line), calls by the
line, those of a ProcessPoolExecutor with one worker, and bare round trips (`reference.py`) take
turns in blocks, in one process. Printed, and written as JSON: medians of all calls, those of the
blocks' ratios, and each thread's CPU in a call by the broker, with how often it was put on a CPU
(schedstat).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, part_of, sweep
from benchmarks.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

GOALS = {"reference": 1.5, "ProcessPoolExecutor": 1.8}
"""What a call by the broker may cost, as a multiple."""
_SHOWN_US = 1.0

Threads = dict[str, tuple[float, int]]


def same(x: int) -> int:
    """Return what ProcessPoolExecutor's workers are asked for."""
    return x


def probe(blocks: int, calls: int) -> dict[str, Any]:
    """Run in the measured process."""
    import notebook_ext as nb  # noqa: PLC0415  as its users have it

    app = nb.App("warm")
    names: dict[str, Any] = {"app": app, "__name__": "__main__"}
    for name, option in (("once", ", rerun_on_crash=False"), ("lined", "")):
        text = f"@app.function(max_containers=1{option})\ndef {name}(x): return x\n"
        exec(text, names)  # noqa: S102  globals of its own, as a notebook's
    place = Path(tempfile.mkdtemp(prefix="nbr-"))
    with Reference(place) as reference, ProcessPoolExecutor(1) as pool:
        kinds: dict[str, Callable[[int], object]] = {
            "broker": names["once"].remote,
            "line": names["lined"].remote,
            "ProcessPoolExecutor": lambda x: pool.submit(same, x).result(),
        }
        for call in kinds.values():
            _seconds(call, calls)
        spent: dict[str, list[list[float]]] = {name: [] for name in (*kinds, "reference")}
        others = reference.pids | {child.pid or 0 for child in multiprocessing.active_children()}
        threads: dict[str, list[tuple[float, float]]] = {}
        for _ in range(blocks):
            spent["reference"].append(reference.measure(calls))
            for name, call in kinds.items():
                before = _threads(others)
                spent[name].append(_seconds(call, calls))
                if name == "broker":
                    for thread, had in _spent(before, _threads(others), calls).items():
                        threads.setdefault(thread, []).append(had)
    shutil.rmtree(place)
    middle = {name: [statistics.median(each) for each in of] for name, of in spent.items()}
    return {
        "p50_us": {
            name: 1e6 * statistics.median(itertools.chain.from_iterable(of))
            for name, of in spent.items()
        },
        "blocks_us": {name: [1e6 * each for each in of] for name, of in middle.items()},
        "ratios": {
            goal: statistics.median(
                ours / theirs for ours, theirs in zip(middle["broker"], middle[goal], strict=True)
            )
            for goal in GOALS
        },
        "threads": {
            name: [statistics.median(each) for each in zip(*of, strict=True)]
            for name, of in threads.items()
        },
    }


def _seconds(call: Callable[[int], object], calls: int) -> list[float]:
    durations = []
    for x in range(calls):
        begun = time.perf_counter()
        found = call(x)
        durations.append(time.perf_counter() - begun)
        if found != x:
            raise RuntimeError(f"{found} instead of {x}")
    return durations


def _threads(others: set[int]) -> Threads:
    """Return the CPU seconds of each thread of ours, and how often it was put on a CPU."""
    found: Threads = {}
    mine = os.environ["NOTEBOOK_EXT_RUNTIME_DIR"]
    for process in psutil.process_iter():
        try:
            if process.pid in others or process.environ().get("NOTEBOOK_EXT_RUNTIME_DIR") != mine:
                continue
            part = part_of(process, os.getpid())
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                ran, _, times = (task / "schedstat").read_text().split()
                is_main = task.name == str(process.pid)
                name = "main" if is_main else (task / "comm").read_text().strip()
                found[f"{part}, {name} {task.name}"] = (int(ran) / 1e9, int(times))
        except (psutil.Error, OSError):
            continue  # it has just ended
    return found


def _spent(before: Threads, after: Threads, calls: int) -> dict[str, tuple[float, float]]:
    """Return what each thread had in a call: microseconds of CPU, and times on a CPU."""
    return {
        name: (1e6 * (ran - before[name][0]) / calls, (times - before[name][1]) / calls)
        for name, (ran, times) in after.items()
        if name in before
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure from nothing, in a process with directories of its own."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    try:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.warm", "--probe"),
                *map(str, (options.blocks, options.calls)),
            ],
            stdout=subprocess.PIPE,
            env=isolated_environment(directory),
            cwd=ROOT,
            check=True,
            timeout=300,
        )
        answer: dict[str, Any] = json.loads(ended.stdout)
    finally:
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return answer


def table(found: dict[str, Any]) -> str:
    """Return the figures, one a line, and whether the goals are met."""
    lines = [f"{name:40} {each:8.0f} µs" for name, each in found["p50_us"].items()]
    lines += [
        f"{'by the broker, of ' + name:40} {each:8.2f} (goal {GOALS[name]})"
        for name, each in found["ratios"].items()
    ]
    lines += [
        f"{name.rsplit(' ', 1)[0]:40} {ran:8.0f} µs CPU, {times:.1f} times on a CPU"
        for name, (ran, times) in found["threads"].items()
        if ran >= _SHOWN_US
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--calls", type=int, default=500, help="of each kind in a block")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "warm.json")
    parser.add_argument("--probe", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        print(json.dumps(probe(*options.probe)))
        return
    become_subreaper()
    found = measure(options)
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
