"""A call's inputs: batches that come and go, and the lives of those that were tried again."""

from __future__ import annotations

import pytest

from kernel_worker.core.calls import Call
from kernel_worker.core.pools import Pool
from kernel_worker.core.transitions import Cause, InputState
from kernel_worker.model import CallId, ClientId
from tests.core.simulation import make_spec


@pytest.fixture
def call() -> Call:
    spec = make_spec()
    pool = Pool(spec.pool, spec, spec.settings)
    return Call(CallId("fc-1"), ClientId("cl-1"), pool, attached=True, submitted_at=0.0)


def parts(call: Call) -> list[tuple[int, int, int, int]]:
    return [(one.start, one.stop, one.attempt, one.batch) for one in call.backlog]


def test_inputs_that_are_known_are_not_added_again(call: Call) -> None:
    assert call.add(0, 4, indivisible=False)
    assert not call.add(0, 4, indivisible=False)
    assert not call.add(3, 4, indivisible=False)
    assert call.add(8, 2, indivisible=False)
    assert call.add(4, 4, indivisible=False), "the gap"
    assert call.backlog.count == 10
    assert call.states.counts[InputState.PENDING] == 10


def test_what_comes_back_is_cut_at_batches_and_around_second_attempts(call: Call) -> None:
    call.add(0, 4, indivisible=False)
    call.add(4, 4, indivisible=True)
    while call.backlog.count:
        call.backlog.take(10)
    call.life(2).attempt = 2
    call.requeue(0, 8)
    assert parts(call) == [(0, 2, 1, 0), (2, 3, 2, 0), (3, 4, 1, 0), (4, 8, 1, 4)]
    assert [one.whole for one in call.backlog] == [0, 0, 0, 4]


def test_lives_are_forgotten_with_their_inputs(call: Call) -> None:
    call.add(0, 10, indivisible=False)
    for index in (1, 5, 9):
        call.life(index).attempt = 2
    call.forget_lives(5, 6)
    call.forget_lives(6, 100)
    assert list(call.lives) == [1]
    assert (call.attempt_of(1), call.attempt_of(5)) == (2, 1)


def test_retries_are_due_in_the_order_of_their_times(call: Call) -> None:
    for due, index in ((3.0, 0), (1.0, 1), (2.0, 2)):
        call.delay(index, due)
    assert call.due_retries(2.0) == [1, 2]
    assert call.due_retries(2.5) == []
    assert call.due_retries(3.0) == [0]


def test_a_call_is_over_when_it_is_closed_and_nothing_lives(call: Call) -> None:
    call.add(0, 1, indivisible=False)
    call.closed = True
    assert not call.is_over
    call.states.move(0, 1, Cause.GRANTED)
    assert call.running == 1
    call.states.move(0, 1, Cause.SUCCEEDED)
    assert call.is_over


def test_batches_whose_inputs_are_over_are_forgotten_and_no_others(call: Call) -> None:
    for start in range(0, 600, 2):
        call.add(start, 2, indivisible=False)
    assert len(call._batches) == 300, "none is over"
