from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from kernel_worker.core import transitions
from kernel_worker.core.states import InputStates
from kernel_worker.core.transitions import (
    CAUSE_OF,
    TABLE,
    TERMINAL,
    Cause,
    InputState,
    InvalidTransition,
    step,
)
from kernel_worker.model import Outcome

README = Path(transitions.__file__).with_name("README.md")
ROW = re.compile(r"^\| (\w+) \| (\w+) \| (\w+) \|", re.MULTILINE)
PATHS = {
    InputState.ABSENT: [],
    InputState.PENDING: [Cause.ARRIVED],
    InputState.LEASED: [Cause.ARRIVED, Cause.GRANTED],
    InputState.DELAYED: [Cause.ARRIVED, Cause.GRANTED, Cause.RETRIED],
    InputState.CANCELLING: [Cause.ARRIVED, Cause.GRANTED, Cause.CANCEL_REQUESTED],
}


@pytest.mark.parametrize(("row", "target"), TABLE.items())
def test_every_row_moves_an_input(row: tuple[InputState, Cause], target: InputState) -> None:
    state, cause = row
    states = InputStates()
    states.extend_to(3)
    for before in PATHS[state]:
        states.move(0, 3, before)
    states.move(1, 2, cause)
    assert [states.at(index) for index in range(3)] == [state, target, state]
    assert states.counts[target] >= 1


@pytest.mark.parametrize(
    ("state", "cause"), sorted(set(itertools.product(InputState, Cause)) - set(TABLE))
)
def test_everything_else_raises(state: InputState, cause: Cause) -> None:
    with pytest.raises(InvalidTransition, match=f"{state.name} cannot be {cause.name}"):
        step(state, cause)


def test_no_row_leaves_a_terminal_state() -> None:
    assert not {state for state, _ in TABLE} & TERMINAL


def test_a_leased_input_can_end_with_every_outcome() -> None:
    for outcome in Outcome:
        assert step(InputState.LEASED, CAUSE_OF[outcome]).name == outcome.name


def test_the_readme_shows_the_table() -> None:
    shown = {
        (InputState[state], Cause[cause]): InputState[target]
        for state, cause, target in ROW.findall(README.read_text())
        if state in InputState.__members__
    }
    assert shown == dict(TABLE)
