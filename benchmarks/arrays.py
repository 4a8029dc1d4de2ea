"""`python -m benchmarks.arrays`: large values, beside Ray in the same run.

An array goes to a worker and comes back (100 MB and 1 GB; both ways counted), unchanged and changed
there. In rounds, one system after the other; the peak is what the processes have in memory of
their own and in shared memory at most, beyond what they had before, as a multiple of the array. Of
ours also: 1,000 inputs that share an array of 100 MB (`kwargs=`) beside 1,000 that share a small
one, and items of 1 MB from a generator. Medians of rounds, as JSON and printed beside the goals.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Self

import psutil

from benchmarks.processes import ROOT, Peer, PeerError, become_subreaper

SYSTEMS = ("notebook-ext", "Ray")
MEMORY = Path("/dev/shm")  # noqa: S108  what is measured
GOALS = {
    "rate of Ray's, 100 MB": (1.2, "at least"),
    "rate of Ray's, 1,000 MB": (1.2, "at least"),
    "peak, 100 MB, arrays": (2.1, "at most"),
    "peak, 1,000 MB, arrays": (2.1, "at most"),
    "shared by 1,000 inputs of 1 ms, without its write": (1.1, "at most"),
    "items of 1 MB, GB/s": (1.0, "at least"),
}

Figures = dict[str, list[float]]


class Peak:
    """The most memory that the processes below this one took meanwhile, beyond what they had."""

    def __enter__(self) -> Self:
        """Look from now on."""
        self._before = self._most = _memory_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._is_over.set()
        self._thread.join()

    @property
    def grown_bytes(self) -> int:
        """How much it was."""
        return self._most - self._before

    def _look(self) -> None:
        while not self._is_over.wait(0.005):
            self._most = max(self._most, _memory_bytes())


def _memory_bytes() -> int:
    """Return what our descendants have of their own, and what lies in shared memory."""
    size = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    size += int(line.split()[1]) * 1024
    room = os.statvfs(MEMORY)
    return size + (room.f_blocks - room.f_bfree) * room.f_frsize


def visit(name: str, figures: Figures, options: argparse.Namespace) -> None:
    """Measure one system once."""
    with Peer(name, set()) as peer:
        peer.ask("load", 60)
        peer.ask("first_result", 90)
        for megabytes in options.megabytes:
            for change in (False, True):
                title = f"{megabytes:,} MB{', changed' if change else ''}, {name}"
                peer.ask("echo", 60, megabytes=1, times=2, change=change)  # all is imported
                asked = {"megabytes": megabytes, "times": options.times, "change": change}
                with Peak() as peak:
                    answer = peer.ask("echo", 240, **asked)
                rates = [answer["bytes"] / took / 1e9 for took in answer["durations"]]
                figures.setdefault(f"GB/s, {title}", []).append(statistics.median(rates))
                times = peak.grown_bytes / (megabytes * 1e6)
                figures.setdefault(f"peak in arrays, {title}", []).append(times)
        if name == "notebook-ext":
            for title, figure in peer.ask("large_values", 240)["figures"].items():
                figures.setdefault(title, []).append(figure)


def judged(figures: Figures, megabytes: list[int]) -> dict[str, float]:
    """Return the figures that there are goals for."""
    medians = {title: statistics.median(each) for title, each in figures.items()}
    found = {}
    for size in megabytes:
        ours, rays = (medians.get(f"GB/s, {size:,} MB, {name}") for name in SYSTEMS)
        if ours and rays:
            found[f"rate of Ray's, {size:,} MB"] = ours / rays
        if ours:
            # The array that is sent is there before.
            peak = medians[f"peak in arrays, {size:,} MB, notebook-ext"]
            found[f"peak, {size:,} MB, arrays"] = peak
    return found | {title: medians[title] for title in GOALS if title in medians}


def main(arguments: list[str]) -> None:
    """Measure, print each figure beside its goal, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrays", description=__doc__)
    parser.add_argument("systems", nargs="*", default=[*SYSTEMS], help="of these: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=5, help="of each size, a round")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "arrays.json")
    options = parser.parse_args(arguments)
    become_subreaper()
    figures: Figures = {}
    begun = time.perf_counter()
    for number in range(options.rounds):
        for name in options.systems[:: -1 if number % 2 else 1]:
            try:
                visit(name, figures, options)
            except PeerError as error:
                print(f"{name}: {error}", file=sys.stderr)
    for title, each in figures.items():
        print(f"{title:>66}: {statistics.median(each):7.2f}   ({min(each):.2f}-{max(each):.2f})")
    for title, figure in judged(figures, options.megabytes).items():
        goal, word = GOALS.get(title, (0.0, "no goal:"))
        print(f"{title:>66}: {figure:7.2f}   (goal: {word} {goal:g})")
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{options.rounds} rounds in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
