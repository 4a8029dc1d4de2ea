from __future__ import annotations

import asyncio
import copy
import pickle
import signal
import threading
from collections.abc import Iterator

import pytest

from kernel_worker.context import RunningInput, current_input
from kernel_worker.model import CallId, Digest, LeaseId, WorkerId
from notebook_ext.twin import Stream, Twin, Waiting, done, halts_loop, stream, twin

INPUT = RunningInput(CallId("fc-1"), 0, 1, WorkerId("ta-1"), LeaseId(1), Digest(""))


class Doubler:
    def __init__(self) -> None:
        self.started: list[int] = []

    @twin
    def double(self, number: int) -> Waiting[int]:
        """Double it."""
        self.started.append(number)
        waiting: Waiting[int] = Waiting()
        threading.Thread(target=waiting.complete, args=(lambda: number * 2,)).start()
        return waiting

    @stream
    def count(self, to: int) -> Iterator[int]:
        """Count."""
        return iter(range(to))


def test_both_surfaces_give_the_same() -> None:
    doubler = Doubler()
    assert doubler.double(2) == 4

    async def main() -> list[int]:
        started = [doubler.double.aio(n) for n in range(3)]
        assert doubler.started == [2, 0, 1, 2]
        return [await each for each in started]

    assert asyncio.run(main()) == [0, 2, 4]
    assert doubler.double.start(5).join() == 10


def test_tasks_take_what_aio_returns() -> None:
    doubler = Doubler()
    assert asyncio.run(doubler.double.aio(4)) == 8

    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(doubler.double.aio(n)) for n in range(3)]
        return [task.result() for task in tasks]

    assert asyncio.run(main()) == [0, 2, 4]


def test_a_task_that_is_cancelled_before_its_first_step_abandons() -> None:
    waiting: Waiting[int] = Waiting()
    gone: list[bool] = []
    waiting.abandoned = lambda: gone.append(True)

    async def main() -> None:
        task = asyncio.create_task(waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert gone == [True]
    waiting.close()


def test_a_surface_can_be_copied() -> None:
    doubler = Doubler()
    assert copy.copy(doubler.double)(3) == 6
    assert pickle.loads(pickle.dumps(doubler.double))(3) == 6
    assert list(pickle.loads(pickle.dumps(doubler.count))(2)) == [0, 1]


def test_arguments_may_have_any_name() -> None:
    class Echo:
        @twin
        def say(self, /, **words: int) -> Waiting[dict[str, int]]:
            return done(words)

        @stream
        def spell(self, /, **words: int) -> list[str]:
            return list(words)

    assert Echo().say(self=1, body=2) == {"self": 1, "body": 2}
    assert Echo().spell(self=1) == Echo().spell.aio(self=1) == ["self"]


def test_surfaces_describe_themselves() -> None:
    doubler = Doubler()
    assert isinstance(Doubler.double, Twin)
    assert isinstance(Doubler.count, Stream)
    assert doubler.double.__doc__ == "Double it."
    assert repr(doubler.double) == f"<double of {doubler!r}, also as .aio>"
    assert list(doubler.count(2)) == list(doubler.count.aio(2)) == [0, 1]
    assert doubler.count.__doc__ == "Count."
    assert repr(doubler.count) == f"<count of {doubler!r}, also as .aio>"
    assert doubler.double.__wrapped__ is not None
    assert doubler.count.__wrapped__ is not None


def test_a_waiting_is_completed_once() -> None:
    waiting: Waiting[int] = Waiting()
    calls: list[str] = []
    waiting.add_callback(lambda: calls.append("early"))
    assert not waiting.wait(0.001)
    assert waiting.complete(lambda: 1, failed=True)
    assert not waiting.complete(lambda: 2)
    waiting.add_callback(lambda: calls.append("late"))
    assert (waiting.join(), waiting.join(), waiting.failed) == (1, 1, True)
    assert calls == ["early", "late"]


def test_results_are_changed_and_dropped() -> None:
    assert done(3).then(lambda n: n + 1).join() == 4
    failing: Waiting[int] = Waiting()
    changed, dropped = failing.then(str), failing.dropping_result()
    failing.complete(_fail, failed=True)
    assert changed.failed
    assert dropped.join() is None
    with pytest.raises(ZeroDivisionError):
        changed.join()


def _fail() -> int:
    raise ZeroDivisionError


def test_an_interrupt_abandons() -> None:
    waiting: Waiting[int] = Waiting()
    gone: list[bool] = []
    waiting.abandoned = lambda: gone.append(True)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt) as caught:
            waiting.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert gone == [True]
    assert caught.value._render_traceback_() == ["KeyboardInterrupt"]  # type: ignore[attr-defined]


def test_a_cancelled_task_abandons() -> None:
    waiting: Waiting[int] = Waiting()
    gone: list[bool] = []
    waiting.abandoned = lambda: gone.append(True)

    async def main() -> None:
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert gone == [True]
    waiting.complete(lambda: 1)  # its loop is closed: nothing happens
    waiting.abandon()
    assert gone == [True]


@pytest.mark.parametrize("surface", ["sync", "aio"])
def test_an_input_of_a_worker_says_that_it_waits(surface: str) -> None:
    waiting: Waiting[int] = Waiting()
    told: list[bool] = []
    waiting.announce = lambda _, begins: told.append(begins)
    threading.Timer(0.02, waiting.complete, args=(lambda: 1,)).start()
    token = current_input.set(INPUT)
    try:
        if surface == "sync":
            waiting.join()
        else:

            async def main() -> int:
                return await waiting

            asyncio.run(main())
    finally:
        current_input.reset(token)
    assert told == [True, False]


def test_a_blocking_wait_inside_a_running_loop_halts_it() -> None:
    told: list[tuple[bool, bool]] = []

    def wait() -> None:
        waiting: Waiting[int] = Waiting()
        waiting.announce = lambda _, begins: told.append((begins, halts_loop()))
        threading.Timer(0.02, waiting.complete, args=(lambda: 1,)).start()
        waiting.join()

    async def main() -> None:
        wait()

    token = current_input.set(INPUT)
    try:
        wait()
        asyncio.run(main())
    finally:
        current_input.reset(token)
    assert told == [(True, False), (False, False), (True, True), (False, True)]
    assert not halts_loop()
