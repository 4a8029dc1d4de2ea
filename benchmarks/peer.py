"""The process in which one system is measured: a request line in, an answer line out.

Started as `python -m benchmarks.peer NAME`. Requests are JSON objects with a `do`; an answer is
the measurement or `{"error": …}`. Standard output belongs to the answers: whatever the libraries
print goes to standard error. Every measurement checks the results that it times.

The same code measures every system; only `benchmarks.systems` differs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import work
from benchmarks.systems import SYSTEMS, WORKERS, NotebookExt, System

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = dict[str, Any]


def load(system: System) -> Answer:
    """Import the library; the seconds that took, and its version."""
    begun = time.perf_counter()
    version = system.load()
    return {"version": version, "seconds": time.perf_counter() - begun}


def first_result(system: System) -> Answer:
    """Start the system from nothing and run one call; the seconds until its result."""
    begun = time.perf_counter()
    system.open()
    _expect(system.call(work.noop, 7), 7)
    return {"seconds": time.perf_counter() - begun}


def latency(system: System, count: int) -> Answer:
    """Run `count` calls one after the other; the seconds of each."""
    durations = []
    for value in range(count):
        begun = time.perf_counter()
        result = system.call(work.noop, value)
        durations.append(time.perf_counter() - begun)
        _expect(result, value)
    return {"durations": durations}


def map_noops(system: System, count: int, limit_seconds: float, chunk: int | None) -> Answer:
    """Map a no-op over `count` inputs, or over fewer where that would exceed `limit_seconds`.

    Grows by tens from a thousand, so that a slow system is measured on what it can do in the
    time; the answer says how many inputs the seconds belong to.
    """
    size = 1_000
    while True:
        seconds = _time_map(system, min(size, count), chunk)
        if seconds is None:
            return {"count": 0, "seconds": None}
        if size >= count or seconds * 10 > limit_seconds:
            return {"count": min(size, count), "seconds": seconds}
        size *= 10


def _time_map(system: System, count: int, chunk: int | None) -> float | None:
    arguments = list(range(count))
    begun = time.perf_counter()
    if chunk is None:
        results: list[int] | None = system.map(work.noop, arguments)
    else:
        results = system.map_chunked(arguments, chunk)
    seconds = time.perf_counter() - begun
    if results is None:
        return None
    _expect(results == arguments, True)
    return seconds


def tasks(system: System, kind: str, lengths: list[float]) -> Answer:
    """Map tasks of the given lengths; the seconds, and what an ideal schedule needs for them."""
    function: Callable[[float], float] = {"sleep": work.sleep, "burn": work.burn}[kind]
    system.map(function, [0.0] * 4)  # the workers of this function are there before the clock
    begun = time.perf_counter()
    executed = system.map(function, lengths)
    seconds = time.perf_counter() - begun
    _expect(len(executed), len(lengths))
    return {"seconds": seconds, "ideal_seconds": sum(executed) / WORKERS}


def echo(system: System, megabytes: int, times: int, *, change: bool = False) -> Answer:
    """Send an array there and have it back; the seconds of each time, and its bytes both ways.

    With `change` another one comes back, which was made there.
    """
    import numpy as np  # noqa: PLC0415  a part of this measurement alone

    function: Callable[[Any], Any] = work.increased if change else work.echo
    sent = np.arange(megabytes * 125_000, dtype=np.float64)
    system.call(function, sent[:1000])
    durations = []
    for _ in range(times):
        begun = time.perf_counter()
        found = system.call(function, sent)
        durations.append(time.perf_counter() - begun)
        _expect((found.shape, found[-1]), (sent.shape, sent[-1] + change))
        del found
    return {"durations": durations, "bytes": 2 * sent.nbytes}


def large_values(system: System) -> Answer:
    """Measure what only ours has: shared arguments, and items of 1 MB."""
    import numpy as np  # noqa: PLC0415  as above

    if not isinstance(system, NotebookExt):
        raise TypeError(f"{system} has no such thing")
    return {"figures": system.large_values(np.arange(12_500_000, dtype=np.float64))}


def first_of_many(system: System, count: int) -> Answer:
    """Map over many inputs; the seconds until the first result. The rest is left behind."""
    begun = time.perf_counter()
    found = system.iterate(work.noop, range(count))
    if found is None:
        return {"seconds": None}
    _expect(next(found), 0)
    answer = {"seconds": time.perf_counter() - begun}
    _kept.append(found)  # some end with all that they were given before they let go
    return answer


_kept: list[object] = []


def killed(system: System, tasks: int, seconds: float, *, kills: bool) -> Answer:
    """Map over tasks that sleep, and kill a worker when half have begun, where it `kills`.

    Returns:
        The seconds of the map; how many tasks began a second time (`again`), and how many of these
        had not begun in the worker that was killed (`others_again`).
    """
    path = Path(tempfile.mkdtemp()) / "begun"
    path.touch()
    dead: list[int] = []

    def kill() -> None:
        while len(lines := path.read_text().splitlines()) < tasks // 2:
            time.sleep(0.001)
        dead.append(int(lines[-1].split()[1]))
        os.kill(dead[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    arguments = [(str(path), number, seconds) for number in range(tasks)]
    at = time.perf_counter()
    if kills:
        killer.start()
    found = system.map(work.begun, arguments)
    took = time.perf_counter() - at
    _expect(found, list(range(tasks)))
    _expect(len(dead), int(kills))
    where: dict[int, list[int]] = {}
    for line in path.read_text().splitlines():
        number, pid = map(int, line.split())
        where.setdefault(number, []).append(pid)
    _expect(sorted(where), list(range(tasks)))
    again = [pids for pids in where.values() if len(pids) > 1]
    others = [pids for pids in again if dead != pids[:1] or len(pids) > 2]  # noqa: PLR2004  twice
    return {"seconds": took, "again": len(again), "others_again": len(others)}


def close(system: System) -> Answer:
    """End what the system started."""
    system.close()
    return {}


ACTIONS: dict[str, Callable[..., Answer]] = {
    action.__name__: action
    for action in (
        load,
        first_result,
        latency,
        map_noops,
        tasks,
        echo,
        large_values,
        first_of_many,
        killed,
        close,
    )
}


def _expect(value: object, expected: object) -> None:
    if value != expected:
        raise AssertionError(f"a wrong result: {value!r}, expected {expected!r}")


def serve(name: str) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    system = SYSTEMS[name]()
    for line in sys.stdin:
        request = json.loads(line)
        action = ACTIONS[request.pop("do")]
        try:
            answer = action(system, **request)
        except Exception as error:  # noqa: BLE001  a peer that fails is reported, whatever it is
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1])
