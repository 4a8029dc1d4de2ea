"""`python -m benchmarks.footprint`: what a start costs, and what it costs to have it at rest.

Printed, and written as JSON: seconds from nothing running to the first result, seconds to the
result of a call that needs a new worker of a known function, CPU time of the import and of
`%load_ext` on top of IPython and ipykernel, and memory (PSS: shared pages counted once) and CPU of
the broker, the host agent, its templates and two idle workers. Medians over rounds; each round has
directories of its own and starts from nothing.

The measured process is a child that runs `probe` and then waits; while it waits, the processes
that it caused to start are looked at from here.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

LIMITS = {
    "cold_start_seconds": (1.5, "nothing running to the first result, beyond imports (s)"),
    "new_worker_seconds": (0.050, "a call that needs a new worker of a known function (s)"),
    "import_cpu_seconds": (0.150, "import notebook_ext on top of IPython, CPU (s)"),
    "load_ext_cpu_seconds": (0.100, "%load_ext notebook_ext on top of IPython, CPU (s)"),
    "idle_pss_mb": (60.0, "2 idle workers, broker and host: PSS (MB)"),
    "idle_cpu_percent": (1.0, "the same: share of a core (%)"),
}
IMPORT_CPU = """
import time, IPython, ipykernel.ipkernel
begun = time.process_time()
import notebook_ext
print(time.process_time() - begun)
"""
LOAD_EXT_CPU = """
import time, ipykernel.zmqshell
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
begun = time.process_time()
shell.run_line_magic("load_ext", "notebook_ext")
print(time.process_time() - begun)
"""

Answer = dict[str, Any]


def probe(new_workers: int) -> Answer:
    """Run in the measured process: start from nothing, then new workers one after the other."""
    import notebook_ext as nb  # noqa: PLC0415  the start is what is measured

    app = nb.App("footprint")

    @app.function(max_containers=2)
    def whoami(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    begun = time.perf_counter()
    whoami.remote(0)
    cold = time.perf_counter() - begun
    answer = {"cold_start_seconds": cold, "new_worker_seconds": _new_workers(whoami, new_workers)}
    _until(lambda: whoami.get_current_stats().num_total_runners == 1)
    whoami.keep_warm(2)
    _until(lambda: whoami.get_current_stats().num_total_runners == 2)  # noqa: PLR2004
    return answer


def _new_workers(function: Any, count: int) -> list[float]:
    """Return the seconds of calls that found the only other worker busy, each on a new one."""
    durations = []
    for _ in range(count):
        _until(lambda: function.get_current_stats().num_total_runners == 1)
        busy = function.spawn(0.5)
        _until(lambda: function.get_current_stats().num_running_inputs == 1)
        begun = time.perf_counter()
        new = function.remote(0)
        durations.append(time.perf_counter() - begun)
        if busy.get() == new:
            raise RuntimeError("the call waited for the busy worker instead of getting a new one")
        os.kill(new, signal.SIGKILL)
    return durations


def _until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the pool did not get there within 20 s")
        time.sleep(0.005)


def measure(idle_seconds: float, new_workers: int) -> Answer:
    """Run one round from nothing and return what it measured."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    environment = isolated_environment(directory)
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.footprint", "--probe", str(new_workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=directory,
        start_new_session=True,
    )
    try:
        line = child.stdout.readline() if child.stdout else b""
        answer: Answer = json.loads(line)
        answer |= _at_rest({child.pid}, idle_seconds)
    finally:
        child.kill()
        child.wait()
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    answer["import_cpu_seconds"] = _printed(IMPORT_CPU, environment)
    answer["load_ext_cpu_seconds"] = _printed(LOAD_EXT_CPU, environment)
    return answer


def _at_rest(leave_out: set[int], seconds: float) -> Answer:
    """Return memory and CPU of all our descendants but `leave_out`, over `seconds` of idleness."""
    everyone = psutil.Process().children(recursive=True)
    ours = [process for process in everyone if process.pid not in leave_out]
    before = sum(_cpu_seconds(process) for process in ours)
    begun = time.perf_counter()
    time.sleep(seconds)
    spent = sum(_cpu_seconds(process) for process in ours) - before
    return {
        "idle_cpu_percent": 100 * spent / (time.perf_counter() - begun),
        "idle_pss_mb": sum(_pss(process) for process in ours) / 1e6,
        "processes": sorted((_label(process), round(_pss(process) / 1e6, 1)) for process in ours),
    }


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of all threads as the scheduler counts it, in nanosecond steps."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _pss(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)


def _label(process: psutil.Process) -> str:
    return " ".join(process.cmdline()[1:4]) or process.name()


def _printed(program: str, environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True)
    return float(ended.stdout)


def summary(rounds: list[Answer]) -> dict[str, float]:
    """Return the median over all rounds of each quantity."""
    medians = {}
    for name in LIMITS:
        values = [answer[name] for answer in rounds]
        flat = [x for value in values for x in (value if isinstance(value, list) else [value])]
        medians[name] = statistics.median(flat)
    return medians


def main() -> None:
    """Measure, print each figure beside its limit, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    parser.add_argument("--new-workers", type=int, default=5, help="per round")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "footprint.json")
    parser.add_argument("--probe", type=int, metavar="NEW_WORKERS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe is not None:
        print(json.dumps(probe(options.probe)), flush=True)
        sys.stdin.read()
        return
    become_subreaper()
    for package in ("kernel_worker", "notebook_ext"):  # as pip does with what it installs
        compileall.compile_dir(ROOT / package, quiet=1)
    rounds = [measure(options.idle_seconds, options.new_workers) for _ in range(options.rounds)]
    medians = summary(rounds)
    for name, (limit, title) in LIMITS.items():
        print(f"{title:>62}: {medians[name]:8.3f}   (limit {limit:g})")
    for label, megabytes in rounds[-1]["processes"]:
        print(f"{megabytes:>62.1f} MB PSS   {label}")
    options.json.write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
