"""`python -m benchmarks.captured`: what a large captured global costs the calls that come after.

Printed, and written as JSON: seconds of the second warm call and of later ones, of a function that
captures a numpy array (200 MB), of one that captures it through `put`, and of one that captures
neither; and of the call after a small global that is captured beside the array has changed. Medians
over rounds; each round has directories and a broker of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

GOAL_SECONDS = 0.3
"""What the second call may cost more for the array."""
FIGURES = {
    "plain_second": "second call, nothing captured (s)",
    "put_second": "… array captured through put (s)",
    "captured_second": "… array captured (s)",
    "plain_later": "later calls, nothing captured (s)",
    "put_later": "… array captured through put (s)",
    "captured_later": "… array captured (s)",
    "captured_first": "first call, array captured (s)",
    "small_changed": "a small global beside the array has changed (s)",
}

Answer = dict[str, float]


def probe(megabytes: int, calls: int) -> Answer:
    """Run in the measured process."""
    import numpy as np  # noqa: PLC0415  the start is not what is measured

    import notebook_ext as nb  # noqa: PLC0415  as its users have it

    app = nb.App("captured")
    names: dict[str, Any] = {"app": app, "__name__": "__main__", "small": 0}
    names["array"] = np.ones(megabytes * 125_000)
    names["handle"] = nb.put(np.ones(megabytes * 125_000))
    for name, body in (("plain", "1.0"), ("put", "handle[7]"), ("captured", "array[7]")):
        text = f"@app.function(max_containers=1)\ndef {name}(): return float({body}) + small\n"
        exec(text, names)  # noqa: S102  globals of its own, as a notebook's
    answer: Answer = {}
    for name in ("plain", "put", "captured"):
        first, second, *later = [_seconds(names[name], 1.0) for _ in range(calls)]
        answer[f"{name}_first"] = first
        answer[f"{name}_second"] = second
        answer[f"{name}_later"] = statistics.median(later)
    names["small"] = 1
    answer["small_changed"] = _seconds(names["captured"], 2.0)
    return answer


def _seconds(function: Any, expected: float) -> float:
    begun = time.perf_counter()
    found = function.remote()
    spent = time.perf_counter() - begun
    if found != expected:
        raise RuntimeError(f"{found} instead of {expected}")
    return spent


def measure(options: argparse.Namespace) -> Answer:
    """Run one round from nothing and return what it measured."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    numbers = map(str, (options.megabytes, options.calls))
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.captured", "--probe", *numbers],
            stdout=subprocess.PIPE,
            env=isolated_environment(directory),
            cwd=directory,
            check=True,
            timeout=300,
        )
        answer: Answer = json.loads(ended.stdout)
    finally:
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return answer


def table(medians: Answer) -> str:
    """Return the figures, one a line, and whether the goal is met."""
    lines = [f"{title:55} {medians[name]:8.4f}" for name, title in FIGURES.items()]
    for name in ("captured", "put"):
        more = medians[f"{name}_second"] - medians["plain_second"]
        lines.append(f"{name}: the second call costs {more:.4f} s more (goal {GOAL_SECONDS} s)")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run the rounds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captured", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the array")
    parser.add_argument("--calls", type=int, default=8, help="of each function")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "captured.json")
    parser.add_argument("--probe", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        print(json.dumps(probe(*options.probe)))
        return
    become_subreaper()
    rounds = [measure(options) for _ in range(options.rounds)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in FIGURES}
    options.json.write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=1) + "\n")
    print(table(medians))


if __name__ == "__main__":
    main(sys.argv[1:])
