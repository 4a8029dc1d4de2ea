"""API.md section 4: what is too large, too slow, too old or not there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import Lines
from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.waiting import PATIENCE

LARGE = """
@app.function(max_containers=2)
def size(x): return len(x)

def one_mib(limited):
    before = nb.config.max_request_mib
    nb.config.max_request_mib = 1
    try:
        return limited()
    finally:
        nb.config.max_request_mib = before
"""

WAYS = {
    "remote": "size.remote(bytearray(2_000_000))",
    "spawn": "size.spawn(bytearray(2_000_000))",
    "map": "list(size.map([b'a', bytearray(2_000_000)]))",
    "an iterator": "list(size.map(iter([bytearray(2_000_000)])))",
    "for_each": "size.for_each([bytearray(2_000_000)])",
    "spawn_map": "size.spawn_map([bytes(600_000), bytes(600_000)])",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_too_large_is_refused_with_size_limit_and_remedy(cells: Lines, way: str) -> None:
    cells.run(LARGE)
    failed = cells.fails(f"one_mib(lambda: {WAYS[way]})")
    assert failed.name == "RequestSizeError"
    assert "MiB, pickled; allowed are 1 MiB (setting max_request_mib)" in failed.message
    assert "nb.put(value)" in failed.message
    assert cells.value("one_mib(lambda: size.remote(nb.put(bytes(2_000_000))))") == 2_000_000


def test_too_large_says_of_which_function_or_input(cells: Lines) -> None:
    cells.run(LARGE)
    of_call = cells.fails(f"one_mib(lambda: {WAYS['remote']})")
    assert "size: the arguments are 1.9 MiB" in of_call.message
    of_map = cells.fails(f"one_mib(lambda: {WAYS['map']})")
    assert "in input 1 of " in of_map.traceback


def test_a_timeout_is_retried_where_retries_are_set(lines: Lines, tmp_path: Path) -> None:
    lines.run(
        f"""
        import os, time
        log = {str(tmp_path / "log")!r}
        @app.function(timeout=0.3, retries=nb.Retries(max_retries=2, initial_delay=0))
        def slow():
            with open(log, 'a') as file:
                file.write('.')
            time.sleep(60)
        """
    )
    assert lines.fails("slow.remote()").name == "FunctionTimeoutError"
    assert lines.value("os.path.getsize(log)") == 3


@pytest.mark.clock
def test_a_worker_that_does_not_stop_is_killed_5_s_after_the_timeout(
    cells: Lines, tmp_path: Path
) -> None:
    cells.run(
        f"""
        import os, time
        place = {str(tmp_path / "pid")!r}
        @app.function(timeout=0.3, max_containers=1)
        def stubborn(ignores):
            with open(place, 'w') as file:
                file.write(str(os.getpid()))
            until = time.monotonic() + 120
            while ignores and time.monotonic() < until:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
            return os.getpid()
        stubborn.remote(False)
        begun = time.monotonic()
        try:
            stubborn.remote(True)
        except nb.exception.FunctionTimeoutError:
            seconds = time.monotonic() - begun
        killed = int(open(place).read())
        after = stubborn.remote(False)
        """
    )
    seconds, killed, after = cells.value("seconds, killed, after")
    assert 5.0 <= seconds <= 5.3 + 5 * PATIENCE
    assert after != killed
    with pytest.raises(ProcessLookupError):
        os.kill(killed, 0)


def test_code_of_another_python_is_refused_with_both_versions_and_the_remedy(cells: Lines) -> None:
    failed = cells.fails(
        """
        import sys, types
        from notebook_ext.capture import capturer
        @app.function
        def f(): return 1
        older = dict(vars(sys), version_info=types.SimpleNamespace(major=3, minor=2))
        capturer.sys = types.SimpleNamespace(**older)
        try:
            f.remote()
        finally:
            capturer.sys = sys
        """
    )
    assert failed.name == "VersionError"
    here = cells.value("'.'.join(map(str, sys.version_info[:2]))")
    assert f"captured by Python 3.2 (format 1), this worker is Python {here}" in failed.message
    assert "use the same Python minor version and notebook-ext on both sides" in failed.message


def test_who_waits_as_the_client_is_closed_hears_so_and_the_next_call_connects(
    cells: Lines,
) -> None:
    cells.run(
        """
        import threading, time
        from notebook_ext import process
        @app.function(max_containers=2)
        def slow(seconds):
            time.sleep(seconds)
            return seconds
        slow.remote(0)
        found = []
        def wait():
            begun.set()
            try:
                slow.remote(60)
            except nb.exception.ClientClosed as error:
                found.append(str(error))
        begun = threading.Event()
        waits = threading.Thread(target=wait)
        waits.start()
        begun.wait()
        while not slow.get_current_stats().num_running_inputs:
            time.sleep(0.01)
        process.close()
        waits.join(30)
        """
    )
    (message,) = cells.value("found")
    assert "call again" in message
    assert cells.value("slow.remote(0)") == 0


def test_a_broker_that_does_not_answer_is_a_connection_error_that_says_what_to_do(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    definition = HEAD + "\n@app.function\ndef f(x): return x\n"
    first = start_kernel(tmp_path, own_place.variables)
    assert value(first, definition + "f.remote(1)") == 1
    pid = own_place.broker_pid()
    second = start_kernel(tmp_path, {**own_place.variables, "NOTEBOOK_EXT_CONNECT_TIMEOUT": "1.5"})
    typed(second, definition)
    os.kill(pid, signal.SIGSTOP)
    try:
        error = second.run("f.remote(2)").error
        assert error is not None
        assert error.name == "ConnectionError"
        assert f"The broker (process {pid}; its log: " in error.value
        assert "did not answer within 1.5 s (setting connect_timeout)" in error.value
        assert "end that process: the next call starts another one" in error.value
    finally:
        os.kill(pid, signal.SIGCONT)
    assert value(second, "f.remote(3)") == 3


def test_a_map_takes_no_more_inputs_than_may_wait(cells: Lines, tmp_path: Path) -> None:
    cells.run(
        f"""
        import itertools, os, threading, time
        gate = {str(tmp_path / "gate")!r}
        pulled, results = 0, []
        @app.function(max_containers=1)
        def first_waits(x):
            while x == 0 and not os.path.exists(gate):
                time.sleep(0.01)
            return x
        @app.function(max_containers=1)
        def other(): return 1
        def endless():
            global pulled
            for x in itertools.count():
                pulled = x + 1
                yield x
        def iterate():
            for result in first_waits.map(endless()):
                results.append(result)
                break
        iterates = threading.Thread(target=iterate)
        iterates.start()
        until = time.monotonic() + 60
        while pulled < 100_000 and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(20):
            other.remote()
        counted = pulled
        open(gate, 'w').close()
        iterates.join(60)
        """
    )
    counted, results = cells.value("counted, results")
    assert counted in {100_000, 100_001}  # those that may wait, and the one at hand
    assert results == [0]
