"""`python -m benchmarks.autoscaler`: what the autoscaler makes of an hour of bursts.

The pure core, with fake workers in virtual time, is given the arrivals of `arrivals.csv`, once for
each set of settings. Printed, and written as JSON: how long calls waited for a worker, how many
worker-seconds that took (a lower bound is the work itself; keeping all workers is the upper one),
how many workers were started, and how many of those starts a longer window would have saved:
they came within one window after a scale-down of the same pool.

The arrivals are made by `arrivals`, of a fixed seed (`--write` makes the file again): three
functions on 8 cores. `steady` is a Poisson process, 0.2 a second, each about half a second.
`bursts` is on and off: every five minutes or so 20 to 80 calls within ten seconds, each lognormal
around one second. `notebook` is one person: a map of up to 50 inputs of 0.2 s, then 20 to 200 s of
thought.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.processes import ROOT
from kernel_worker.core import effects
from kernel_worker.model import CallId, PoolId, PoolSettings, WorkerId
from tests.core.simulation import Simulation, make_resources, make_spec

TRACE: Final = ROOT / "benchmarks" / "arrivals.csv"
SEED: Final = 20260101
SECONDS: Final = 3600.0
CORES: Final = 8
NAMES: Final = ("steady", "bursts", "notebook")


class Arrival(NamedTuple):
    """One call of one input."""

    at: float
    function: str
    seconds: float


class Figures(NamedTuple):
    """What one set of settings cost."""

    start_seconds: float
    window_seconds: float
    min_containers: int
    buffer_containers: int
    wait_p50: float
    wait_p95: float
    wait_p99: float
    wait_max: float
    worker_seconds: float
    work_seconds: float
    starts: int
    regretted_starts: int


def arrivals() -> list[Arrival]:
    """Make the trace anew, the same one every time."""
    draw = random.Random(SEED)
    found: list[Arrival] = []
    at = 0.0
    while (at := at + draw.expovariate(0.2)) < SECONDS:
        found.append(Arrival(at, "steady", draw.uniform(0.3, 0.7)))
    at = 0.0
    while (at := at + draw.expovariate(1 / 300)) < SECONDS:
        found += [
            Arrival(at + draw.uniform(0, 10), "bursts", draw.lognormvariate(0, 0.5))
            for _ in range(draw.randint(20, 80))
        ]
    at = 0.0
    while (at := at + draw.uniform(20, 200)) < SECONDS:
        found += [Arrival(at, "notebook", 0.2)] * draw.randint(1, 50)
    rounded = [Arrival(round(each.at, 3), each.function, round(each.seconds, 3)) for each in found]
    return sorted(rounded)


def read(path: Path = TRACE) -> list[Arrival]:
    """Return the recorded arrivals."""
    with path.open(newline="") as file:
        return [Arrival(float(at), name, float(seconds)) for at, name, seconds in csv.reader(file)]


def write(path: Path = TRACE) -> None:
    """Record the arrivals."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(arrivals())


class Replay(Simulation):
    """A simulation that notes when workers are started and stopped."""

    def __init__(self, start_seconds: float, *, checked: bool) -> None:
        """Start with `CORES` cores; a worker takes `start_seconds` to come up."""
        super().__init__(make_resources(CORES), checked=checked, start=start_seconds)
        self.begun: dict[WorkerId, tuple[PoolId, float]] = {}
        self.worker_seconds = 0.0
        self.stopped_at: dict[PoolId, float] = {}
        self.regretted = 0
        self.window_seconds = 0.0

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.StartWorker(worker=worker, spec=spec):
                self.begun[worker] = (spec.pool, self.now)
                last = self.stopped_at.get(spec.pool, -self.window_seconds)
                self.regretted += self.now - last < self.window_seconds
            case effects.StopWorker(worker=worker):
                pool, begun = self.begun.pop(worker)
                self.worker_seconds += self.now - begun
                self.stopped_at[pool] = self.now
            case _:
                pass
        super()._perform(effect)


def replay(
    trace: list[Arrival], settings: PoolSettings, start_seconds: float, *, checked: bool = False
) -> Figures:
    """Let the trace happen and return what it cost; `checked`: look at the invariants too."""
    simulation = Replay(start_seconds, checked=checked)
    simulation.window_seconds = settings.scaledown_window_seconds
    seconds_of: dict[CallId, float] = {}
    submitted: dict[CallId, float] = {}
    pools = {
        name: simulation.define(
            make_spec(name, settings=settings), lambda call, _i, _a: seconds_of.get(call, 0.0)
        )
        for name in NAMES
    }
    beginning = simulation.now
    for at, together in itertools.groupby(trace, key=lambda arrival: arrival.at):
        simulation.run(max(0.0, beginning + at - simulation.now))
        for arrival in together:
            seconds_of[simulation.next_call] = arrival.seconds
            call = simulation.submit(pools[arrival.function], 1)
            submitted[call] = simulation.now
    simulation.run(max(0.0, beginning + SECONDS - simulation.now))
    alive = sum(simulation.now - begun for _, begun in simulation.begun.values())
    waits = sorted(simulation.begun_at[call, 0] - at for call, at in submitted.items())
    return Figures(
        start_seconds,
        settings.scaledown_window_seconds,
        settings.min_containers,
        settings.buffer_containers,
        waits[len(waits) // 2],
        waits[len(waits) * 95 // 100],
        waits[len(waits) * 99 // 100],
        waits[-1],
        simulation.worker_seconds + alive,
        sum(seconds_of.values()),
        simulation.effects["StartWorker"],
        simulation.regretted,
    )


def variants() -> list[tuple[PoolSettings, float]]:
    """Return the settings, and how long a worker takes to start, that are compared."""
    settings = [
        *(PoolSettings(scaledown_window_seconds=window) for window in (5.0, 60.0, 300.0)),
        PoolSettings(min_containers=1),
        PoolSettings(buffer_containers=2),
        PoolSettings(min_containers=2, buffer_containers=2),
    ]
    return [(each, start_seconds) for start_seconds in (0.01, 2.0) for each in settings]


def main() -> None:
    """Replay, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaler")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "autoscaler.json")
    parser.add_argument("--write", action="store_true", help="make arrivals.csv again, and end")
    options = parser.parse_args()
    if options.write:
        write()
        return
    trace = read()
    print(f"{len(trace):,} calls in {SECONDS:g} s on {CORES} cores; waits in s, per call")
    print(
        "start s  window  min  buffer |   p50    p95    p99    max "
        "| worker-s   of work  starts regretted"
    )
    found = []
    for settings, start_seconds in variants():
        one = replay(trace, settings, start_seconds)
        found.append(one._asdict())
        print(
            f"{one.start_seconds:7g} {one.window_seconds:7g} {one.min_containers:4} "
            f"{one.buffer_containers:7} | {one.wait_p50:5.3f} {one.wait_p95:6.3f} "
            f"{one.wait_p99:6.3f} {one.wait_max:6.3f} | {one.worker_seconds:8.0f} "
            f"{one.worker_seconds / one.work_seconds:7.1f} x {one.starts:6} "
            f"{one.regretted_starts:9}"
        )
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
