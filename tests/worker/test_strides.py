"""The innermost loops: what is asked for in the middle of a stride is heeded there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from kernel_worker.errors import InputCancellation, SerializationError
from kernel_worker.model import CallId, LeaseId
from kernel_worker.wire import messages, payload
from kernel_worker.wire import page as pages
from kernel_worker.worker import strides
from kernel_worker.worker.interrupts import Kind
from kernel_worker.worker.work import Work

START, STOP = 100, 110

Stride = Callable[[Callable[[int], Any]], bool]


def make_work(wanted: dict[int, Kind] | None = None) -> Work:
    return Work(messages.Lease(LeaseId(7), CallId("fc"), START, STOP, 1, START), wanted or {})


def values(work: Work) -> list[object]:
    count, frames = work.take()
    return list(payload.BatchReader(frames).items(0, count)) if count else []


@pytest.fixture
def page() -> Iterator[pages.Page]:
    file = pages.create_file()
    made = pages.Page(file)
    os.close(file)
    made.enter_lease(7, "fc", START, STOP)
    yield made
    made.close()


@pytest.fixture(params=["tuples", "column"])
def stride(request: pytest.FixtureRequest, page: pages.Page) -> Callable[[Work], Stride]:
    """Runs all inputs of a lease, which are their own positions."""

    def of(work: Work) -> Stride:
        positions = range(START, STOP)
        if request.param == "column":
            run = partial(strides.run_column, column=positions)
        else:
            run = partial(strides.run_tuples, inputs=zip(positions, strict=True))
        return partial(
            run, position=START, slots=page.slots, work=work, refuse_late=late.append_one
        )

    return of


class Late:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def append_one(self, _: Work, position: int) -> None:
        self.heard.append(position)


late = Late()


@pytest.fixture(autouse=True)
def _nothing_is_late() -> None:
    late.heard.clear()


def test_the_page_names_each_input_while_it_runs(
    stride: Callable[[Work], Stride], page: pages.Page
) -> None:
    work, named = make_work(), list[int]()

    def f(x: int) -> int:
        named.append(page.slots[pages.POSITION])
        return 2 * x

    assert stride(work)(f)
    assert named == list(range(START, STOP))
    assert values(work) == [2 * x for x in named]


def test_what_is_given_back_in_the_middle_does_not_run(
    stride: Callable[[Work], Stride], page: pages.Page
) -> None:
    work, ran = make_work(), list[int]()

    def f(x: int) -> None:
        ran.append(x)
        if x == START + 3:
            assert work.give_back(page) == (START + 4, STOP)

    assert not stride(work)(f)
    assert ran == [START, START + 1, START + 2, START + 3]
    assert page.slots[pages.POSITION] == START + 4, "which has not begun"
    assert len(values(work)) == len(ran)


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
def test_an_input_that_is_cancelled_before_it_begins_does_not(
    stride: Callable[[Work], Stride], page: pages.Page, asked: str
) -> None:
    work = make_work({START + 5: "cancel"} if asked == "before" else None)
    ran = list[int]()

    def f(x: int) -> None:
        ran.append(x)
        if asked == "meanwhile":
            work.want(START + 5, "cancel")

    with pytest.raises(InputCancellation):
        stride(work)(f)
    assert page.slots[pages.POSITION] == START + 5
    assert ran == list(range(START, START + 5))


def test_who_swallowed_an_interrupt_is_told_of(stride: Callable[[Work], Stride]) -> None:
    work = make_work()

    def f(x: int) -> None:
        if x == START + 2:
            work.hits[x] = "timeout"

    assert stride(work)(f)
    assert late.heard == list(range(START + 2, STOP)), "who is called looks which one it was"


@pytest.mark.parametrize("error", [ValueError, StopIteration, SystemExit, KeyboardInterrupt])
def test_what_an_input_raises_is_its_own(
    stride: Callable[[Work], Stride], page: pages.Page, error: type[BaseException]
) -> None:
    work = make_work()

    def f(x: int) -> int:
        if x == START + 6:
            raise error(x)
        return x

    with pytest.raises(error):
        stride(work)(f)
    assert page.slots[pages.POSITION] == START + 6
    assert values(work) == list(range(START, START + 6))


def test_a_value_is_pickled_before_the_next_input_begins(
    stride: Callable[[Work], Stride],
) -> None:
    work, grown = make_work(), list[int]()

    def f(x: int) -> object:
        grown.append(x)
        return grown if x % 2 else x

    assert stride(work)(f)
    grew = [list(range(START, x + 1)) if x % 2 else x for x in range(START, STOP)]
    assert values(work) == grew


def test_a_value_that_cannot_be_pickled_fails_its_input(
    stride: Callable[[Work], Stride], page: pages.Page
) -> None:
    work = make_work()
    with pytest.raises(SerializationError):
        stride(work)(lambda x: x if x < START + 4 else threading.Lock())
    assert page.slots[pages.POSITION] == START + 4
    assert values(work) == list(range(START, START + 4))


def test_tuples_are_all_arguments(page: pages.Page) -> None:
    work = make_work()
    inputs = iter([(1, 2), (3, 4)])
    assert strides.run_tuples(divmod, inputs, START, page.slots, work, late.append_one)
    assert values(work) == [(0, 1), (0, 3)]


def test_what_is_called_may_be_any_callable(page: pages.Page) -> None:
    work, add = make_work(), partial(pow, 2)
    assert strides.run_column(add, iter([3, 4]), START, page.slots, work, late.append_one)
    assert values(work) == [8, 16]
