from __future__ import annotations

import pytest

from kernel_worker.core.states import InputStates
from kernel_worker.core.transitions import Cause, InputState, InvalidTransition
from kernel_worker.model import Outcome


def with_inputs(count: int) -> InputStates:
    states = InputStates()
    states.extend_to(count)
    states.move(0, count, Cause.ARRIVED)
    return states


def test_ranges_move_and_are_counted() -> None:
    states = with_inputs(10)
    states.move(2, 5, Cause.GRANTED)
    states.move(2, 4, Cause.SUCCEEDED)
    assert states.runs(0, 10) == [
        (0, 2, InputState.PENDING),
        (2, 4, InputState.SUCCEEDED),
        (4, 5, InputState.LEASED),
        (5, 10, InputState.PENDING),
    ]
    assert (states.live, states.ended) == (8, 2)
    assert states.pending_runs() == [(0, 2), (5, 10)]


def test_the_tally_counts_inputs_by_their_outcome() -> None:
    states = with_inputs(6)
    states.move(0, 5, Cause.GRANTED)
    for index, cause in enumerate((Cause.SUCCEEDED, Cause.SUCCEEDED, Cause.LOST, Cause.TIMED_OUT)):
        states.move(index, index + 1, cause)
    states.move(5, 6, Cause.CANCEL_REQUESTED)
    tally = {outcome: count for outcome, count in enumerate(states.tally()) if count}
    assert tally == {
        Outcome.SUCCEEDED: 2,
        Outcome.LOST: 1,
        Outcome.TIMED_OUT: 1,
        Outcome.CANCELLED: 1,
    }


def test_a_move_that_is_invalid_for_one_input_moves_none() -> None:
    states = with_inputs(3)
    states.move(1, 2, Cause.GRANTED)
    with pytest.raises(InvalidTransition):
        states.move(0, 3, Cause.GRANTED)
    assert states.counts[InputState.PENDING] == 2


def test_what_is_over_is_forgotten_from_the_front() -> None:
    states = InputStates()
    for start in range(0, 1_000_000, 5_000):
        states.extend_to(start + 5_000)
        for cause in (Cause.ARRIVED, Cause.GRANTED, Cause.SUCCEEDED):
            states.move(start, start + 5_000, cause)
    assert states.begin > 900_000
    assert states.ended == 1_000_000
    assert states.at(0) is None
    assert states.at(2_000_000) is InputState.ABSENT
    assert not states.are(InputState.SUCCEEDED, 0, 10)
    assert states.are(InputState.SUCCEEDED, states.begin, states.end)


def test_a_move_over_several_states_takes_each_by_its_own_row() -> None:
    states = with_inputs(4)
    states.move(0, 2, Cause.GRANTED)
    states.move(0, 4, Cause.CANCEL_REQUESTED)
    assert states.runs(0, 4) == [(0, 2, InputState.CANCELLING), (2, 4, InputState.CANCELLED)]
