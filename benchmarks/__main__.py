"""`python -m benchmarks`: this project beside its peers, in one run: a table, a JSON, a plot.

A run is a number of rounds; in a round every system is visited once, in an order that turns from
round to round. In a visit only that system is alive: a process of its own imports it, starts it
from nothing with two workers, is measured, and ends with everything that it started. So systems
do not slow each other down, and a drift of the machine meets all of them. Between the blocks of a
visit's calls the yardstick (`benchmarks.reference`) is measured, and each block is divided by its
two neighbours.

Figures are medians over rounds. A slow system maps fewer inputs, and the rate has an asterisk. A
system that is missing or fails is named with its error; nothing is filled in.
Efficiency is (time that the tasks themselves took / workers) / time of the map.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report, work
from benchmarks.processes import (
    ROOT,
    Peer,
    PeerError,
    become_subreaper,
    cpu_seconds,
    memory_mb,
)
from benchmarks.reference import Reference
from benchmarks.systems import SYSTEMS

QUICK = ("notebook-ext", "ProcessPoolExecutor", "multiprocessing.Pool", "joblib")
CHUNKS = (1_000, 5_000)
"""Sizes that are tried where one is chosen by hand; the faster one of a round counts."""
FEWEST = 1_000
"""What a map begins with; see `peer.map_noops`."""


class Visit:
    """One system's turn in one round; what it measures goes into the system's record."""

    def __init__(
        self, peer: Peer, record: report.Record, reference: Reference, options: argparse.Namespace
    ) -> None:
        """Measure `record.name`, which runs in `peer`."""
        self._peer = peer
        self._record = record
        self._reference = reference
        self._options = options
        self._limit: float = options.limit_seconds

    def run(self) -> None:
        """Measure everything, quick things first."""
        self._start()
        self._latency()
        self._tasks("sleep", "sleep", [0.001] * self._options.tasks)
        self._tasks("burn", "burn", [0.001] * self._options.tasks)
        self._tasks("skewed", "sleep", work.skewed_lengths())
        self._map("10 k", 10_000)
        self._map("1 M", self._options.inputs)
        self._map("1 M chunked", self._options.inputs, CHUNKS)
        self._record.memory_mb.append(memory_mb(self._reference.pids))
        self._echo()
        self._first_of_many()

    def _start(self) -> None:
        loaded = self._peer.ask("load", 60)
        self._record.version = loaded["version"]
        self._record.import_seconds.append(loaded["seconds"])
        first = self._peer.ask("first_result", 90)
        self._record.first_result_seconds.append(first["seconds"])

    def _latency(self) -> None:
        count = self._options.calls
        self._peer.ask("latency", 60, count=count)  # warm
        before = statistics.median(self._reference.measure(count))
        for _ in range(self._options.blocks):
            spent = cpu_seconds(self._reference.pids)
            durations = self._peer.ask("latency", 120, count=count)["durations"]
            spent = cpu_seconds(self._reference.pids) - spent
            self._record.cpu_call_seconds.append(spent / count)
            after = statistics.median(self._reference.measure(count))
            ratio = statistics.median(durations) / ((before + after) / 2)
            self._record.latency_seconds.extend(durations)
            self._record.latency_ratios.append(ratio)
            before = after

    def _tasks(self, title: str, kind: str, lengths: list[float]) -> None:
        answer = self._peer.ask("tasks", 120, kind=kind, lengths=lengths)
        efficiency = answer["ideal_seconds"] / answer["seconds"]
        self._record.efficiency.setdefault(title, []).append(efficiency)

    def _map(self, title: str, count: int, chunks: tuple[int | None, ...] = (None,)) -> None:
        entries = [entry for size in chunks if (entry := self._mapped(count, size)) is not None]
        if entries:
            best = max(entries, key=lambda entry: entry.inputs_per_second)
            self._record.maps.setdefault(title, []).append(best)

    def _mapped(self, count: int, chunk: int | None) -> report.Map | None:
        timeout = 60 + 10 * self._limit
        spent = cpu_seconds(self._reference.pids)
        answer = self._peer.ask(
            "map_noops", timeout, count=count, limit_seconds=self._limit, chunk=chunk
        )
        spent = cpu_seconds(self._reference.pids) - spent
        if not answer["count"]:
            return None
        # It grew by tens from a thousand up to this count, and all of that was computed.
        mapped = answer["count"] * 10 // 9 if answer["count"] > FEWEST else answer["count"]
        return report.Map(count, answer["count"], answer["seconds"], spent / mapped)

    def _echo(self) -> None:
        megabytes = self._options.megabytes
        answer = self._peer.ask("echo", 120, megabytes=megabytes, times=5)
        self._record.echo_rates.extend(answer["bytes"] / took for took in answer["durations"])

    def _first_of_many(self) -> None:
        answer = self._peer.ask("first_of_many", 120, count=self._options.many)
        if answer["seconds"] is not None:
            self._record.first_of_many_seconds.append(answer["seconds"])


def visit(record: report.Record, reference: Reference, options: argparse.Namespace) -> None:
    """Visit one system once; a failure ends its visit and stays in its record."""
    peer = Peer(record.name, reference.pids)
    try:
        with peer:
            Visit(peer, record, reference, options).run()
    except PeerError as failure:
        record.failure = str(failure)
    record.left_behind = max(record.left_behind, peer.left_behind)


def run(options: argparse.Namespace) -> list[report.Record]:
    """Run all rounds and return one record per system."""
    records = [report.Record(name) for name in options.systems]
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="nbx-") as place, Reference(Path(place)) as reference:
        for number in range(options.rounds):
            for record in records[number % len(records) :] + records[: number % len(records)]:
                if record.failure:
                    continue
                begun = time.perf_counter()
                visit(record, reference, options)
                spent = time.perf_counter() - begun
                print(f"round {number + 1}: {record.name}: {spent:.0f} s", file=sys.stderr)
    return records


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("systems", nargs="*", default=[], metavar="SYSTEM", help=f"of {[*SYSTEMS]}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=4, help="of calls, per round")
    parser.add_argument("--calls", type=int, default=200, help="per block")
    parser.add_argument("--tasks", type=int, default=2_000, help="of 1 ms")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of the large map")
    parser.add_argument("--megabytes", type=int, default=100, help="of the array that is echoed")
    parser.add_argument("--many", type=int, default=100_000, help="inputs before a first result")
    parser.add_argument("--quick", action="store_true", help="the pools and us, in 3 minutes")
    parser.add_argument("--limit-seconds", type=float, default=10.0, help="per map")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    options.systems = options.systems or list(QUICK if options.quick else SYSTEMS)
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(
            f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}"
        )
    return options


def main(arguments: list[str]) -> None:
    """Run, print the table, write the JSON."""
    options = parse(arguments)
    facts = report.machine()
    records = run(options)
    options.results.mkdir(exist_ok=True)
    report.write_json(options.results / "peers.json", records, facts)
    (options.results / "peers.md").write_text(report.table(records) + "\n")
    with contextlib.suppress(ImportError):
        report.plot(records, options.results / "peers.png")
    print(report.table(records))
    print(f"\n{facts['processors']} processors, load before {facts['load_before']:.1f}; medians of")
    print(
        f"{options.rounds} rounds; of reference: a bare ZMQ round trip of three processes is 1.0;"
    )
    print("* measured on fewer inputs. Details:", options.results)
    if failed := report.failures(records):
        print(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
