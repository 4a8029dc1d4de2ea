"""`python -m benchmarks.crowd`: is a broker fair to 50 clients, and how large does it grow?

50 processes, each with a function of its own, make 1,000 calls one after the other, all at once
from a common start, when each has had its first result. Every value is checked. Printed, and
written as JSON: how long the quickest, the median and the slowest client took, calls per second of
all together, and the broker's largest memory. The limits: none lost, the slowest within 2 times the
median, 150 MB.

With `--shared` all call one deployed function, so that they share its workers as well.
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

import psutil

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

LIMIT_RATIO = 2.0
LIMIT_MB = 150.0


def probe(number: int, calls: int, *, shared: bool) -> None:
    """Be one client: get ready, wait for the start, call, and tell when that was done."""
    import notebook_ext as nb  # noqa: PLC0415  the parent needs none

    if shared:
        function: Any = nb.Function.from_name("crowd", "successor")
    else:
        function = _define(nb.App(f"crowd-{number}"))
    if function.remote(-1) != 0:
        raise RuntimeError("the first call gave a wrong value")
    print("ready", flush=True)
    sys.stdin.readline()
    for argument in range(calls):
        if function.remote(argument) != argument + 1:
            raise RuntimeError("a call gave a wrong value")
    print(time.monotonic(), flush=True)
    sys.stdin.readline()  # all stay to the end, as open notebooks do


def _define(app: Any) -> Any:
    def successor(x: int) -> int:
        return x + 1

    return app.function()(successor)


def _deploy() -> None:
    import notebook_ext as nb  # noqa: PLC0415

    app = nb.App("crowd")
    _define(app)
    app.deploy()


def measure(clients: int, calls: int, *, shared: bool) -> dict[str, Any]:
    """Return what came of it."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    environment = isolated_environment(directory)
    command = [sys.executable, "-m", "benchmarks.crowd"]
    crowd: list[subprocess.Popen[str]] = []
    try:
        if shared:
            subprocess.run([*command, "--deploy"], env=environment, cwd=directory, check=True)
        for number in range(clients):
            wanted = ["--probe", str(number), str(calls), *(["--shared"] if shared else [])]
            crowd.append(
                subprocess.Popen(
                    [*command, *wanted],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    cwd=directory,
                    text=True,
                )
            )
        began = time.monotonic()
        for client in crowd:
            if _line(client) != "ready\n":
                raise RuntimeError("a client did not get its first result")
        ready_seconds = time.monotonic() - began
        start = time.monotonic()
        for client in crowd:
            _go_on(client)
        told = [_line(client) for client in crowd]
        seconds = sorted(float(line) - start for line in told if line)
        peak_mb = _broker_peak_mb()
        for client in crowd:
            _go_on(client)
    finally:
        for client in crowd:
            client.kill()
            client.communicate()
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return {
        "clients": clients,
        "calls": calls,
        "shared": shared,
        "lost": clients - len(seconds),
        "ready_seconds": ready_seconds,
        "quickest_seconds": seconds[0],
        "median_seconds": statistics.median(seconds),
        "slowest_seconds": seconds[-1],
        "slowest_of_median": seconds[-1] / statistics.median(seconds),
        "calls_per_second": len(seconds) * calls / seconds[-1],
        "broker_peak_mb": peak_mb,
    }


def _line(client: subprocess.Popen[str]) -> str:
    if client.stdout is None:
        raise RuntimeError("a pipe was asked for")
    return client.stdout.readline()


def _go_on(client: subprocess.Popen[str]) -> None:
    if client.stdin is None:
        raise RuntimeError("a pipe was asked for")
    client.stdin.write("\n")
    client.stdin.flush()


def _broker_peak_mb() -> float:
    """Return the largest resident memory that the broker has had (VmHWM, proc(5))."""
    for process in psutil.Process().children(recursive=True):
        if "kernel_worker.broker" in " ".join(process.cmdline()):
            status = Path(f"/proc/{process.pid}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no broker is there")


def is_within(found: dict[str, Any]) -> bool:
    """Return whether the limits are kept."""
    return bool(
        not found["lost"]
        and found["slowest_of_median"] <= LIMIT_RATIO
        and found["broker_peak_mb"] <= LIMIT_MB
    )


def main() -> None:
    """Measure, print, write the JSON; the exit status is 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "crowd.json")
    parser.add_argument("--probe", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--deploy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.deploy:
        _deploy()
        return
    if options.probe is not None:
        probe(*options.probe, shared=options.shared)
        return
    become_subreaper()
    found = measure(options.clients, options.calls, shared=options.shared)
    for name, value in found.items():
        print(f"{name.replace('_', ' '):20} {value:12,.2f}")
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not is_within(found))


if __name__ == "__main__":
    main()
