"""API.md section 3, `cancel()`: what ends, how, what the function sees, and what is told of it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.api.surfaces import Lines
from tests.acceptance.conftest import HEAD, ScriptRunner

DEFINE = """
import asyncio, os, threading, time

def mark(path, word):
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f'{word}\\n'.encode())
    os.close(handle)

def marks(path):
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []

def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never came to that'
        time.sleep(0.01)

def how(call, **options):
    try:
        return call.get(**options)
    except BaseException as error:
        return type(error).__name__

@app.function(max_containers=2)
def sleeps(path, name):
    try:
        mark(path, f'{name}-began')  # who reads it may cancel before the next line begins
        time.sleep(60)
    except BaseException as error:
        mark(path, f'{name}-{type(error).__name__}')
        raise
    finally:
        mark(path, f'{name}-finally')

@app.function(max_containers=2)
def quick(x):
    return x
"""


@pytest.fixture
def defined(lines: Lines) -> Lines:
    """Return each surface with functions that can be cancelled and say what they saw."""
    lines.run(DEFINE)
    return lines


def value(lines: Lines, source: str) -> Any:
    """Execute lines, of which the last one is an expression; return the literal that it gives."""
    body, _, last = textwrap.dedent(source).strip().rpartition("\n")
    lines.run(body)
    return lines.value(last)


def test_a_running_sync_function_gets_input_cancellation(defined: Lines, tmp_path: Path) -> None:
    """Says "A running sync function gets `InputCancellation` … `finally` blocks run"."""
    found = value(
        defined,
        f"""
        seen_at = {str(tmp_path / "log")!r}
        call = sleeps.spawn(seen_at, 'a')
        until(lambda: marks(seen_at))
        call.cancel()
        told = how(call)
        until(lambda: len(marks(seen_at)) == 3)
        told, marks(seen_at), call.status().state
        """,
    )
    marks = ["a-began", "a-InputCancellation", "a-finally"]
    assert found == ("CallCancelledError", marks, "cancelled")


def test_a_running_async_function_gets_cancelled_error(defined: Lines, tmp_path: Path) -> None:
    """Says "an async one `CancelledError`"."""
    found = value(
        defined,
        f"""
        @app.function()
        async def waits(path):
            mark(path, 'began')
            try:
                await asyncio.sleep(60)
            except BaseException as error:
                mark(path, type(error).__name__)
                raise
            finally:
                mark(path, 'finally')

        seen_at = {str(tmp_path / "log")!r}
        call = waits.spawn(seen_at)
        until(lambda: marks(seen_at))
        call.cancel()
        told = how(call)
        until(lambda: len(marks(seen_at)) == 3)
        told, marks(seen_at)
        """,
    )
    assert found == ("CallCancelledError", ["began", "CancelledError", "finally"])


def test_input_cancellation_is_no_exception_of_users(defined: Lines, tmp_path: Path) -> None:
    """`InputCancellation` is "a `BaseException`": `except Exception` does not swallow it."""
    found = value(
        defined,
        f"""
        @app.function()
        def guarded(path):
            while True:
                try:
                    mark(path, 'began')
                    time.sleep(60)
                except Exception:
                    mark(path, 'swallowed')

        seen_at = {str(tmp_path / "log")!r}
        call = guarded.spawn(seen_at)
        until(lambda: marks(seen_at))
        call.cancel()
        how(call), marks(seen_at), issubclass(nb.exception.InputCancellation, Exception)
        """,
    )
    assert found == ("CallCancelledError", ["began"], False)


def test_what_was_reported_is_the_outcome(defined: Lines, tmp_path: Path) -> None:
    """A function that swallows its cancellation and returns has succeeded."""
    found = value(
        defined,
        f"""
        @app.function()
        def stubborn(path):
            try:
                mark(path, 'began')
                time.sleep(60)
            except nb.exception.InputCancellation:
                return 'saved'

        seen_at = {str(tmp_path / "log")!r}
        call = stubborn.spawn(seen_at)
        until(lambda: marks(seen_at))
        call.cancel()
        how(call), call.status().state
        """,
    )
    assert found == ("saved", "succeeded")


def test_the_main_thread_is_interrupted_where_users_threads_work(
    defined: Lines, tmp_path: Path
) -> None:
    """Says "raised in its main thread": threads that the function started are its own business."""
    found = value(
        defined,
        f"""
        @app.function()
        def threaded(path):
            stop = threading.Event()
            thread = threading.Thread(target=lambda: (mark(path, 'began'), stop.wait()))
            try:
                thread.start()
                thread.join()
            finally:
                stop.set()
                thread.join()
                mark(path, 'joined')

        seen_at = {str(tmp_path / "log")!r}
        call = threaded.spawn(seen_at)
        until(lambda: marks(seen_at))
        call.cancel()
        told = how(call)
        until(lambda: len(marks(seen_at)) == 2)
        told, marks(seen_at)
        """,
    )
    assert found == ("CallCancelledError", ["began", "joined"])


def test_inputs_that_have_not_started_never_start(defined: Lines, tmp_path: Path) -> None:
    """Says "inputs not started never start"."""
    found = value(
        defined,
        f"""
        @app.function(max_containers=1)
        def one_by_one(index, path):
            mark(path, index)
            if index == 2:
                time.sleep(60)
            return index

        seen_at = {str(tmp_path / "log")!r}
        call = one_by_one.spawn_map(range(50), kwargs={{'path': seen_at}})
        until(lambda: '2' in marks(seen_at))
        call.cancel()
        ends = [how(call, index=index) for index in range(50)]
        status = call.status()
        ends[:2], set(ends[2:]), marks(seen_at), (status.succeeded, status.cancelled)
        """,
    )
    assert found == ([0, 1], {"CallCancelledError"}, ["0", "1", "2"], (2, 48))


def test_children_of_a_cancelled_input_are_cancelled(defined: Lines, tmp_path: Path) -> None:
    """Says "Children of a cancelled input are cancelled too": attached and spawned ones."""
    found = value(
        defined,
        f"""
        @app.function(max_containers=4)
        def middle(path):
            sleeps.remote(path, 'attached')

        @app.function(max_containers=4)
        def top(path):
            sleeps.spawn(path, 'spawned')
            middle.remote(path)

        seen_at = {str(tmp_path / "log")!r}
        call = top.spawn(seen_at)
        until(lambda: len(marks(seen_at)) == 2)
        call.cancel()
        told = how(call)
        until(lambda: len(marks(seen_at)) == 6)

        def statuses(nodes):
            return [(n.function_name, n.status.name, statuses(n.children)) for n in nodes]

        until(lambda: not any(c.state == 'running' for c in nb.calls(app)))
        told, sorted(marks(seen_at)), statuses(call.get_call_graph())
        """,
    )
    marks = [
        f"{name}-{what}"
        for name in ("attached", "spawned")
        for what in ("InputCancellation", "began", "finally")
    ]
    down: list[object] = [
        ("sleeps", "TERMINATED", []),
        ("middle", "TERMINATED", [("sleeps", "TERMINATED", [])]),
    ]
    assert found == ("CallCancelledError", sorted(marks), [("top", "TERMINATED", down)])


@pytest.mark.clock
def test_terminate_containers_kills_and_other_inputs_run_again_elsewhere(
    defined: Lines, tmp_path: Path
) -> None:
    """Says "`terminate_containers=True` kills the workers; other inputs on them are re-run"."""
    found = value(
        defined,
        f"""
        @app.function(max_containers=1)
        def deaf(path, name, seconds):
            mark(path, f'{{name}}-{{os.getpid()}}')
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    time.sleep(0.05)
                except BaseException:
                    pass
            return name

        seen_at = {str(tmp_path / "log")!r}
        call = deaf.spawn(seen_at, 'deaf', 60)
        other = deaf.spawn(seen_at, 'other', 0)
        until(lambda: marks(seen_at))
        begun = time.monotonic()
        call.cancel(terminate_containers=True)
        told, seconds = how(call), time.monotonic() - begun
        value = other.get()
        pids = [word.rpartition('-')[2] for word in marks(seen_at)]
        told, value, seconds < 4, len(pids), pids[0] != pids[1]
        """,
    )
    assert found == ("CallCancelledError", "other", True, 2, True)


@pytest.mark.clock
def test_cancelling_what_waits_for_a_retry(defined: Lines) -> None:
    """Says "inputs not started never start": a retry that is delayed is none that starts."""
    found = value(
        defined,
        """
        @app.function(retries=nb.Retries(max_retries=3, initial_delay=50))
        def fails():
            raise ValueError('again')

        call = fails.spawn()
        until(lambda: call.get_call_graph()[0].attempt == 2)
        begun = time.monotonic()
        call.cancel()
        how(call), time.monotonic() - begun < 10, call.get_call_graph()[0].status.name
        """,
    )
    assert found == ("CallCancelledError", True, "TERMINATED")


def test_cancelling_while_the_worker_starts(defined: Lines, tmp_path: Path) -> None:
    """Says "inputs not started never start", also where the worker is on its way."""
    found = value(
        defined,
        f"""
        @app.function(env={{'FRESH': '1'}})
        def fresh(path):
            mark(path, 'ran')

        seen_at = {str(tmp_path / "log")!r}
        call = fresh.spawn(seen_at)
        call.cancel()
        told = how(call)
        after = fresh.spawn(seen_at)
        after.get()
        told, call.status().state, len(marks(seen_at))
        """,
    )
    assert found[0] in ("CallCancelledError", None), "it may have been quicker"
    assert found[1:] in (("cancelled", 1), ("succeeded", 2))


def test_cancelling_twice_and_what_is_over_changes_nothing(defined: Lines) -> None:
    """`cancel()` of a call that is over, or was cancelled, or that nobody knows."""
    found = value(
        defined,
        """
        over = quick.spawn(3)
        over.get()
        over.cancel()
        over.cancel(terminate_containers=True)
        waits = sleeps.spawn('/dev/null', 'x')
        waits.cancel()
        waits.cancel()
        nb.FunctionCall.from_id(waits.object_id).cancel()
        nb.FunctionCall.from_id('fc-nobody').cancel()
        how(over), over.status().state, how(waits), quick.remote(1)
        """,
    )
    assert found == (3, "succeeded", "CallCancelledError", 1)


def test_whoever_waits_gets_a_remote_error(defined: Lines, tmp_path: Path) -> None:
    """Says "Whoever waits gets … `CallCancelledError` (a `RemoteError`)", in another thread too."""
    found = value(
        defined,
        f"""
        seen_at = {str(tmp_path / "log")!r}
        call = sleeps.spawn(seen_at, 'a')
        seen = []

        def wait():
            try:
                call.get()
            except nb.exception.RemoteError as error:
                seen.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: marks(seen_at))
        nb.FunctionCall.from_id(call.object_id).cancel()
        thread.join()
        type(seen[0]).__name__, 'sleeps' in str(seen[0])
        """,
    )
    assert found == ("CallCancelledError", True)


def test_in_a_script_and_from_another_process(run_script: ScriptRunner, tmp_path: Path) -> None:
    """Says "from any process of the same user"."""
    path = str(tmp_path / "log")
    name = run_script(
        f"{HEAD}\n{DEFINE}\ncall = sleeps.spawn({path!r}, 'a')\nuntil(lambda: marks({path!r}))\n"
        "print(call.object_id)"
    ).strip()
    told = run_script(
        f"{HEAD}\n{DEFINE}\nimport asyncio\ncall = nb.FunctionCall.from_id({name!r})\n"
        "asyncio.run(call.cancel.aio())\nprint(how(call), call.status().state)"
    )
    assert told.split() == ["CallCancelledError", "cancelled"]


def test_an_input_that_waits_for_a_call_that_somebody_cancels(defined: Lines) -> None:
    """A parent hears of its child's cancellation as of any failure, and goes on."""
    found = value(
        defined,
        """
        @app.function(max_containers=2)
        def parent(name):
            try:
                nb.FunctionCall.from_id(name).get()
            except nb.exception.CallCancelledError:
                return 'heard'

        child = sleeps.spawn('/dev/null', 'x')
        waits = parent.spawn(child.object_id)
        until(lambda: waits.status().running)
        child.cancel()
        waits.get(timeout=30)
        """,
    )
    assert found == "heard"
