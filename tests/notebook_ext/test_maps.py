from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext import process, widgets
from notebook_ext.config import config
from notebook_ext.exception import (
    CallCancelledError,
    InvalidError,
    SerializationError,
    UserCodeException,
)
from notebook_ext.facts import DONE
from tests.waiting import wait_until


@pytest.fixture
def bad(live: nb.App) -> nb.Function[..., Any]:
    @live.function
    def bad(x: int) -> int:
        if x == 2:
            raise Exception("ohno")  # noqa: TRY002  as in the documentation
        return x

    return bad


def test_in_order_and_as_they_are_done(add: nb.Function[..., int]) -> None:
    assert list(add.map(range(5))) == [1, 2, 3, 4, 5]
    assert list(add.map([1, 2], [10, 20, 30])) == [11, 22]
    assert sorted(add.map(iter(range(5)), order_outputs=False)) == [1, 2, 3, 4, 5]
    assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert list(add.map([1, 2], kwargs={"b": 5})) == [6, 7]
    assert list(add.map([])) == []
    assert next(add.map([7])) == 8


def test_aio(add: nb.Function[..., int], loop: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    async def main() -> list[list[int]]:
        return [
            [y async for y in add.map.aio([1, 2])],
            [y async for y in add.map(numbers())],
            [y async for y in add.starmap.aio([(1, 1)])],
        ]

    assert loop.run(main()) == [[2, 3], [1, 2, 3], [2]]
    assert list(add.map(numbers())) == [1, 2, 3]


def test_failures(bad: nb.Function[..., Any], loop: Any) -> None:
    returned = list(bad.map(range(3), return_exceptions=True))
    assert repr(returned) == "[0, 1, UserCodeException(Exception('ohno'))]"
    assert isinstance(returned[2], UserCodeException)
    assert isinstance(returned[2].exc, Exception)
    bare = list(bad.map(range(3), return_exceptions=True, wrap_returned_exceptions=False))
    assert repr(bare) == "[0, 1, Exception('ohno')]"
    seen = []
    with pytest.raises(Exception, match="ohno") as caught:
        for value in bad.map(range(6)):
            seen.append(value)  # noqa: PERF402  what came before the failure
    assert seen == [0, 1]
    assert caught.value.__notes__ == [f"in input 2 of {bad.name}.map: {bad.name}(2)"]

    async def main() -> list[Any]:
        found = [y async for y in bad.map.aio([1, 2], return_exceptions=True)]
        with pytest.raises(Exception, match="ohno"):
            [y async for y in bad.map.aio([2])]
        return found

    assert repr(loop.run(main())) == "[1, UserCodeException(Exception('ohno'))]"


def test_an_iterable_that_raises(add: nb.Function[..., int]) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in add.map(items()):
            seen.append(value)  # noqa: PERF402  what came before the failure
    assert seen == [2, 3]


def test_infinite_input(add: nb.Function[..., int]) -> None:
    assert list(itertools.islice(add.map(itertools.count()), 5)) == [1, 2, 3, 4, 5]


def test_a_map_that_is_left_stops_its_inputs(live: nb.App, tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    @live.function
    def mark(x: int, path: str) -> int:
        import time

        with open(path, "a") as file:  # noqa: PTH123  imports would travel too
            file.write(".")
        time.sleep(0.01)
        return x

    for value in mark.map(range(5_000), kwargs={"path": str(marks)}):
        if value == 3:
            break
    name = mark.get_current_stats
    wait_until(lambda: name().num_running_inputs == 0 and name().backlog == 0)
    assert marks.stat().st_size < 2_000


def test_an_input_that_cannot_travel_is_named(add: nb.Function[..., int]) -> None:
    with pytest.raises(SerializationError) as caught:
        list(add.map([1, 2, threading.Lock(), 4]))
    assert caught.value.__notes__ == [f"in input 2 of {add.name}.map"]


def test_iterated_once(add: nb.Function[..., int]) -> None:
    results = add.map([1])
    assert "not iterated" in repr(results)
    assert list(results) == [2]
    assert "iterated" in repr(results)
    with pytest.raises(InvalidError, match="iterated before"):
        list(results)
    results = add.map([1, 2, 3])
    assert next(results) == 2
    assert list(results) == [3, 4]
    with pytest.raises(InvalidError, match="iterated before"):
        list(results)


@pytest.mark.parametrize("by", ["iter", "next"])
def test_behind_a_failure_nothing_comes(bad: nb.Function[..., Any], by: str) -> None:
    """As behind the exception of a generator."""
    mapped: Any = bad.map(range(3))
    results = iter(mapped) if by == "iter" else mapped
    with pytest.raises(Exception, match="ohno"):
        for _ in range(3):
            next(results)
    assert next(results, "nothing") == "nothing"
    with pytest.raises(InvalidError, match="iterated before"):
        iter(mapped)


def test_behind_a_generator_exit_of_the_function_nothing_comes(live: nb.App) -> None:
    @live.function
    def leaves(x: int) -> int:
        if x == 3:
            raise GeneratorExit
        return x

    results = iter(leaves.map(range(10)))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(GeneratorExit):
        next(results)
    assert list(results) == []


def test_threads_share_the_results_of_one_map(add: nb.Function[..., int]) -> None:
    results = iter(add.map(range(50_000)))
    found: list[list[int]] = [[], []]
    threads = [threading.Thread(target=one.extend, args=(results,)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*found)) == list(range(1, 50_001))


def test_a_map_that_is_dropped_ends_without_a_collection(live: nb.App) -> None:
    @live.function
    def nap(x: int) -> int:
        import time

        time.sleep(0.01)
        return x

    gc.disable()
    try:
        results = nap.map(itertools.count())
        next(results)
        del results
        wait_until(lambda: nap.get_current_stats().num_running_inputs == 0)
    finally:
        gc.enable()


def test_an_endless_map_that_is_left_has_no_total(
    add: nb.Function[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(widgets, "watch", lambda facts, _controls: seen.append(facts))
    assert next(add.map(itertools.count())) == 1
    wait_until(lambda: not any("map add" in each.name for each in threading.enumerate()))
    process.current().status().join()  # behind what the feed has posted
    assert seen[0].total is None


def test_never_iterated_warns(add: nb.Function[..., int]) -> None:
    with pytest.warns(RuntimeWarning, match="never iterated") as caught:
        add.map([1])
        wait_until(lambda: len(caught))
    assert caught[0].filename == __file__


def test_what_cannot_be_mapped(add: nb.Function[..., int]) -> None:
    with pytest.raises(InvalidError, match="at least one"):
        add.map()
    with pytest.raises(InvalidError, match="does not iterate"):
        add.map(3)
    with pytest.raises(InvalidError, match="allowed is a dict"):
        add.map([1], kwargs=[("b", 1)])  # type: ignore[arg-type]


def test_for_each(bad: nb.Function[..., Any], loop: Any) -> None:
    bad.for_each([0, 1])
    bad.for_each(range(4), ignore_exceptions=True)
    with pytest.raises(Exception, match="ohno") as caught:
        bad.for_each(range(4))
    assert caught.value.__notes__ == [f"in input 2 of {bad.name}.for_each: {bad.name}(2)"]
    with pytest.raises(ZeroDivisionError):
        bad.for_each(1 // x for x in [1, 0])

    async def main() -> None:
        await bad.for_each.aio([0])

    loop.run(main())


def test_timeouts_and_cancellation_have_their_exceptions(live: nb.App) -> None:
    @live.function(timeout=0.3)
    def slow() -> None:
        import time

        time.sleep(30)

    with pytest.raises(nb.exception.FunctionTimeoutError):
        slow.remote()
    call = slow.with_options(timeout=60).spawn()
    call.cancel()
    with pytest.raises(CallCancelledError):
        call.get()


def test_a_map_in_a_map(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function(max_containers=1)
    def outer(n: int) -> int:
        return sum(add.map(range(n)))

    assert list(outer.map([2, 3])) == [3, 6]


def test_mutable_inputs_are_not_shared(live: nb.App) -> None:
    @live.function
    def change(box: dict[str, int]) -> int:
        box["n"] += 1
        return box["n"]

    box = {"n": 0}
    assert list(change.map([box] * 100)) == [1] * 100


def test_a_slow_first_input(live: nb.App) -> None:
    @live.function
    def first_slow(x: int) -> int:
        import time

        if x == 0:
            time.sleep(1)
        return x

    assert list(first_slow.map(range(20_000))) == list(range(20_000))


def test_a_consumer_that_stops_stops_the_feed(add: nb.Function[..., int]) -> None:
    pulled = 0

    def items() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    results = iter(add.map(items()))
    next(results)
    still = -1
    deadline = time.monotonic() + 30
    while still != pulled and time.monotonic() < deadline:
        still = pulled
        time.sleep(1)
    assert still == pulled
    results.close()  # type: ignore[attr-defined]


def test_progress_facts(
    add: nb.Function[..., int], bad: nb.Function[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(widgets, "watch", lambda facts, _controls: shown.append(facts))
    assert list(add.map(range(10))) == list(range(1, 11))
    (facts,) = shown
    assert (facts.total, facts.done, facts.state) == (10, 10, "done")
    states = bytearray(10)
    for start, stop, state in facts.take_changes():
        states[start:stop] = bytes([state]) * (stop - start)
    assert set(states) == {DONE}
    list(bad.map([1, 2], return_exceptions=True))
    assert shown.pop().first_error == (1, "Exception: ohno")
    before = config.progress
    config.progress = "off"
    try:
        assert list(add.map([1])) == [2]
        assert len(shown) == 1
    finally:
        config.progress = before
