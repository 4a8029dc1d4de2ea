"""The work that every system is given: functions small enough that the system is what is measured.

A task that has a length returns the length that it really had, so that an efficiency compares
with what was executed and not with what was asked for (a 1 ms sleep lasts longer than 1 ms).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def noop(value: int) -> int:
    """Return `value`."""
    return value


def echo(value: Any) -> Any:
    """Return `value`, a large array."""
    return value


def noop_each(values: list[int]) -> list[int]:
    """Return what `noop` returns for each of `values`: a chunk made by hand."""
    return [noop(value) for value in values]


def increased(array: Any) -> Any:
    """Return another array."""
    return array + 1


def length(array: Any) -> int:
    """Return how many elements an array has."""
    return len(array)


def last(seconds: float, array: Any) -> float:
    """Sleep, and return the last element of an array."""
    time.sleep(seconds)
    return float(array[-1])


def megabytes(count: int) -> Iterator[bytes]:
    """Yield so many items of 1 MB."""
    for at in range(count):
        yield bytes([at % 256]) * 1_000_000


def sleep(seconds: float) -> float:
    """Sleep for `seconds` and return how many it took."""
    begun = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - begun


def begun(task: tuple[str, int, float]) -> int:
    """Write down that this task begins, and where; sleep, and return its number.

    Args:
        task: the file, the task's number, how many seconds it sleeps.
    """
    path, number, seconds = task
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d %d\n" % (number, os.getpid()))
    os.close(file)
    time.sleep(seconds)
    return number


def burn(seconds: float) -> float:
    """Compute until this thread has used `seconds` of CPU time, and return how much it used.

    CPU time, not wall time: a task that is preempted has not done its work yet.
    """
    begun = time.thread_time()
    while (used := time.thread_time() - begun) < seconds:
        pass
    return used


def skewed_lengths(count: int = 1_000, long: int = 20) -> list[float]:
    """Return `count` lengths in seconds: quick ones (1 ms), then `long` long ones (50 ms).

    The long ones come last: a system that hands work out in large portions leaves them all to one
    worker, and the other one idle.
    """
    return [0.001] * (count - long) + [0.050] * long
