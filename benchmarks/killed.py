"""`python -m benchmarks.killed`: what does it cost a map that one of its two workers is killed?

A map of tasks that sleep, each of which first writes down that it begins, and in which process.
When half have begun the process that began one last is killed (SIGKILL). In rounds, one system
after the other, with and without the kill in turn: how much longer did it take, and how often did
a task begin a second time that had begun before? Of ours it is checked that only what the dead
worker had begun is run again, and each task that had not has run once.

A system that fails is named with its error. Medians of all kills, as JSON and printed beside the
goal; the exit status is 1 where that is not kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import ROOT, Peer, PeerError, become_subreaper

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEMS = ("notebook-ext", "ProcessPoolExecutor", "Ray", "Dask")
LIMIT_SECONDS = 0.1
FIGURES = ("without_seconds", "with_seconds", "later_seconds", "began_again")

Rounds = dict[str, list[dict[str, float]]]


def visit(name: str, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield what each of some kills costs a system."""
    with Peer(name, set()) as peer:
        peer.ask("load", 60)
        peer.ask("first_result", 90)
        asked: dict[str, Any] = {"tasks": options.tasks, "seconds": options.milliseconds / 1000}
        peer.ask("killed", 60, kills=False, **asked)  # its workers are there
        for _ in range(options.pairs):
            without = peer.ask("killed", options.limit_seconds, kills=False, **asked)
            found = peer.ask("killed", options.limit_seconds, kills=True, **asked)
            others = found["others_again"]
            if name == "notebook-ext" and others:
                raise PeerError(f"{others} began again that the dead worker had not begun")
            yield {
                "without_seconds": without["seconds"],
                "with_seconds": found["seconds"],
                "later_seconds": found["seconds"] - without["seconds"],
                "began_again": found["again"],
            }


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.killed", description=__doc__)
    parser.add_argument("systems", nargs="*", default=[*SYSTEMS], help="of these: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4, help="without and with a kill, a round")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, default=10.0, help="that a task sleeps")
    parser.add_argument("--limit-seconds", type=float, default=60.0, help="a map may take so long")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "killed.json")
    options = parser.parse_args()
    become_subreaper()
    rounds: Rounds = {}
    failed: dict[str, str] = {}
    begun = time.perf_counter()
    for number in range(options.rounds):
        for name in options.systems[:: -1 if number % 2 else 1]:
            if name in failed:
                continue
            try:
                for pair in visit(name, options):
                    rounds.setdefault(name, []).append(pair)
            except PeerError as error:
                failed[name] = str(error)
    medians = {
        name: {each: statistics.median(row[each] for row in rows) for each in FIGURES}
        for name, rows in rounds.items()
    }
    for name, row in medians.items():
        worst = max(each["later_seconds"] for each in rounds[name])
        print(
            f"{name:>20}: {row['with_seconds']:.2f} s, {row['later_seconds']:+.3f} s later than "
            f"without (at most {worst:+.3f}); began again: {row['began_again']:g}"
        )
    for name, why in failed.items():
        print(f"{name:>20}: {why}")
    options.json.write_text(json.dumps({"rounds": rounds, "failed": failed}, indent=1) + "\n")
    print(f"{options.rounds} rounds in {time.perf_counter() - begun:.0f} s")
    ours = medians.get("notebook-ext")
    is_kept = ours is not None and ours["later_seconds"] <= LIMIT_SECONDS
    sys.exit("notebook-ext" in options.systems and not is_kept)


if __name__ == "__main__":
    main()
