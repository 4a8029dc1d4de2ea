"""`python -m benchmarks.journalled`: what do a million spawned inputs cost, on disk and in time?

A client maps ints (the inputs are not journalled), then spawns as many and reads the results of
that call as they come. The broker is killed, and started alone: how long until it is ready, with a
finished call of that size in its journal, and with one of which only a part is done. Printed, and
written as JSON. The limits: 60 bytes an input on disk (inputs and results together, write-ahead log
included), 3 s to be ready, and spawning at most 15 % slower than mapping (`--rounds` of both, in
turn, are made; the best of each counts).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep
from kernel_worker import rendezvous, settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.settings import Settings

LIMIT_BYTES = 60.0
LIMIT_READY_SECONDS = 3.0
LIMIT_OVERHEAD = 0.15


def probe(inputs: int, rounds: int, *, partly: bool) -> None:
    """Run in the measured process; print figures as JSON."""
    import notebook_ext as nb  # noqa: PLC0415  the parent needs none

    app = nb.App("journalled")

    @app.function()
    def successor(x: int) -> int:
        return x + 1

    def read(values: Iterable[int]) -> None:
        last = collections.deque(values, maxlen=1)
        if last[0] != inputs:
            raise RuntimeError("the last value is wrong")

    nb.config.progress = "off"
    read(successor.map(range(inputs - 10, inputs)))
    if partly:
        call = successor.spawn_map(range(inputs))
        call.get(index=0)
        return
    found: dict[str, list[float]] = {"map": [], "spawned": [], "spawn": []}
    for _ in range(rounds):
        began = time.perf_counter()
        read(successor.map(range(inputs)))
        found["map"].append(time.perf_counter() - began)
        began = time.perf_counter()
        call = successor.spawn_map(range(inputs))
        found["spawn"].append(time.perf_counter() - began)
        read(call.iter())
        found["spawned"].append(time.perf_counter() - began)
    print(json.dumps(found))


def measure(inputs: int, rounds: int) -> dict[str, Any]:
    """Return what it cost."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    environment = isolated_environment(directory)
    configured = settings.load(environ=environment, start="/")

    def client(*wanted: str) -> str:
        command = [sys.executable, "-m", "benchmarks.journalled", "--inputs", str(inputs)]
        done = subprocess.run(
            [*command, "--rounds", str(rounds), "--probe", *wanted],
            env=environment,
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    try:
        times = json.loads(client())
        kill(configured)
        size = sum(f.stat().st_size for f in rendezvous.journal_path(configured).parent.iterdir())
        finished_seconds = ready_seconds(environment)
        kill(configured)
        client("--partly")
        kill(configured)
        partly_seconds = ready_seconds(environment)
    finally:
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    mapped, spawned = min(times["map"]), min(times["spawned"])
    return {
        "inputs": inputs,
        "bytes_per_input": size / (inputs * rounds),
        "map_seconds": mapped,
        "spawn_seconds": min(times["spawn"]),
        "spawn_and_read_seconds": spawned,
        "overhead": spawned / mapped - 1,
        "ready_finished_seconds": finished_seconds,
        "ready_partly_done_seconds": partly_seconds,
        "all": times,
    }


def kill(configured: Settings) -> None:
    """End the broker as a power cut would, and what hangs on it."""
    connection = rendezvous.find(configured)
    if connection is None:
        raise RuntimeError("no broker is there")
    process = os.pidfd_open(connection.pid)
    os.kill(connection.pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, process, os.WEXITED)
    os.close(process)
    sweep(set())


def ready_seconds(environment: dict[str, str]) -> float:
    """Start a broker without a host; return how long it took until it was ready."""
    said, ready = os.pipe()
    began = time.perf_counter()
    subprocess.Popen(
        [sys.executable, "-m", "kernel_worker.broker", "--no-host", "--ready-fd", str(ready)],
        env=environment,
        pass_fds=[ready],
        start_new_session=True,
    ).wait()
    os.close(ready)
    word = os.read(said, 16)
    os.close(said)
    if word != b"ready":
        raise RuntimeError("the broker did not start")
    return time.perf_counter() - began


def is_within(found: dict[str, Any]) -> bool:
    """Return whether the limits are kept."""
    ready = max(found["ready_finished_seconds"], found["ready_partly_done_seconds"])
    return bool(
        found["bytes_per_input"] <= LIMIT_BYTES
        and ready <= LIMIT_READY_SECONDS
        and found["overhead"] <= LIMIT_OVERHEAD
    )


def main() -> None:
    """Measure, print, write the JSON; the exit status is 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journalled")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "journalled.json")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--partly", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.inputs, options.rounds, partly=options.partly)
        return
    become_subreaper()
    found = measure(options.inputs, options.rounds)
    for name, value in found.items():
        if name != "all":
            print(f"{name.replace('_', ' '):28} {value:14,.3f}")
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not is_within(found))


if __name__ == "__main__":
    main()
