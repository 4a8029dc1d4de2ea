"""The connection: the broker and its version, a worker, a round trip, the clocks of both ends."""

from __future__ import annotations

import statistics
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import ConnectionError, Error  # noqa: A004  ours
from notebook_ext import inquiry, process
from notebook_ext.app import App
from notebook_ext.call_status import call_filter
from notebook_ext.doctor.finding import Finding, of_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_ext.function import Function

APP: Final = "notebook-ext doctor"
TRIPS: Final = 20
APART_SECONDS: Final = 2.0
"""Clocks that are further apart are worth a warning."""
SLOW_SECONDS: Final = 0.05
_RESTART: Final = "`notebook-ext broker stop`: the next call starts another one"


def findings(limit_seconds: float) -> Iterator[Finding]:
    """Look at the broker, and have a worker tell the time; a broker that was not there goes again.

    Args:
        limit_seconds: how long the worker may take.
    """
    try:
        there = inquiry.find()
        if there is None:
            yield Finding("broker", "ok", "none runs; one was started to try it")
        else:
            yield broker()
        yield from round_trip(limit_seconds)
        if there is None:
            process.close()  # or it would look for another broker
            inquiry.stop()
    except Error as error:
        yield of_error("broker", error)


def broker() -> Finding:
    """Say which broker answers, and whether it is of this version."""
    status = inquiry.status()
    if status is None:
        raise ConnectionError("the broker has just left; try again")
    said = f"pid {status.pid}, version {status.version}"
    mine = version("notebook-ext")
    if status.version != mine:
        return Finding("broker", "warning", f"{said}, and this is {mine}", _RESTART)
    return Finding("broker", "ok", f"{said}, {len(status.workers)} workers")


def round_trip(limit_seconds: float) -> Iterator[Finding]:
    """Spawn a call, wait for it, look it up, and call its worker again some times."""
    tell = App(APP).function(name="time", timeout=limit_seconds)(time.time)
    begun, wall = time.monotonic(), time.time()
    call = tell.spawn()
    try:
        told = call.get(timeout=limit_seconds)
    except TimeoutError:
        call.cancel()
        said = f"no worker has answered for {limit_seconds:g} s"
        yield Finding("worker", "problem", said, "see broker.log in the runtime directory")
        return
    except Error as error:
        yield of_error("worker", error)
        return
    yield Finding("worker", "ok", f"answered after {time.monotonic() - begun:.1f} s")
    known = inquiry.calls(call_filter(APP, None, 1))
    if known:
        yield clock("broker", known[0].submitted_at - wall)
    yield clock("worker", told - time.time())
    yield _pace(tell)


def clock(whose: str, ahead_seconds: float) -> Finding:
    """Say how far a clock is ahead of this process's, a moment that a message takes aside."""
    if abs(ahead_seconds) < APART_SECONDS:
        return Finding(f"clock, {whose}", "ok", "tells the same time")
    said = f"{abs(ahead_seconds):.0f} s {'ahead' if ahead_seconds > 0 else 'behind'}"
    said += ": the machine's clock was set, or slept, since it started"
    return Finding(f"clock, {whose}", "warning", said, _RESTART)


def _pace(tell: Function[[], float]) -> Finding:
    spent = []
    for _ in range(TRIPS):
        begun = time.perf_counter()
        tell.remote()
        spent.append(time.perf_counter() - begun)
    median = statistics.median(spent)
    said = f"{1000 * median:.1f} ms, the median of {TRIPS}"
    if median < SLOW_SECONDS:
        return Finding("round trip", "ok", said)
    return Finding("round trip", "warning", said, "something else keeps the processors busy: `top`")
