"""Waiting on a condition: the one place where tests let time pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("NOTEBOOK_EXT_TEST_PATIENCE", "1"))
"""Multiplies every deadline: more than 1 for a slow or busy machine."""


def wait_until(condition: Callable[[], T], deadline_seconds: float = 10.0, what: str = "") -> T:
    """Return the first true value of `condition()`, asked 100 times a second.

    Args:
        condition: What is waited for.
        deadline_seconds: How long at most, multiplied by `PATIENCE`.
        what: The condition in words, for the message.

    Raises:
        AssertionError: It did not become true in time.
    """
    end = time.monotonic() + deadline_seconds * PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_seconds} s: {what or condition}")
        time.sleep(0.01)
    return value
