"""What a call graph says of one input: who ran it and when, what it was given, wrote and raised.

All of it is asked of the broker, and some of it may be gone: what attached calls raised went to
whoever waited for them, and what they wrote is known only while they run. What is not known is left
out, or said in a line.
"""

from __future__ import annotations

import itertools
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import Error
from notebook_ext.call import FunctionCall
from notebook_ext.call_graph import InputStatus
from notebook_ext.logs import Logs
from notebook_ext.widgets.pace import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_ext.call_graph import InputInfo, KnownCall

LOG_LINES: Final = 200
"""So many of the last lines are shown, …"""
LOG_SECONDS: Final = 2.0
"""… of what could be read in this time."""
RESULT_SECONDS: Final = 2.0
_WENT: Final = "What it raised went to whoever waited for it: see the call above it."
_FAILED: Final = {InputStatus.FAILURE, InputStatus.INIT_FAILURE, InputStatus.TIMEOUT}
_WORDS: Final = {
    InputStatus.SUCCESS: "done",
    InputStatus.FAILURE: "failed",
    InputStatus.INIT_FAILURE: "could not be set up",
    InputStatus.TERMINATED: "cancelled",
    InputStatus.TIMEOUT: "over its time limit",
}


@dataclass(frozen=True, slots=True)
class Details:
    """What is known of one input, in words."""

    facts: list[tuple[str, str]]
    """(name, value)."""
    texts: list[tuple[str, str]]
    """(heading, text of some lines)."""

    def as_message(self) -> dict[str, Any]:
        """Return the form that travels to the front end."""
        return {"facts": self.facts, "texts": self.texts}


def details(call: KnownCall, index: int) -> Details:
    """Return what is known of the input at `index` of a call; waits for the broker."""
    info = call.input_at(index)
    texts: list[tuple[str, str]] = []
    if info.status in _FAILED:
        texts += _raised(call, index)
    written = "\n".join(_written(call, index))
    if written:
        texts.append(("Output", written))
    return Details(list(_facts(call, info)), texts)


def _facts(call: KnownCall, info: InputInfo) -> Iterator[tuple[str, str]]:
    waits = "running" if info.started_at is not None else "waiting"
    yield "state", _WORDS.get(info.status, waits)
    yield "call", info.function_call_id
    yield "input", info.input_id
    yield "kind", "spawned" if call.is_spawned else "attached"
    if info.task_id:
        yield "worker", info.task_id
    if info.attempt > 1:
        yield "attempt", str(info.attempt)
    yield "made", _clock(call.submitted_at)
    if info.started_at is not None:
        yield "began", _clock(info.started_at)
        until = time.time() if info.ended_at is None else info.ended_at
        name = "running for" if info.ended_at is None else "took"
        yield name, format_seconds(max(until - info.started_at, 0.0))


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _raised(call: KnownCall, index: int) -> Iterator[tuple[str, str]]:
    if not call.is_spawned:
        yield "Error", _WENT
        return
    try:
        FunctionCall[Any].from_id(call.id).get(RESULT_SECONDS, index=index)
    except Exception as error:  # noqa: BLE001  this is what is asked for
        yield "Error", "".join(traceback.format_exception_only(error)).strip()
        if error.__traceback__ is not None:
            yield "Traceback", "".join(traceback.format_exception(error)).strip()


def _written(call: KnownCall, index: int) -> list[str]:
    until = time.monotonic() + LOG_SECONDS
    lines: list[str] = []
    try:
        read = itertools.takewhile(lambda _: time.monotonic() < until, Logs(call.id))
        lines.extend(str(record) for record in read if record.index in {index, -1})
    except Error:
        return []
    return lines[-LOG_LINES:]
