"""The inputs that run in this process now, seen from another thread: their frames and variables.

What a console in a worker gives as `inputs()`. Frames of ours, and those of the event loop between
ours and the user's, are left out.

Not guaranteed: that an input stands still while one looks; a copy of its variables does.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import OUR_FILES
from kernel_worker.wire import page as pages

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator
    from types import FrameType

_HERE: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120  compared with frames' file names
_LIBRARY = os.path.dirname(os.path.abspath(contextlib.__file__)) + os.sep  # noqa: PTH100, PTH120  likewise
_MACHINERY: Final = (f"{_LIBRARY}asyncio{os.sep}", f"{_LIBRARY}selectors.py")
"""Where an event loop's frames are that lie between ours and the user's, or that wait."""
_LOOKS: Final = 20
_PAUSE_SECONDS: Final = 0.0005
_LOOPS: Final = frozenset({"_run_plain", "_run_each", "_run_group", "_run", "_run_task"})
"""The functions of this room that run inputs; each knows the lease that it is at (see `_place`)."""


@dataclass(frozen=True, slots=True)
class Running:
    """One input that runs."""

    call: str
    """The id of its call."""
    index: int
    """Which input of the call it is, from 0."""
    frames: tuple[FrameType, ...] = field(repr=False)
    """From the remote function to where it is now."""

    @property
    def frame(self) -> FrameType:
        """The frame of the remote function."""
        return self.frames[0]

    @property
    def locals(self) -> dict[str, Any]:
        """A copy of the remote function's variables as they are now."""
        return dict(self.frame.f_locals)

    def __repr__(self) -> str:
        last = self.frames[-1]
        text = linecache.getline(last.f_code.co_filename, last.f_lineno).strip()
        where = f"{last.f_code.co_qualname}, line {last.f_lineno}"
        name = f"{self.frame.f_code.co_qualname} ({self.call}#{self.index})"
        return f"<{name} in {where}: {text}>" if text else f"<{name} in {where}>"


def inputs(loop: Callable[[], AbstractEventLoop | None]) -> list[Running]:
    """Return the inputs that run, those on the main thread first.

    Args:
        loop: returns the loop in which `async` functions run, where there is one.
    """
    found: dict[tuple[str, int], Running] = {}
    for _ in range(_LOOKS):
        stacks = sys._current_frames()  # noqa: SLF001  the only way
        main = threading.main_thread().ident
        threads = sorted(stacks, key=lambda thread: thread != main)
        tasks, all_stand = _tasks(loop())
        for stack in itertools.chain((_stack(stacks[thread]) for thread in threads), tasks):
            one = _of_stack(stack)
            if one is not None:
                found.setdefault((one.call, one.index), one)
        if all_stand or threading.get_ident() == main:
            break
        time.sleep(_PAUSE_SECONDS)
    return list(found.values())


def _stack(frame: FrameType | None) -> list[FrameType]:
    """Return a thread's frames, the outermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _tasks(loop: AbstractEventLoop | None) -> tuple[list[list[FrameType]], bool]:
    """Return the frames of each task of a loop, below that of what runs the input.

    And whether all of them stood still: of one that runs, the frames are its thread's, which may
    have been looked at before.
    """
    if loop is None:
        return [], True
    import asyncio  # noqa: PLC0415  there is a loop

    main = _stack(sys._current_frames().get(threading.main_thread().ident or 0))  # noqa: SLF001  as above
    beneath = [frame for frame in main if _is_loop(frame)][:1]
    found, all_stand = [], True
    for task in asyncio.all_tasks(loop):
        chain: list[FrameType] = []
        awaited: Any = task.get_coro()
        all_stand = all_stand and not getattr(awaited, "cr_running", False)
        while awaited is not None:
            frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
            if frame is not None:
                chain.append(frame)
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        found.append([*beneath, *chain])
    return found, all_stand


def _is_loop(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in _LOOPS and code.co_filename.startswith(_HERE)


def _of_stack(stack: list[FrameType]) -> Running | None:
    """Return the input that runs in a stack, if one does."""
    start = next((at for at, frame in enumerate(stack) if _is_loop(frame)), None)
    if start is None:
        return None
    frames = tuple(_users(stack[start:]))
    place = _place(stack[start])
    return Running(*place, frames) if frames and place is not None else None


def _users(stack: list[FrameType]) -> Iterator[FrameType]:
    """Yield the frames that are neither ours nor the event loop's between us and the user."""
    below_ours = False
    for frame in stack:
        file = frame.f_code.co_filename
        if file.startswith(OUR_FILES):
            below_ours = True
        elif not (below_ours and file.startswith(_MACHINERY)):
            below_ours = False
            yield frame


def _place(frame: FrameType) -> tuple[str, int] | None:
    """Return which input a loop of this room is at."""
    variables = frame.f_locals
    if (one := variables.get("one")) is not None:
        return one.lease.call, one.lease.start
    if (work := variables.get("work")) is not None:
        position = variables.get("position", work.lease.start)
        if (slots := variables.get("slots")) is not None:
            position = slots[pages.POSITION]  # the loop knows the first one of its stride
        return work.lease.call, position
    if (group := variables.get("group")) is not None:
        return group.first.call, group.first.start
    return None
