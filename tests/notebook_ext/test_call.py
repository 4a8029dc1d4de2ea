from __future__ import annotations

import builtins
import pickle
import threading
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.wire import messages
from notebook_ext import process
from notebook_ext.call import _Patient
from notebook_ext.exception import (
    CallCancelledError,
    InvalidError,
    NotFoundError,
    StillPendingError,
)
from notebook_ext.twin import Waiting


@pytest.fixture
def sleepy(live: nb.App) -> nb.Function[..., Any]:
    @live.function
    def sleepy(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    return sleepy


def test_get_is_repeatable(add: nb.Function[..., int]) -> None:
    call = add.spawn(1)
    assert call.object_id.startswith("fc-")
    assert repr(call) == f"FunctionCall({call.object_id!r})"
    assert [call.get(), call.get(timeout=0), call.get(timeout=5)] == [2, 2, 2]
    assert call.num_inputs() == 1
    assert pickle.loads(pickle.dumps(call)).get() == 2


def test_aio(add: nb.Function[..., int], loop: Any) -> None:
    async def main() -> list[int]:
        call = await add.spawn.aio(1)
        return [await call, await call.get.aio(), await call.get.aio(timeout=5)]

    assert loop.run(main()) == [2, 2, 2]


def test_any_number_of_seconds_may_be_waited(add: nb.Function[..., int]) -> None:
    call = add.spawn(1)
    assert call.get(timeout=float("inf")) == call.get(timeout=1e30) == 2


def test_by_id_from_another_session(add: nb.Function[..., int]) -> None:
    call = add.spawn(4)
    assert call.get() == 5
    process.close()
    again = nb.FunctionCall.from_id(call.object_id)
    assert again.get(timeout=0) == 5
    assert call.get() == 5


def test_nobody_knows_it() -> None:
    with pytest.raises(NotFoundError):
        nb.FunctionCall.from_id("fc-0").get(timeout=1)
    with pytest.raises(InvalidError, match="fc-"):
        nb.FunctionCall.from_id("in-0")
    with pytest.raises(InvalidError, match=r"\.get_gen\(\)"):
        nb.FunctionCall.from_id("fc-0", is_generator=True).get()
    with pytest.raises(InvalidError, match=r"\.get_gen\(\)"):
        nb.FunctionCall.from_id("fc-0", is_generator=True).iter()
    with pytest.raises(NotFoundError):
        list(nb.FunctionCall.from_id("fc-0").get_gen())


def test_what_is_no_generator_has_no_items(add: nb.Function[..., int]) -> None:
    call = add.spawn(1)
    with pytest.raises(InvalidError, match=r"is no generator: call \.get\(\)"):
        call.get_gen()
    with pytest.raises(InvalidError, match=r"is no generator: call \.get\(\)"):
        list(nb.FunctionCall.from_id(call.object_id).get_gen())


def test_an_outcome_that_is_quicker_than_the_first_answer_is_the_result() -> None:
    unanswered: Waiting[messages.CallInfo] = Waiting()
    quick = _Patient(1.0, lambda: "too late", unanswered, 30.0)
    quick.complete(lambda: "here")
    assert quick.join() == "here"


def test_still_pending(sleepy: nb.Function[..., Any], loop: Any) -> None:
    call = sleepy.spawn(30)
    with pytest.raises(StillPendingError) as caught:
        call.get(timeout=0)
    assert isinstance(caught.value, builtins.TimeoutError)
    assert isinstance(caught.value, nb.exception.TimeoutError)

    async def main() -> None:
        with pytest.raises(StillPendingError):
            await nb.FunctionCall.from_id(call.object_id).get.aio(timeout=0.01)

    loop.run(main())
    call.cancel()
    with pytest.raises(CallCancelledError):
        call.get(timeout=20)


def test_cancel_by_id_and_twice(sleepy: nb.Function[..., Any]) -> None:
    call = sleepy.spawn(30)
    again = nb.FunctionCall.from_id(call.object_id)
    again.cancel(terminate_containers=True)
    with pytest.raises(CallCancelledError):
        again.get(timeout=20)
    again.cancel()


def test_a_failure_is_raised_each_time(live: nb.App) -> None:
    @live.function
    def bad() -> None:
        raise KeyError("x")

    call = bad.spawn()
    for _ in range(2):
        with pytest.raises(KeyError):
            call.get()


def test_many_inputs(add: nb.Function[..., int]) -> None:
    call = add.spawn_map([1, 2, 3], kwargs={"b": 10})
    assert [call.get(index=at) for at in range(3)] == [11, 12, 13]
    assert call.num_inputs() == 3
    for index in (3, -1):
        with pytest.raises(InvalidError, match="has 3 inputs, from 0 on"):
            call.get(index=index)
    with pytest.raises(InvalidError):
        add.spawn_map()


def test_results_in_order(add: nb.Function[..., int], loop: Any) -> None:
    call = add.spawn_map([1, 2, 3, 4])
    again = nb.FunctionCall.from_id(call.object_id)
    results = again.iter(1, 3)
    assert list(results) == list(results) == [3, 4]
    assert list(call.iter(2, 99)) == list(again.iter(2)) == [4, 5]
    assert "2:" in repr(call.iter(2))

    async def main() -> list[int]:
        return [each async for each in again.iter.aio(start=3)]

    assert loop.run(main()) == [5]
    for wrong in ({"start": -1}, {"end": -1}):
        with pytest.raises(InvalidError, match="-1"):
            call.iter(**wrong)


def test_a_large_call_goes_out_in_batches_and_its_results_come_in_order(
    add: nb.Function[..., int], loop: Any
) -> None:
    numbers = range(20_001)
    call = add.spawn_map(numbers)
    wanted = [number + 1 for number in numbers]
    assert list(call.iter()) == wanted
    assert call.get(index=20_000) == 20_001

    async def main() -> list[int]:
        return [each async for each in call.iter.aio(start=4_990)]

    assert loop.run(main()) == wanted[4_990:]
    assert nb.FunctionCall.from_id(call.object_id).num_inputs() == 20_001


def test_results_that_are_not_plain_and_failures_come_where_they_belong(live: nb.App) -> None:
    @live.function
    def mixed(number: int) -> Any:
        if number == 7:
            raise KeyError(number)
        return [number] if number % 5 == 0 else number

    call = mixed.spawn_map(range(12))
    results = iter(call.iter())
    assert [next(results) for _ in range(7)] == [[0], 1, 2, 3, 4, [5], 6]
    with pytest.raises(KeyError):
        next(results)
    assert list(call.iter(8)) == [8, 9, [10], 11]


def test_an_input_that_a_call_by_id_never_had_is_an_error(add: nb.Function[..., int]) -> None:
    call = add.spawn_map([1, 2])
    with pytest.raises(InvalidError, match="has 2 inputs, from 0 on"):
        nb.FunctionCall.from_id(call.object_id).get(index=2)
    assert nb.FunctionCall.from_id(call.object_id).num_inputs() == 2
    for asked in (
        nb.FunctionCall.from_id("fc-0").num_inputs,
        nb.FunctionCall.from_id("fc-0").status,
    ):
        with pytest.raises(NotFoundError, match="fc-0"):
            asked()


def test_calls_travel(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function
    def wait_for(call: Any) -> int:
        return int(call.get()) + 1

    assert wait_for.remote(add.spawn(1)) == 3


def test_a_call_that_nobody_holds_goes_on(live: nb.App, tmp_path: Any) -> None:
    mark = tmp_path / "mark"

    @live.function
    def leave(path: str) -> None:
        with open(path, "w") as file:  # noqa: PTH123  imports would travel too
            file.write("x")

    name = leave.spawn(str(mark)).object_id
    nb.FunctionCall.from_id(name).get()
    assert mark.exists()


def test_waiting_from_several_threads(sleepy: nb.Function[..., Any]) -> None:
    call = sleepy.spawn(0.2)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(call.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0.2] * 4
