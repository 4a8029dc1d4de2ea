"""`python -m benchmarks.streams`: items of generators, from the worker to the loop that reads them.

Printed, and written as JSON: seconds from a warm call to its first item, ints per second in order
(of `remote_gen`, whose producer is at most 64 items ahead; and of a spawned generator, which has no
such limit, read while it runs), and items of 1 MB per second. Medians over rounds; each round has
directories and a broker of its own.
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
from typing import TYPE_CHECKING, Any

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

if TYPE_CHECKING:
    from collections.abc import Iterable

FIGURES = {
    "first_item_seconds": ("a warm call to its first item (s)", 0.005),
    "ints_per_second": ("ints per second, remote_gen", 300_000.0),
    "spawned_ints_per_second": ("ints per second, spawned and read by get_gen", None),
    "megabyte_items_per_second": ("items of 1 MB per second, remote_gen", None),
}
"""What is measured, and its goal if there is one."""
MEGABYTE = 1_000_000

Answer = dict[str, float]


def probe(ints: int, megabytes: int, calls: int) -> Answer:
    """Run in the measured process."""
    import notebook_ext as nb  # noqa: PLC0415  as its users have it

    app = nb.App("streams")

    @app.function(max_containers=1)
    def count(n: int) -> Any:
        yield from range(n)

    @app.function(max_containers=1)
    def blocks(n: int) -> Any:
        for i in range(n):
            yield bytes([i % 256]) * MEGABYTE

    if list(count.remote_gen(1_000)) != list(range(1_000)) or len(list(blocks.remote_gen(2))) != 2:  # noqa: PLR2004
        raise RuntimeError("the items are not those that were made")
    return {
        "first_item_seconds": statistics.median(_first_item(count) for _ in range(calls)),
        "ints_per_second": _rate(count.remote_gen(ints), ints),
        "spawned_ints_per_second": _rate(count.spawn(ints).get_gen(), ints),
        "megabyte_items_per_second": _rate(blocks.remote_gen(megabytes), megabytes),
    }


def _first_item(count: Any) -> float:
    begun = time.perf_counter()
    items = iter(count.remote_gen(2))
    next(items)
    spent = time.perf_counter() - begun
    list(items)
    return spent


def _rate(items: Iterable[Any], expected: int) -> float:
    begun = time.perf_counter()
    found = sum(1 for _ in items)
    spent = time.perf_counter() - begun
    if found != expected:
        raise RuntimeError(f"{found} items of {expected}")
    return found / spent


def measure(options: argparse.Namespace) -> Answer:
    """Run one round from nothing and return what it measured."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    numbers = map(str, (options.ints, options.megabytes, options.calls))
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.streams", "--probe", *numbers],
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
    """Return the figures with their goals, one a line."""
    lines = []
    for name, (title, goal) in FIGURES.items():
        found = medians[name]
        shown = f"{found:.4f}" if name.endswith("_seconds") else f"{found:,.0f}"
        lines.append(f"{title:50} {shown:>12}" + (f"   goal {goal:g}" if goal else ""))
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run the rounds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ints", type=int, default=500_000)
    parser.add_argument("--megabytes", type=int, default=500, help="items of 1 MB")
    parser.add_argument("--calls", type=int, default=50, help="whose first item is waited for")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "streams.json")
    parser.add_argument("--probe", type=int, nargs=3, help=argparse.SUPPRESS)
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
