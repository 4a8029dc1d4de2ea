from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import notebook_ext as nb
from notebook_ext import kept as keeping
from notebook_ext.exception import CallCancelledError, InvalidError, NotFoundError
from notebook_ext.feed import Feed
from notebook_ext.maps import Map
from notebook_ext.unfinished import Unfinished
from tests.waiting import wait_until


@pytest.fixture
def ran(live: nb.App, tmp_path: Path) -> tuple[nb.Function[..., Any], Callable[[], list[int]]]:
    """Return a function that fails at odd inputs until they are `mended`, and what it ran."""
    log = tmp_path / "ran"
    log.touch()
    mended = tmp_path / "mended"
    paths = str(log), str(mended)

    @live.function
    def fragile(x: int) -> int:
        import os

        with open(paths[0], "a") as file:  # noqa: PTH123  imports would travel too
            file.write(f"{x}\n")
        if x % 2 and not os.path.exists(paths[1]):  # noqa: PTH110  as above
            raise ValueError(x)
        return 10 * x

    def take() -> list[int]:
        found = sorted(map(int, log.read_text().split()))
        log.write_text("")
        return found

    fragile.mend = mended.touch  # type: ignore[attr-defined]
    return fragile, take


def failing(results: Any) -> Any:
    """Return the exception that iterating raises."""
    try:
        list(results)
    except Exception as error:  # noqa: BLE001  whatever the function raised
        return error
    raise AssertionError("it has not failed")


def settled(left: Any) -> None:
    unfinished = left.unfinished if isinstance(left, Map) else left
    assert isinstance(unfinished, Unfinished)
    unfinished.latest.run.settled.join()


def test_a_failure_leaves_results_failures_and_what_remains(ran: Any) -> None:
    fragile, take = ran
    mapped = fragile.map([0, 2, 4, 5, *range(6, 40, 2)])
    error = failing(mapped)
    settled(mapped)
    assert isinstance(error, ValueError)
    error = cast("Any", error)
    assert [error.results[at] for at in range(3)] == [0, 20, 40]
    assert {0, 1, 2} <= set(error.results)
    assert 3 not in error.results
    assert list(error.failed) == [3]
    assert repr(error.failed[3]) == "ValueError(5)"
    assert error.failed[3].__notes__ == [f"in input 3 of {fragile.name}.map: {fragile.name}(5)"]
    assert sorted([*error.results, *error.failed, *error.remaining]) == list(range(21))
    assert dict(mapped.results) == dict(error.results)
    assert list(mapped.remaining) == list(error.remaining)
    assert nb.last_map().results == error.results
    done = len(error.results)
    take()
    fragile.mend()
    assert list(error.resume()) == [10 * x for x in [0, 2, 4, 5, *range(6, 40, 2)]]
    assert len(take()) == 21 - done
    with pytest.raises(NotFoundError, match="no map"):
        nb.last_map()
    with pytest.raises(InvalidError, match="came to its end"):
        error.resume()


def test_the_views_are_like_a_dict_and_a_list(ran: Any) -> None:
    fragile, _ = ran
    mapped = fragile.map([0, 2, 5, 7, 4, 6, 8], return_exceptions=True)
    assert [repr(value) for value in mapped][:4] == [
        "0",
        "20",
        "UserCodeException(ValueError(5))",
        "UserCodeException(ValueError(7))",
    ]
    assert mapped.results == {0: 0, 1: 20, 4: 40, 5: 60, 6: 80}
    assert repr(mapped.results) == "{0: 0, 1: 20, 4: 40, 5: 60, 6: 80}"
    assert list(mapped.results.values()) == [0, 20, 40, 60, 80]
    assert len(mapped.results) == 5
    assert repr(mapped.failed) == "{2: ValueError(5), 3: ValueError(7)}"
    assert mapped.remaining == []
    assert repr(mapped.remaining) == "[]"
    assert repr(nb.last_map()) == (
        f"<{fragile.name}.map: 5 succeeded, 2 failed; .resume() runs what is missing>"
    )
    with pytest.raises(KeyError):
        mapped.results[2]
    with pytest.raises(KeyError):
        mapped.results[7]


def test_failures_that_were_returned_are_run_again(ran: Any) -> None:
    fragile, take = ran
    mapped = fragile.map(range(1_000), return_exceptions=True)
    assert len(list(mapped)) == 1_000
    assert list(mapped.failed) == list(range(1, 1_000, 2))
    again = mapped.resume()
    take()
    returned = list(again)
    assert take() == list(range(1, 1_000, 2))
    assert [index for index, value in enumerate(returned) if isinstance(value, Exception)] == list(
        range(1, 1_000, 2)
    )
    fragile.mend()
    assert list(mapped.resume()) == [10 * x for x in range(1_000)]
    assert take() == list(range(1, 1_000, 2))


def test_only_what_is_missing(ran: Any) -> None:
    fragile, _ = ran
    mapped = fragile.map(range(10), return_exceptions=True)
    list(mapped)
    fragile.mend()
    assert list(mapped.resume(only_missing=True)) == [10, 30, 50, 70, 90]


def test_an_interrupt_carries_what_is_left(live: nb.App, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    @live.function(max_containers=1)
    def opens(x: int) -> int:
        import os
        import time

        while x >= 3 and not os.path.exists(gate):  # noqa: PTH110  imports would travel too
            time.sleep(0.01)
        return x

    mapped = opens.map(range(8))
    seen = [next(mapped) for _ in range(3)]
    assert mapped._iterator is not None
    with pytest.raises(KeyboardInterrupt) as caught:
        mapped._iterator.pieces.throw(KeyboardInterrupt())
    error: Any = caught.value
    assert seen == [0, 1, 2]
    assert error.results == {0: 0, 1: 1, 2: 2}
    assert error.failed == {}
    assert error.remaining == [3, 4, 5, 6, 7]
    assert error.remaining[0] == 3
    assert error.remaining[-1] == 7
    assert error.remaining[1:3] == [4, 5]
    with pytest.raises(IndexError):
        error.remaining[5]
    assert repr(nb.last_map()).startswith(f"<{opens.name}.map: 3 succeeded, 5 remain;")
    Path(gate).touch()
    assert list(nb.last_map().resume()) == list(range(8))


def test_an_endless_iterator_goes_on_where_it_was_left(ran: Any) -> None:
    fragile, _ = ran
    numbers = itertools.chain([0, 2, 1], itertools.count(4, 2))
    mapped = fragile.map(numbers)
    error = failing(mapped)
    settled(mapped)
    assert error.remaining.and_more
    assert "and what the iterator still gives" in repr(error.remaining)
    assert "and more remain" in repr(nb.last_map())
    fragile.mend()
    resumed = error.resume()
    expected = [0, 20, 10, *range(40, 4_000, 20)]
    assert list(itertools.islice(resumed, len(expected))) == expected


def test_a_map_that_is_left_while_it_sends_keeps_what_the_iterator_still_gives(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile, _ = ran
    fragile.mend()
    taken = Feed.take

    def take_and_leave(feed: Feed) -> object:
        batch = taken(feed)
        if batch is None and feed.next_index:
            feed._gate.close()
            feed.over.join()
        return batch

    monkeypatch.setattr(Feed, "take", take_and_leave)
    mapped = fragile.map(itertools.count(0, 2))
    assert next(mapped) == 0
    assert mapped._iterator is not None
    with pytest.raises(KeyboardInterrupt) as caught:
        mapped._iterator.pieces.throw(KeyboardInterrupt())
    error: Any = caught.value
    assert error.remaining.and_more


def test_an_iterator_that_blocks_loses_nothing(ran: Any) -> None:
    fragile, take = ran
    blocked = threading.Event()
    opened = threading.Event()

    def numbers() -> Iterator[int]:
        yield from [0, 2, 1]
        blocked.set()
        opened.wait()
        yield 4
        yield 6

    mapped = fragile.map(numbers())
    error = failing(mapped)
    blocked.wait()
    fragile.mend()
    take()
    results = iter(error.resume())
    assert [next(results) for _ in range(3)] == [0, 20, 10]
    opened.set()
    assert list(results) == [40, 60]
    assert take() == [1, 4, 6]


def test_a_resumed_map_that_fails_is_resumed(ran: Any) -> None:
    fragile, take = ran
    expected = list(range(50))
    error = failing(fragile.map(iter(expected)))
    for _ in range(3):
        again = failing(error.resume())
        assert repr(again).startswith("ValueError(")
        assert sorted([*again.results, *again.failed, *again.remaining])[:2] == [0, 1]
    fragile.mend()
    settled(nb.last_map())
    done = len(nb.last_map().results)
    take()
    assert list(error.resume()) == [10 * x for x in expected]
    assert len(take()) == 50 - done


def test_as_they_are_done(ran: Any) -> None:
    fragile, _ = ran
    error = failing(fragile.map(range(30), order_outputs=False))
    fragile.mend()
    assert sorted(error.resume()) == [10 * x for x in range(30)]


def test_starmap(live: nb.App, tmp_path: Path) -> None:
    mended = str(tmp_path / "mended")

    @live.function
    def divide(a: float, b: float) -> float:
        import os

        return a / (b or os.path.exists(mended))  # noqa: PTH110  imports would travel too

    mapped = divide.starmap([(4, 2), (1, 0), (9, 3)])
    error = failing(mapped)
    Path(mended).touch()
    assert list(error.resume()) == [2, 1, 3]
    assert isinstance(error, ZeroDivisionError)


def test_what_does_not_travel_as_plain_values(ran: Any, live: nb.App, tmp_path: Path) -> None:
    mended = str(tmp_path / "mended")

    @live.function
    def first(xs: list[bytearray]) -> bytearray:
        import os

        if len(xs) % 3 == 0 and not os.path.exists(mended):  # noqa: PTH110  as above
            raise ValueError(len(xs))
        return xs[0]

    inputs = [[bytearray([n])] * n for n in range(1, 60)]
    mapped = first.map(inputs, return_exceptions=True)
    list(mapped)
    Path(mended).touch()
    assert list(mapped.resume()) == [bytearray([n]) for n in range(1, 60)]


def test_for_each(ran: Any, loop: Any) -> None:
    fragile, take = ran
    with pytest.raises(ValueError, match=r"^[135]\n") as caught:  # whichever failed first
        fragile.for_each(range(6))
    error: Any = caught.value
    settled(nb.last_map())
    assert error.results == {}
    assert error.failed.keys() & {1, 3, 5}
    with pytest.raises(ValueError, match="in input"):
        error.resume()
    with pytest.raises(ValueError, match="in input"):
        loop.run(error.resume.aio())
    fragile.for_each(range(6), ignore_exceptions=True)
    assert list(nb.last_map().failed) == [1, 3, 5]
    fragile.mend()
    take()
    assert nb.last_map().resume() is None
    assert take() == [1, 3, 5]


def test_aio(ran: Any, loop: Any) -> None:
    fragile, _ = ran

    async def numbers() -> AsyncIterator[int]:
        for number in itertools.chain([0, 2, 1], range(4, 40, 2)):
            await asyncio.sleep(0)
            yield number

    async def main(source: Any) -> list[int]:
        with pytest.raises(ValueError, match="1") as caught:
            [y async for y in fragile.map.aio(source)]
        error: Any = caught.value
        assert error.results[0] == 0
        fragile.mend()
        return [y async for y in error.resume.aio()]

    expected = [0, 20, 10, *range(40, 400, 20)]
    assert loop.run(main(numbers())) == expected
    assert loop.run(_interrupted(fragile)) == [0, 20, 40]


async def _interrupted(fragile: Any) -> Any:
    async def numbers() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(0.05)
        yield 2
        yield 4

    mapped = fragile.map(numbers())

    async def consume() -> None:
        async for _ in mapped:
            started.set()

    started = asyncio.Event()
    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return [y async for y in mapped.resume()]


def test_an_async_iterable_in_a_blocking_loop_cannot_be_read_on(ran: Any) -> None:
    fragile, _ = ran

    async def numbers() -> AsyncIterator[int]:
        for number in itertools.count():
            yield number

    error = failing(fragile.map(numbers()))
    left = nb.last_map()
    left.run.feed.over.join()
    with pytest.raises(InvalidError, match="async for"):
        error.resume()


def test_a_loop_that_is_left(add: nb.Function[..., int]) -> None:
    mapped = add.map(range(10_000))
    for value in mapped:
        if value == 3:
            break
    wait_until(lambda: mapped.unfinished is not None and mapped.unfinished.run.gate.closed)
    assert mapped.results[0] == 1
    assert list(mapped.resume()) == list(range(1, 10_001))


def test_a_map_whose_iterator_is_kept_ends_when_it_is_resumed(add: nb.Function[..., int]) -> None:
    mapped = add.map(range(120_000))
    iterator = iter(mapped)
    assert next(iterator) == 1
    assert list(mapped.resume()) == list(range(1, 120_001))
    with pytest.raises(CallCancelledError, match=r"add\.map was resumed"):
        list(iterator)


def test_who_waits_in_a_map_that_is_resumed_is_told(ran: Any) -> None:
    fragile, _ = ran
    more: queue.Queue[int] = queue.Queue()
    mapped = fragile.map(iter(more.get, -1))
    more.put(2)
    found: list[object] = []
    iterator = iter(mapped)
    assert next(iterator) == 20
    thread = threading.Thread(target=lambda: found.append(failing(iterator)))
    thread.start()
    wait_until(lambda: mapped.unfinished.run.delivery._waiting is not None)
    rest = mapped.resume()
    thread.join(20)
    assert isinstance(found[0], CallCancelledError)
    more.put(4)
    more.put(-1)
    assert list(rest) == [20, 40]


def test_a_loop_whose_map_has_no_name(add: nb.Function[..., int]) -> None:
    for value in add.map(range(10_001)):
        if value == 3:
            break

    def is_noted() -> bool:
        with contextlib.suppress(NotFoundError):
            return nb.last_map().run.facts.total == 10_001
        return False

    wait_until(is_noted)
    assert list(nb.last_map().resume()) == list(range(1, 10_002))


def test_a_function_is_resumed_as_it_is_now(live: nb.App) -> None:
    def defined(text: str) -> nb.Function[..., Any]:
        space: dict[str, Any] = {}
        exec(text, space)  # noqa: S102  as a cell is run again
        return live.function(name="redefined")(space["f"])

    old = defined("def f(x):\n    return 1 // x")
    error = failing(old.map([1, 0]))
    new = defined("def f(x):\n    return -1")
    assert list(error.resume()) == [1, -1]
    assert new.newest() is new


def test_before_it_is_iterated_there_is_nothing(add: nb.Function[..., int]) -> None:
    mapped = add.map([1])
    with pytest.raises(InvalidError, match="not iterated yet"):
        _ = mapped.results
    assert list(mapped) == [2]
    assert mapped.failed == {}
    assert mapped.remaining == []
    with pytest.raises(InvalidError, match="came to its end"):
        mapped.resume()


def test_an_iterable_that_raised_cannot_be_resumed(add: nb.Function[..., int]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    error = failing(add.map(items()))
    assert error.results == {0: 2}
    with pytest.raises(InvalidError, match=r"LookupError: no more.*from 1 on"):
        error.resume()
    error = failing(add.map([1, threading.Lock()]))
    assert "threading.Lock" in repr(error) or "_thread.lock" in repr(error)
    with pytest.raises(InvalidError, match="SerializationError"):
        error.resume()


def test_the_iterable_raises_while_it_is_resumed(ran: Any) -> None:
    fragile, _ = ran
    opened = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        opened.wait()
        raise LookupError("no more")

    error = failing(fragile.map(items()))
    fragile.mend()
    resumed = error.resume()
    assert next(resumed) == 10
    opened.set()
    with pytest.raises(InvalidError, match="LookupError"):
        next(resumed)


def test_attributes_of_users_stay(live: nb.App) -> None:
    @live.function
    def graded(x: int) -> int:
        error = ValueError("bad")
        error.results = "mine"  # type: ignore[attr-defined]
        raise error

    error = failing(graded.map([1]))
    assert error.results == "mine"
    assert list(error.failed) == [0]


def test_what_an_exception_carries_stays_in_its_process(ran: Any) -> None:
    fragile, _ = ran
    error = failing(fragile.map([1]))
    assert "resume of <" in repr(error.resume)
    assert pickle.loads(pickle.dumps(error)).results is None


def test_too_many_results_are_let_go(
    ran: Any, monkeypatch: pytest.MonkeyPatch, live: nb.App
) -> None:
    fragile, _ = ran
    monkeypatch.setattr(keeping, "MEMORY_BYTES", 0)
    monkeypatch.setattr(keeping, "FILE_BYTES", 0)
    error = failing(fragile.map([0, 2, 1, 4], order_outputs=True))
    assert error.results == {}
    with pytest.raises(InvalidError, match="only_missing=True"):
        error.resume()
    fragile.mend()
    assert 10 in list(error.resume(only_missing=True))


def test_too_many_failures_are_let_go(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fragile, _ = ran
    monkeypatch.setattr(keeping, "FAILED_BYTES", 0)
    mapped = fragile.map([1], return_exceptions=True)
    list(mapped)
    with pytest.raises(InvalidError, match="1 more inputs failed than are kept"):
        mapped.resume()
