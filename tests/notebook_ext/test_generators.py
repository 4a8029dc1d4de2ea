"""Generators: iterated either way, credited as they are read, left when they are dropped."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

import notebook_ext as nb
from kernel_worker.errors import CallCancelledError, InvalidError, NotFoundError
from kernel_worker.model import CallId, NoValue, Outcome
from notebook_ext.generators import CREDIT_ITEMS, AttachedRun, RemoteGenerator, Replay
from notebook_ext.submission import Ended
from tests.notebook_ext.talk import inputs, submission, values
from tests.waiting import wait_until

CALL = CallId("fc-1")


class FakeSession:
    """Writes down what runs ask of it; its output is silent."""

    is_usable = True
    is_strict = True

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def output(self, _: str, __: str = "") -> FakeSession:
        return self

    def after(self, act: Any, *args: Any) -> None:
        act(*args)

    def submit(self, said: Any, count: int, frames: Any) -> None:
        self.asked.append(("submit", said.call, count, len(frames)))

    def cancel(self, call: CallId) -> None:
        self.asked.append(("cancel", call))

    def credit(self, call: CallId, items: int, item_bytes: int) -> None:
        self.asked.append(("credit", call, items, item_bytes))

    def attach(self, call: CallId, _: Any, *, items: bool) -> None:
        self.asked.append(("attach", call, items))

    def detach(self, call: CallId, _: Any) -> None:
        self.asked.append(("detach", call))


def attached() -> tuple[FakeSession, AttachedRun, RemoteGenerator[Any]]:
    session = FakeSession()
    said = submission("fc-1", None, streams=True)
    run = AttachedRun(cast("Any", session), said, "f", inputs(1))
    return session, run, RemoteGenerator("f.remote_gen", lambda: run)


def give(run: Any, start: int, *items: object) -> None:
    run.yielded(start, len(items), values(*items))


def end(run: Any) -> None:
    run.succeeded(0, 1, 0, values(NoValue.ITEMS_GIVEN))


async def collected(source: Any) -> list[Any]:
    return [item async for item in source]


def test_it_starts_with_the_first_item() -> None:
    session, run, generator = attached()
    assert repr(generator) == "<f.remote_gen, not begun yet>"
    items = iter(generator)
    assert session.asked == [("submit", CALL, 1, 2)]
    assert repr(generator) == "<f.remote_gen, begun>"
    give(run, 0, "a", "b")
    assert (next(generator), next(items)) == ("a", "b")
    end(run)
    assert list(items) == []


def test_what_is_told_twice_is_yielded_once() -> None:
    _, run, generator = attached()
    items = iter(generator)
    give(run, 0, 1, 2)
    give(run, 0, 1, 2)
    give(run, 2, 3)
    end(run)
    assert list(items) == [1, 2, 3]


def test_what_was_read_is_credited_now_and_then() -> None:
    session, run, generator = attached()
    items = iter(generator)
    give(run, 0, *range(CREDIT_ITEMS - 1))
    for _ in range(CREDIT_ITEMS - 1):
        next(items)
    give(run, CREDIT_ITEMS - 1, "one", "more")
    next(items)
    size = sum(map(len, values(*range(CREDIT_ITEMS - 1))))
    assert session.asked[1:] == [("credit", CALL, CREDIT_ITEMS, size)]


def test_large_items_are_credited_one_by_one() -> None:
    session, run, generator = attached()
    items = iter(generator)
    for start in range(2):
        give(run, start, bytes(3 << 20))
    next(items)
    next(items)
    assert len(session.asked) == 1
    end(run)
    assert list(items) == []
    assert [what for what, *_ in session.asked[1:]] == ["credit"]


def test_how_it_ended_comes_behind_the_items() -> None:
    _, run, generator = attached()
    items = iter(generator)
    give(run, 0, 1)
    run.ended(Ended(0, 1, Outcome.CANCELLED, 1, "", None))
    assert next(items) == 1
    with pytest.raises(CallCancelledError):
        next(items)
    _, run, generator = attached()
    items = iter(generator)
    run.rejected("NotFoundError", "gone")
    with pytest.raises(NotFoundError, match="gone"):
        next(items)


def test_dropping_it_leaves_the_run() -> None:
    session, run, generator = attached()
    items = iter(generator)
    give(run, 0, 1, 2)
    assert next(items) == 1
    del generator
    gc.collect()
    assert ("cancel", CALL) not in session.asked
    del items
    wait_until(lambda: ("cancel", CALL) in session.asked)


def test_closing_it_leaves_the_run() -> None:
    session, run, generator = attached()
    with generator as opened:
        items = iter(opened)
        give(run, 0, 1, 2)
        assert next(items) == 1
    assert session.asked[-1] == ("cancel", CALL)
    assert list(items) == []
    generator.close()
    assert session.asked.count(("cancel", CALL)) == 1
    _, _, unbegun = attached()
    unbegun.close()
    with pytest.raises(InvalidError, match="was closed"):
        iter(unbegun)


def test_it_is_iterated_in_a_loop(loop: asyncio.Runner) -> None:
    async def read() -> tuple[list[Any], list[Any]]:
        session, run, generator = attached()
        first = asyncio.ensure_future(anext(generator))
        await asyncio.sleep(0)
        give(run, 0, 1, 2)
        got = [await first]
        rest = asyncio.create_task(collected(generator))
        await asyncio.sleep(0)
        give(run, 2, 3)
        end(run)
        return got + await rest, session.asked

    got, asked = loop.run(read())
    assert got == [1, 2, 3]
    assert [what for what, *_ in asked] == ["submit"]


def test_a_task_that_is_cancelled_leaves_it(loop: asyncio.Runner) -> None:
    async def read() -> list[Any]:
        session, _, generator = attached()
        task = asyncio.create_task(collected(generator))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await generator.aclose()
        return session.asked

    assert [what for what, *_ in loop.run(read())] == ["submit", "cancel"]


def test_an_error_in_a_loop_comes_behind_the_items(loop: asyncio.Runner) -> None:
    async def read() -> list[Any]:
        _, run, generator = attached()
        aiter(generator)
        give(run, 0, 1)
        run.ended(Ended(0, 1, Outcome.CANCELLED, 1, "", None))
        got = []
        with pytest.raises(CallCancelledError):
            async for item in generator:
                got.append(item)  # noqa: PERF401  they stay when it raises
        return got

    assert loop.run(read()) == [1]


def test_it_is_iterated_one_way() -> None:
    _, _, generator = attached()
    iter(generator)
    with pytest.raises(InvalidError, match="at once"):
        aiter(generator)
    _, _, other = attached()
    aiter(other)
    with pytest.raises(InvalidError, match="at once"):
        iter(other)


def test_a_replay_is_read_and_left_alone() -> None:
    session = FakeSession()
    run = Replay(cast("Any", session), CALL, "f", cast("Any", session))
    items = iter(RemoteGenerator[Any]("f.get_gen", lambda: run))
    give(run, 0, *range(100))
    end(run)
    assert list(items) == list(range(100))
    assert session.asked == [("attach", CALL, True), ("detach", CALL)]


def test_what_is_no_generator_has_no_items() -> None:
    session = FakeSession()
    run = Replay(cast("Any", session), CALL, "f", cast("Any", session))
    items = iter(RemoteGenerator[Any]("f.get_gen", lambda: run))
    run.succeeded(0, 1, 0, values(None))
    with pytest.raises(InvalidError, match=r"f is no generator: call \.get\(\)"):
        next(items)


def test_in_this_process(live: nb.App, loop: asyncio.Runner) -> None:
    @live.function
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @live.function
    async def counts(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @live.function
    def total(n: int) -> int:
        return sum(count.remote_gen(n))

    assert list(count.remote_gen(100)) == list(range(100))
    assert loop.run(collected(counts.remote_gen.aio(100))) == list(range(100))
    assert total.remote(300) == sum(range(300))
    assert list(count.local(3)) == list(count(3)) == [0, 1, 2]
    assert pickle.loads(pickle.dumps(count)).is_generator
    call = count.spawn(5)
    again = nb.FunctionCall.from_id(call.object_id, is_generator=True)
    by_id = nb.FunctionCall.from_id(call.object_id)
    assert list(call.get_gen()) == list(again.get_gen()) == list(by_id.get_gen()) == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidError, match="is a generator"):
        by_id.get()


def test_what_says_of_itself_what_it_is_not(live: nb.App) -> None:
    def gives() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidError, match=r"is_generator=False: .*gives is a generator"):
        live.function(is_generator=False)(gives)
    with pytest.raises(InvalidError, match=r"retries=3: .*allowed is 0"):
        live.function(retries=3)(gives)
    function = live.function(gives)
    for call in ("remote", "map", "starmap", "for_each", "spawn_map"):
        with pytest.raises(InvalidError, match="is a generator"):
            getattr(function, call)([])
    with pytest.raises(InvalidError, match="is no generator"):
        live.function(lambda: None).remote_gen()
