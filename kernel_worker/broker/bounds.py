"""Numbers that peers say: each is one that the core can reckon with, or the message is refused.

A NaN makes no order, an infinity no deadline, and what is negative would be given instead of taken:
one such number in what somebody defines would be felt by everybody.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kernel_worker.errors import ProtocolError

_BEYOND_MEASURE: Final = 1e100
"""Quotients and sums of what is below it are finite."""
_WHOLE: Final = 2**63
"""Whole numbers below it have a place in the journal."""
_MAX_SECONDS: Final = 1e9
"""Thirty years."""


def check_numbers(said: object) -> None:
    """Look at all numbers in a struct, and in what it holds.

    Raises:
        ProtocolError: one is negative, beyond all measure, or no number.
    """
    if isinstance(said, msgspec.Struct):
        for name in said.__struct_fields__:
            value = getattr(said, name)
            if not isinstance(value, float | int):
                check_numbers(value)
            elif not 0 <= value < (_BEYOND_MEASURE if isinstance(value, float) else _WHOLE):
                text = f"{type(said).__name__}.{name} is {value}"
                raise ProtocolError(text)
    elif isinstance(said, tuple):
        for each in said:
            check_numbers(each)


def check_position(after: int) -> None:
    """Look at behind what somebody wants to read on.

    Raises:
        ProtocolError: nothing can be there.
    """
    if not 0 <= after < _WHOLE:
        text = f"it asks for what is behind {after}"
        raise ProtocolError(text)


def check_seconds(elapsed: float) -> None:
    """Look at how long something is said to have taken; sums of it stay finite.

    Raises:
        ProtocolError: nothing takes that long.
    """
    if not 0.0 <= elapsed <= _MAX_SECONDS:
        text = f"it took {elapsed} seconds"
        raise ProtocolError(text)
