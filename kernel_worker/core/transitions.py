"""How the state of one input may change: a table, which the README's diagram and the tests read.

A state is one byte, so that a call keeps the states of its inputs in a bytearray and moves whole
ranges of them at once. Whatever the table does not hold raises `InvalidTransition`: terminal
states have no row, which is why an outcome never changes.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kernel_worker.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping


class InvalidTransition(Exception):  # noqa: N818  reads as the fact that it is
    """A change of state that the table does not hold: a bug of ours, never of a peer's."""


class InputState(enum.IntEnum):
    """Where an input is in its life."""

    ABSENT = 0
    """A position of which no input arrived (yet)."""
    PENDING = 1
    DELAYED = 2
    """A retry that waits until its time."""
    LEASED = 3
    CANCELLING = 4
    """Leased, and asked to end."""
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    TIMED_OUT = 8
    LOST = 9
    INIT_FAILED = 10


class Cause(enum.IntEnum):
    """What changes the state of an input."""

    ARRIVED = 0
    GRANTED = 1
    RETURNED = 2
    """The worker gave it back unstarted, or is gone without having started it."""
    RETRIED = 3
    """The attempt failed or timed out, and another one follows."""
    DUE = 4
    """The delay of a retry is over."""
    RERUN = 5
    """The worker died under it, and it may run again."""
    CANCEL_REQUESTED = 6
    SUCCEEDED = 7
    FAILED = 8
    CANCELLED = 9
    TIMED_OUT = 10
    LOST = 11
    INIT_FAILED = 12


_S = InputState
_C = Cause

TABLE: Final[Mapping[tuple[InputState, Cause], InputState]] = MappingProxyType(
    {
        (_S.ABSENT, _C.ARRIVED): _S.PENDING,
        (_S.PENDING, _C.GRANTED): _S.LEASED,
        (_S.PENDING, _C.CANCEL_REQUESTED): _S.CANCELLED,
        (_S.PENDING, _C.INIT_FAILED): _S.INIT_FAILED,
        (_S.DELAYED, _C.DUE): _S.PENDING,
        (_S.DELAYED, _C.CANCEL_REQUESTED): _S.CANCELLED,
        (_S.DELAYED, _C.INIT_FAILED): _S.INIT_FAILED,
        (_S.LEASED, _C.RETURNED): _S.PENDING,
        (_S.LEASED, _C.RETRIED): _S.DELAYED,
        (_S.LEASED, _C.RERUN): _S.PENDING,
        (_S.LEASED, _C.CANCEL_REQUESTED): _S.CANCELLING,
        (_S.LEASED, _C.SUCCEEDED): _S.SUCCEEDED,
        (_S.LEASED, _C.FAILED): _S.FAILED,
        (_S.LEASED, _C.CANCELLED): _S.CANCELLED,
        (_S.LEASED, _C.TIMED_OUT): _S.TIMED_OUT,
        (_S.LEASED, _C.LOST): _S.LOST,
        (_S.LEASED, _C.INIT_FAILED): _S.INIT_FAILED,
        (_S.CANCELLING, _C.RETURNED): _S.CANCELLED,
        (_S.CANCELLING, _C.RERUN): _S.CANCELLED,
        (_S.CANCELLING, _C.SUCCEEDED): _S.SUCCEEDED,
        (_S.CANCELLING, _C.FAILED): _S.FAILED,
        (_S.CANCELLING, _C.CANCELLED): _S.CANCELLED,
        (_S.CANCELLING, _C.TIMED_OUT): _S.TIMED_OUT,
        (_S.CANCELLING, _C.LOST): _S.CANCELLED,
        (_S.CANCELLING, _C.INIT_FAILED): _S.INIT_FAILED,
    }
)

TERMINAL: Final = frozenset(
    {_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT, _S.LOST, _S.INIT_FAILED}
)

CAUSE_OF: Final[Mapping[Outcome, Cause]] = MappingProxyType(
    {
        Outcome.SUCCEEDED: Cause.SUCCEEDED,
        Outcome.FAILED: Cause.FAILED,
        Outcome.CANCELLED: Cause.CANCELLED,
        Outcome.TIMED_OUT: Cause.TIMED_OUT,
        Outcome.LOST: Cause.LOST,
        Outcome.INIT_FAILED: Cause.INIT_FAILED,
    }
)
"""The cause by which a leased input ends with an outcome."""


# By position, because hashing members of an enumeration is slow.
_NEXT: Final = tuple(tuple(TABLE.get((state, cause)) for cause in Cause) for state in InputState)


def step(state: int, cause: Cause) -> InputState:
    """Return the state after `cause`, or raise `InvalidTransition`.

    `state` is an `InputState` or its value.
    """
    target = _NEXT[state][cause]
    if target is None:
        message = f"an input that is {InputState(state).name} cannot be {cause.name}"
        raise InvalidTransition(message)
    return target
