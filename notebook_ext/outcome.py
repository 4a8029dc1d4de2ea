"""How an outcome that came over the wire becomes a value or an exception here.

Values are unpickled by whoever asks for them, anew each time. The exception of an input that failed
is the one that the function raised, rebuilt; that of one that was lost, cancelled or too slow is
ours. Frames of ours carry `__tracebackhide__`, so that IPython shows the user's alone.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from kernel_worker.errors import (
    CallCancelledError,
    ExecutionError,
    FunctionTimeoutError,
    InternalFailure,
)
from kernel_worker.model import Outcome
from kernel_worker.packages import NOWHERE
from kernel_worker.wire import frames as wire_frames
from kernel_worker.wire import payload
from notebook_ext.replay import equip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame
    from notebook_ext.submission import Ended

_ARGUMENT_CHARACTERS = 60


def value_at(frames: Sequence[Frame], position: int) -> object:
    """Return the value at `position` of a batch.

    Raises:
        DeserializationError: it cannot be unpickled here.
    """
    __tracebackhide__ = True
    return payload.BatchReader(frames)[position] if position else payload.loads(frames)


def exception_of(
    end: Ended, name: str, *, note: str = "", index: int | None = None
) -> BaseException:
    """Return the exception that stands for an input that did not succeed.

    Args:
        end: how it ended.
        name: the function's, for messages.
        note: added to the exception, if not empty.
        index: which input it is, where `end` speaks of several.
    """
    error = _error(end, name)
    if note:
        error.add_note(note)
    equip(error, end, end.index if index is None else index, name)
    return error


def map_note(end: Ended, index: int, name: str, title: str) -> str:
    """Return what a map says of the input that failed: its index and arguments, shortened.

    Args:
        end: how it ended.
        index: which input it is.
        name: the function's.
        title: the map's, such as `f.starmap`.
    """
    arguments = arguments_of(end, index)
    return f"in input {index} of {title}" + (f": {name}({arguments})" if arguments else "")


def arguments_of(end: Ended, index: int) -> str:
    """Return the arguments of an input as text, shortened; empty where they are not at hand."""
    if not end.inputs:
        return ""
    try:
        head = wire_frames.header(end.inputs)
        item = payload.BatchReader(end.inputs)[end.position + index - end.index]
        return _shown(item, head.form)
    except Exception:  # noqa: BLE001  arguments of users may not come back, or have no repr
        return ""


def _shown(item: object, form: int) -> str:
    args: Sequence[object] = item if isinstance(item, tuple) else (item,)
    kwargs: dict[str, object] = {}
    if form == wire_frames.FORM_CALL:
        args, kwargs = item  # type: ignore[misc]
    short = reprlib.Repr()
    short.maxstring = short.maxother = _ARGUMENT_CHARACTERS
    shown = [short.repr(arg) for arg in args]
    shown += [f"{key}={short.repr(value)}" for key, value in kwargs.items()]
    return ", ".join(shown)


def _error(end: Ended, name: str) -> BaseException:
    if end.exception is not None:
        from kernel_worker.wire import failures  # noqa: PLC0415  only where something failed

        error = failures.rebuild(end.exception)
        if end.message.startswith(NOWHERE):
            error.add_note(end.message)
        return error
    default, kind = {
        Outcome.CANCELLED: (f"{name} was cancelled.", CallCancelledError),
        Outcome.TIMED_OUT: (f"{name} ran longer than its timeout.", FunctionTimeoutError),
        Outcome.LOST: (f"The workers that ran {name} died.", InternalFailure),
        Outcome.INIT_FAILED: (f"{name} could not be set up in a worker.", ExecutionError),
    }.get(end.outcome, (f"{name} failed.", ExecutionError))
    return kind(end.message or default)
