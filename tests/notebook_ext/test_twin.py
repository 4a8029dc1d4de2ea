from __future__ import annotations

import asyncio
import copy
import operator
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from kernel_worker.context import RunningInput, current_input
from kernel_worker.model import CallId, Digest, LeaseId, WorkerId
from notebook_ext.twin import (
    LOOK_SECONDS,
    BoundTwin,
    Stream,
    Twin,
    Waiting,
    class_twin,
    done,
    halts_loop,
    in_thread,
    stream,
    twin,
)
from tests.waiting import PATIENCE

INPUT = RunningInput(CallId("fc-1"), 0, 1, WorkerId("ta-1"), LeaseId(1), Digest(""))


def _look_up(kind: type[Doubler], /, name: str) -> Waiting[str]:
    """Look it up."""
    return in_thread(lambda: f"{kind.__name__} {name}")


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

    lookup = class_twin(_look_up)


class Tripler(Doubler): ...


def test_class_methods_have_both_surfaces(loop: asyncio.Runner) -> None:
    assert (Doubler.lookup("a"), Tripler.lookup("a")) == ("Doubler a", "Tripler a")
    assert loop.run(Tripler.lookup.aio("b")) == Tripler().lookup("b") == "Tripler b"
    assert Doubler.lookup.__doc__ == "Look it up."
    assert copy.copy(Doubler.lookup)("a") == "Doubler a"


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


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread in so many seconds, as the stop button does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_abandons() -> None:
    waiting: Waiting[int] = Waiting()
    gone: list[bool] = []
    waiting.abandoned = lambda: gone.append(True)
    with alarm(0.05), pytest.raises(KeyboardInterrupt) as caught:
        waiting.join()
    assert gone == [True]
    assert caught.value._render_traceback_() == ["KeyboardInterrupt"]  # type: ignore[attr-defined]


def test_an_interrupt_before_the_wait_begins_shows_nothing_of_ours() -> None:
    class Busy:
        @twin
        def call(self) -> Waiting[int]:
            raise KeyboardInterrupt

        @stream
        def items(self) -> Iterator[int]:
            raise KeyboardInterrupt

    for surface in (Busy().call, Busy().items):
        with pytest.raises(KeyboardInterrupt) as caught:
            surface()
        assert caught.value._render_traceback_() == ["KeyboardInterrupt"]  # type: ignore[attr-defined]


def test_an_interrupt_that_a_function_raised_is_shown_whole() -> None:
    def raised() -> int:
        raise KeyboardInterrupt

    class Ended:
        @twin
        def call(self) -> Waiting[int]:
            waiting: Waiting[int] = Waiting()
            waiting.complete(raised, failed=True)
            return waiting

    with pytest.raises(KeyboardInterrupt) as caught:
        Ended().call()
    assert not hasattr(caught.value, "_render_traceback_")


class Gate:
    """A waiting's lock, around whose acquisition something happens."""

    def __init__(self, waiting: Waiting[int]) -> None:
        self.lock = waiting._gate
        self.acquire: Callable[..., bool] = self.lock.acquire
        self.release: Callable[[], None] = self.lock.release
        waiting._gate = self  # type: ignore[assignment]


def test_an_interrupt_just_before_the_sleep_is_heard() -> None:
    """It comes when no more Python runs before the lock is waited for, and so wakes nobody."""
    waiting: Waiting[int] = Waiting()
    gate = Gate(waiting)
    busy = partial(sum, range(10_000_000))  # some 0.1 s in which no signal is looked at

    def acquire(timeout: float) -> bool:
        gate.acquire = gate.lock.acquire
        steps = (busy, partial(gate.lock.acquire, timeout=timeout))
        return bool(deque(map(operator.methodcaller("__call__"), steps), maxlen=1).pop())

    gate.acquire = acquire
    ends = threading.Timer(20 * PATIENCE, waiting.complete, args=(lambda: 1,))
    ends.start()
    with alarm(0.01), pytest.raises(KeyboardInterrupt):
        waiting.join()
    assert not waiting.done
    ends.cancel()


def test_an_interrupt_just_behind_the_gate_lets_others_pass() -> None:
    waiting: Waiting[int] = Waiting()
    gate = Gate(waiting)
    lock = gate.lock
    other = threading.Thread(target=lock.acquire)  # waits as `wait` does, at the real one
    other.start()

    def acquire(timeout: float) -> bool:
        """Get the gate as it opens, before `other`, and be interrupted."""
        gate.release = lambda: None
        waiting.complete(lambda: 1)
        gate.release = lock.release
        raise KeyboardInterrupt

    gate.acquire = acquire
    with pytest.raises(KeyboardInterrupt):
        waiting.wait()
    other.join(10 * PATIENCE)
    assert not other.is_alive()
    waiting._open_gate()
    waiting._open_gate()  # it may stand open


def test_an_interrupt_before_the_wait_abandons() -> None:
    gone: list[bool] = []

    class Interrupted(Waiting[int]):
        def join(self) -> int:
            raise KeyboardInterrupt

    waiting = Interrupted()
    waiting.abandoned = lambda: gone.append(True)
    with pytest.raises(KeyboardInterrupt):
        BoundTwin(lambda: waiting)()
    assert gone == [True]


def test_a_wait_of_the_main_thread_ends_in_time() -> None:
    waiting: Waiting[int] = Waiting()
    assert not waiting.wait(0)
    begun = time.monotonic()
    assert not waiting.wait(LOOK_SECONDS * 1.5)
    assert time.monotonic() - begun >= LOOK_SECONDS * 1.5
    threading.Timer(LOOK_SECONDS * 1.5, waiting.complete, args=(lambda: 1,)).start()
    assert waiting.join() == 1


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


def test_whoever_waits_in_a_thread_does_what_is_offered_and_waits_on() -> None:
    waiting: Waiting[int] = Waiting()
    done: list[object] = []

    def act(waits: bool) -> None:
        assert waits
        done.append(threading.get_ident())
        if len(done) == 2:
            waiting.complete(lambda: 7)

    assert waiting.offer(act), "before anybody waits"
    threading.Timer(0.05, waiting.offer, [act]).start()
    assert waiting.join() == 7
    assert done == [threading.get_ident()] * 2
    assert not waiting.offer(act), "nobody waits any more"
    assert waiting.join() == 7


def test_a_task_that_waits_is_offered_nothing(loop: asyncio.Runner) -> None:
    waiting: Waiting[int] = Waiting()

    declined = threading.Event()
    assert waiting.offer(lambda waits: None if waits else declined.set()), "nobody waits yet"

    async def main() -> int:
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        assert not waiting.offer(lambda _: None)
        assert declined.wait(20)
        waiting.complete(lambda: 7)
        return await task

    assert loop.run(main()) == 7
