"""How many calls of Python functions something makes: what a clock would say, without the clock."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType


def counted(action: Callable[[], object]) -> int:
    """Call `action`; return how many functions were called meanwhile, in this thread."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def called_at_least(times: int, action: Callable[[], object]) -> int:
    """Call `action`; return how often those functions were called that were called so often.

    What is called for each of many things is told so from what chance decides the number of.
    """
    calls: Counter[object] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event in {"call", "c_call"}:
            calls[frame.f_code if event == "call" else getattr(argument, "__qualname__", "")] += 1

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return sum(often for often in calls.values() if often >= times)
