"""`python -m benchmarks.hour`: does anything grow while mixed work goes on for an hour?

Each second a client calls, maps, spawns, reads a generator, shares an object, has an input fail and
one time out, and calls functions that call functions. It redefines them every minute, kills one of
its workers every two, and is replaced by a new client every ten, as kernels are restarted. Results
are kept for a minute and not for a week, so that what is dropped is in the hour as well.

Every `--every` seconds the client, the broker, the host agent, and the templates and workers are
looked at: memory (PSS: shared pages counted once), open file descriptors, threads, processes; and
the journal's size on disk. Written as JSON and, where matplotlib is, drawn as a plot. The limits
hold between two tenths of the run, the third (by then everything has been used once, and the first
results were dropped) and the last, medians of each: 5 MB for a part, 3 descriptors, 2 threads,
1 process, 5 MB of journal.
"""

from __future__ import annotations

import argparse
import contextlib
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

from benchmarks.processes import (
    PARTS,
    ROOT,
    become_subreaper,
    isolated_environment,
    part_of,
    sweep,
)

MEASURES = {"MB": 5.0, "descriptors": 3.0, "threads": 2.0, "processes": 1.0}
JOURNAL_LIMIT_MB = 5.0
KEPT_SECONDS = 60
_CLIENT_SECONDS = 600.0
_REDEFINE_ROUNDS = 60
_KILL_ROUNDS = 120
_ROUND_SECONDS = 1.0

Sample = dict[str, Any]


def probe(seconds: float) -> None:
    """Be one client for so long."""
    import os  # noqa: PLC0415  the parent needs none
    import signal  # noqa: PLC0415

    import notebook_ext as nb  # noqa: PLC0415

    nb.config.progress = "off"
    app = nb.App("hour")
    end, number = time.monotonic() + seconds, 0
    functions = _define(app, 0)
    while time.monotonic() < end:
        began = time.monotonic()
        if number % _REDEFINE_ROUNDS == 0:
            functions = _define(app, number // _REDEFINE_ROUNDS)
        _round(nb, functions, number)
        if number % _KILL_ROUNDS == _KILL_ROUNDS - 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(functions["pid"].remote(), signal.SIGKILL)
        number += 1
        print(number, flush=True)
        time.sleep(max(0.0, began + _ROUND_SECONDS - time.monotonic()))


def _define(app: Any, version: int) -> dict[str, Any]:
    """Return the functions as cells that were edited define them."""
    source = f"""
import os, time
def successor(x):
    return x + 1 + 0 * {version}
def items(n):
    yield from range(n)
def fails(x):
    raise ValueError(x)
def sleeps():
    time.sleep(30)
def size(array):
    return len(array)
def pid():
    return os.getpid()
def sums(n):
    return sum(successor.map(range(n)))
"""
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102  as a cell is
    functions = {
        name: app.function(timeout=1 if name == "sleeps" else None)(names[name])
        for name in ("successor", "items", "fails", "sleeps", "size", "pid", "sums")
    }
    names.update(functions)
    return functions


def _round(nb: Any, functions: dict[str, Any], number: int) -> None:
    successor = functions["successor"]
    for argument in range(20):
        _expect(successor.remote(argument), argument + 1)
    _expect(list(successor.map(range(1_000))), list(range(1, 1_001)))
    call = successor.spawn_map(range(200))
    _expect(list(call.iter()), list(range(1, 201)))
    _expect(successor.spawn(number).get(), number + 1)
    _expect(list(functions["items"].remote_gen(100)), list(range(100)))
    _expect(functions["size"].remote(nb.put(bytes(1_000_000 + number))), 1_000_000 + number)
    _expect(functions["sums"].remote(10), 55)
    failed = list(functions["fails"].map(range(3), return_exceptions=True))
    _expect([type(each).__name__ for each in failed], ["UserCodeException"] * 3)
    if number % 10 == 0:
        try:
            functions["sleeps"].remote()
        except nb.exception.FunctionTimeoutError:
            return
        raise RuntimeError("an input did not time out")


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise RuntimeError(f"{found!r} is not {expected!r}")


def measure(seconds: float, every: float) -> tuple[list[Sample], int]:
    """Return the samples, and how many rounds the clients made."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    environment = isolated_environment(directory)
    environment["NOTEBOOK_EXT_RESULT_TTL"] = str(KEPT_SECONDS)
    samples: list[Sample] = []
    began, rounds = time.monotonic(), 0
    try:
        while (left := began + seconds - time.monotonic()) > 0:
            lasts = min(left, _CLIENT_SECONDS)
            client = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.hour", "--probe", str(lasts)],
                stdout=(directory / "rounds").open("wb"),
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
            while client.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    client.wait(every)
                    break
                samples.append(_sample(client.pid, directory, time.monotonic() - began))
            if client.returncode != 0:
                raise RuntimeError(f"a client failed after {time.monotonic() - began:.0f} s")
            rounds += int((directory / "rounds").read_text().split()[-1])
    finally:
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return samples, rounds


def _sample(client: int, directory: Path, at: float) -> Sample:
    found: Sample = {part: dict.fromkeys(MEASURES, 0.0) for part in PARTS}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            part = found[part_of(process, client)]
            with process.oneshot():
                sizes = (
                    process.memory_full_info().pss / 1e6,
                    process.num_fds(),
                    process.num_threads(),
                    1,
                )
            for measure_, size in zip(MEASURES, sizes, strict=True):
                part[measure_] += size
    found["journal_mb"] = (
        sum(path.stat().st_size for path in (directory / "data").rglob("*journal*")) / 1e6
    )
    found["at"] = at
    return found


def growths(samples: list[Sample]) -> list[tuple[str, str, float, float, float]]:
    """Return part, measure, medians of the third and of the last tenth, and the limit."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[2 * tenth : 3 * tenth], samples[-tenth:]

    def medians(part: str, name: str) -> tuple[float, float]:
        return (
            statistics.median(each[part][name] for each in early),
            statistics.median(each[part][name] for each in late),
        )

    found = [
        (part, name, *medians(part, name), limit)
        for part in PARTS
        for name, limit in MEASURES.items()
    ]
    kept = [statistics.median(each["journal_mb"] for each in some) for some in (early, late)]
    return [*found, ("journal", "MB", kept[0], kept[1], JOURNAL_LIMIT_MB)]


def plot(samples: list[Sample], path: Path) -> None:
    """Draw the samples, a row for each measure."""
    import matplotlib as mpl  # noqa: PLC0415  a table is printed without it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    minutes = [each["at"] / 60 for each in samples]
    figure, rows = plt.subplots(len(MEASURES) + 1, sharex=True, figsize=(8, 11))
    for row, name in zip(rows, MEASURES, strict=False):
        for part in PARTS:
            row.plot(minutes, [each[part][name] for each in samples], label=part, linewidth=1)
        row.set_ylabel("MB (PSS)" if name == "MB" else name)
        row.set_ylim(bottom=0)
    rows[-1].plot(minutes, [each["journal_mb"] for each in samples], color="black", linewidth=1)
    rows[-1].set_ylabel("journal, MB")
    rows[-1].set_ylim(bottom=0)
    rows[-1].set_xlabel("minutes")
    rows[0].legend(ncols=4, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.25))
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main() -> None:
    """Measure, print, write; the exit status is 1 where something grew too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hour")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--probe", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe is not None:
        probe(options.probe)
        return
    become_subreaper()
    samples, rounds = measure(options.minutes * 60, options.every)
    options.results.mkdir(exist_ok=True)
    is_flat = True
    print(f"{rounds} rounds in {options.minutes:g} minutes; medians of the third tenth, the last")
    table = growths(samples)
    for part, name, early, late, limit in table:
        grown = late - early
        is_flat = is_flat and grown <= limit
        print(f"{part:>22} {name:>12} {early:8.1f} {late:8.1f}  grown {grown:+6.1f} ({limit:g})")
    found = {"minutes": options.minutes, "rounds": rounds, "samples": len(samples)}
    rows = [
        dict(zip(("part", "measure", "third", "last", "limit"), row, strict=True)) for row in table
    ]
    (options.results / "hour.json").write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")
    with contextlib.suppress(ImportError):
        plot(samples, options.results / "hour.png")
    sys.exit(not is_flat)


if __name__ == "__main__":
    main()
