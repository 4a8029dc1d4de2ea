"""`nb.Executor` behaves as the standard executors do, on kernel workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.integrations.executor import BrokenExecutor
from tests.waiting import wait_until


def opened(gate: Path, value: Any = None) -> Any:
    """Wait for a file, in a worker."""
    import time

    while not gate.exists():
        time.sleep(0.01)
    return value


def square(x: int) -> int:
    return x * x


def ending() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(x: Any) -> None:
    raise ValueError(x)


@pytest.fixture
def executor(live: nb.App) -> Iterator[nb.Executor]:
    assert live.name
    with nb.Executor(2) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def test_values_and_exceptions_come_back(executor: nb.Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.submit(pow, 2, 5).result() == 32
    assert executor.submit(int, "11", base=2).result() == 3
    with pytest.raises(ValueError, match="odd"):
        executor.submit(failing, "odd").result()
    with pytest.raises(nb.exception.SerializationError, match=r"^args\[0\] \(a _thread.lock"):
        executor.submit(square, threading.Lock()).result()  # type: ignore[arg-type]
    with pytest.raises(pickle.PicklingError, match=r"^kwargs\['base'\] "):
        executor.submit(int, "1", base=threading.Lock()).result()  # type: ignore[arg-type]
    done = [each.result() for each in as_completed([executor.submit(square, x) for x in range(9)])]
    assert sorted(done) == [x * x for x in range(9)]


def test_wait_says_what_is_done(executor: nb.Executor, gate: Path) -> None:
    held = executor.submit(opened, gate)
    quick = executor.submit(square, 2)
    assert wait([held, quick], return_when=FIRST_COMPLETED) == ({quick}, {held})
    failed = executor.submit(failing, 1)
    assert wait([held, failed], return_when=FIRST_EXCEPTION) == ({failed}, {held})
    assert held.running()
    assert not held.cancel()
    with pytest.raises(TimeoutError):
        held.result(timeout=0.01)
    gate.touch()
    assert held.result() is None


def test_what_is_not_under_way_can_be_cancelled(executor: nb.Executor, gate: Path) -> None:
    futures = [executor.submit(opened, gate, x) for x in range(9)]
    assert [each.running() for each in futures] == [True] * 4 + [False] * 5
    assert futures[-1].cancel()
    assert not futures[0].cancel()
    gate.touch()
    assert [each.result() for each in futures[:-1]] == list(range(8))


def test_map_is_lazy_or_not_in_order_and_in_chunks(executor: nb.Executor, gate: Path) -> None:
    assert list(executor.map(pow, range(5), [2] * 9)) == [0, 1, 4, 9, 16]
    assert list(executor.map(square, range(10), chunksize=4)) == [x * x for x in range(10)]
    assert list(executor.map(square, ())) == []
    pulled: list[int] = []

    def inputs() -> Iterator[int]:
        for x in range(20):
            pulled.append(x)
            yield x

    some = executor.map(square, inputs(), buffersize=3)
    assert pulled == [0, 1, 2]
    assert next(some) == 0
    assert pulled == [0, 1, 2, 3]
    assert list(some) == [x * x for x in range(1, 20)]
    late = executor.map(opened, [gate], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(late)
    with pytest.raises(ValueError, match="2"):
        list(executor.map(failing, [2, 3]))
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(square, [1], buffersize=0)


def test_a_map_that_is_left_cancels_the_rest(executor: nb.Executor, gate: Path) -> None:
    held = executor.map(opened, [gate] * 20, range(20))
    gate.touch()
    assert next(held) == 0
    held.close()  # type: ignore[attr-defined]
    assert executor.submit(square, 3).result() == 9


def test_after_shutdown_nothing_is_taken_and_everything_is_done(live: nb.App, gate: Path) -> None:
    assert live.name
    executor = nb.Executor(2)
    futures = [executor.submit(opened, gate, x) for x in range(9)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    gate.touch()
    executor.shutdown()
    assert all(each.done() for each in futures)
    assert [each.result() for each in futures] == list(range(9))


def test_shutdown_can_cancel_what_waits(live: nb.App, gate: Path) -> None:
    assert live.name
    executor = nb.Executor(2)
    futures = [executor.submit(opened, gate, x) for x in range(9)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert [each.cancelled() for each in futures] == [False] * 4 + [True] * 5
    gate.touch()
    executor.shutdown()
    assert [each.result() for each in futures[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize("ended", ["shut down", "dropped"])
def test_its_workers_leave_with_it(live: nb.App, ended: str) -> None:
    assert live.name
    executor = nb.Executor(2)
    stats = executor._function.get_current_stats
    assert executor.submit(square, 2).result() == 4
    assert stats().num_total_runners == 1
    if ended == "shut down":
        executor.shutdown()
    del executor
    wait_until(lambda: stats().num_total_runners == 0, 20, "no worker of it is left")


def test_its_workers_run_at_once_however_many(live: nb.App, tmp_path: Path) -> None:
    assert live.name

    def met(number: int) -> int:
        (tmp_path / str(number)).touch()
        for other in range(5):
            opened(tmp_path / str(other))
        return os.getpid()

    with nb.Executor(5) as executor:
        assert len(set(executor.map(met, range(5)))) == 5


given = "nothing"


def prepared(value: str) -> None:
    global given  # noqa: PLW0603  what initializers are for
    given = value


def given_there(_: int) -> str:
    return given


def noted(path: str) -> None:
    with Path(path).open("a") as log:
        log.write(f"{os.getpid()}\n")


@pytest.mark.parametrize("typed", [False, True], ids=["in a module", "in a cell"])
def test_functions_see_what_the_initializer_has_set(
    live: nb.App, typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live.name
    if typed:  # then they travel by value
        monkeypatch.setattr(prepared, "__module__", "__main__")
        monkeypatch.setattr(given_there, "__module__", "__main__")
    with nb.Executor(2, object(), prepared, ["set"]) as executor:
        assert set(executor.map(given_there, range(10))) == {"set"}
        assert executor.submit(given_there, 1).result() == "set"


def test_an_initializer_runs_once_in_each_worker(live: nb.App, tmp_path: Path) -> None:
    assert live.name
    source = tmp_path / "log"
    with nb.Executor(2, initializer=noted, initargs=[str(source)]) as executor:
        list(executor.map(square, range(100)))
    started = source.read_text().split()
    assert len(started) == len(set(started)) <= 2


def test_an_initializer_that_fails_breaks_it(
    live: nb.App, caplog: pytest.LogCaptureFixture
) -> None:
    assert live.name
    executor = nb.Executor(1, initializer=failing, initargs=("no model",))
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"):
        futures = [executor.submit(square, x) for x in range(9)]
        for each in futures:
            with pytest.raises(BrokenExecutor, match="ValueError: no model"):
                each.result()
    assert "Exception in initializer" in caplog.text
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executor.submit(square, 1)
    executor.shutdown()


def test_a_worker_that_dies_breaks_nothing(executor: nb.Executor, tmp_path: Path) -> None:
    died = tmp_path / "died"

    def fragile(x: int) -> int:
        if x == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    assert list(executor.map(fragile, range(8))) == list(range(8))


def test_a_worker_that_dies_again_and_again_fails_its_own_future(executor: nb.Executor) -> None:
    lost = executor.submit(ending)
    other = executor.submit(square, 3)
    with pytest.raises(concurrent.futures.BrokenExecutor, match="SIGKILL") as raised:
        lost.result()
    assert isinstance(raised.value, nb.exception.InternalFailure)
    assert other.result() == 9
    assert executor.submit(square, 4).result() == 16


def test_what_has_not_started_yet_can_be_abandoned(executor: nb.Executor, gate: Path) -> None:
    futures = [executor.submit(opened, gate, x) for x in range(9)]
    executor.abandon(futures)
    assert [each.cancelled() for each in futures] == [False] * 4 + [True] * 5
    for each in futures[:4]:
        with pytest.raises(nb.exception.CallCancelledError):
            each.result()
    assert not gate.exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # it leaves no process
def test_objects_of_managers_can_be_used(executor: nb.Executor) -> None:
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.list([1])
        executor.submit(shared.append, 2).result()
        assert list(shared) == [1, 2]


def test_a_result_is_held_by_who_takes_it_alone(executor: nb.Executor) -> None:
    made: set[int]
    seen: weakref.ref[set[int]]
    for made in executor.map(set, [(1,)] * 4, chunksize=2):
        seen = weakref.ref(made)
        del made
        assert seen() is None


def test_a_shutdown_while_something_cannot_be_pickled(live: nb.App) -> None:
    assert live.name
    with nb.Executor(2) as executor:
        assert executor.submit(id, 42).result()
        failed = executor.submit(square, threading.Lock())  # type: ignore[arg-type]
        thread = executor._thread
        executor.shutdown(wait=False)
        with pytest.raises(pickle.PicklingError):
            failed.result()
    assert thread is not None
    thread.join()


def test_coroutines_wait_for_it(executor: nb.Executor) -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(executor, square, x) for x in range(4)]
        return await asyncio.gather(*waiting)

    assert asyncio.run(run()) == [0, 1, 4, 9]


def test_callbacks_may_wait_for_others(executor: nb.Executor) -> None:
    seen: list[int] = []
    done = threading.Event()

    def then(first: concurrent.futures.Future[int]) -> None:
        again = executor.submit(square, first.result())
        again.add_done_callback(last)

    def last(second: concurrent.futures.Future[int]) -> None:
        seen.append(second.result())
        done.set()

    executor.submit(square, 2).add_done_callback(then)
    assert done.wait(30)
    assert seen == [16]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="max_workers"):
        nb.Executor(0)
    with pytest.raises(TypeError, match="initializer"):
        nb.Executor(1, initializer=3)  # type: ignore[arg-type]


SCRIPT = """
import notebook_ext as nb

def late():
    import time
    time.sleep(0.5)
    return "done at the exit"

executor = nb.Executor(1)
executor.submit(late).add_done_callback(lambda future: print(future.result()))
print("the end")
"""


def test_a_script_ends_when_everything_is_done(live: nb.App, tmp_path: Path) -> None:
    assert live.name
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert ended.stdout == "the end\ndone at the exit\n"
    assert ended.stderr == ""


LATE = """
import atexit
import notebook_ext as nb

@atexit.register
def run_last():
    try:
        executor.submit(pow, 2, 3)
    except RuntimeError as error:
        print(error)

executor = nb.Executor(1)
"""


def test_at_the_exit_nothing_is_taken_any_more(live: nb.App) -> None:
    assert live.name
    command = [sys.executable, "-c", LATE]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert ended.stdout == "cannot schedule new futures after interpreter shutdown\n"
