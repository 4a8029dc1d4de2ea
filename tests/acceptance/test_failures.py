"""Time limits, retries and cancellation, as the caller sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until


@pytest.mark.clock
def test_an_attempt_over_its_time_limit_ends_and_the_worker_serves_on(
    notebook: PlainKernel,
) -> None:
    cell = typed(
        notebook,
        """
        import os, time
        @app.function(timeout=0.5, max_containers=1)
        def limited(seconds):
            time.sleep(seconds)
            return os.getpid()
        before = limited.remote(0)
        try:
            limited.remote(30)
        except nb.exception.FunctionTimeoutError as error:
            print(isinstance(error, nb.exception.TimeoutError), isinstance(error, TimeoutError))
        limited.remote(0) == before
        """,
    )
    assert cell.stdout == "True False\n"
    assert cell.result == "True"
    assert cell.seconds is not None
    assert cell.seconds < 4 * PATIENCE


def test_retries_run_as_often_as_they_say(notebook: PlainKernel, tmp_path: Path) -> None:
    typed(
        notebook,
        f"""
        import os
        @app.function(retries=nb.Retries(max_retries=3, initial_delay=0))
        def third_time_lucky(fail):
            log = {str(tmp_path / "log")!r}
            open(log, 'a').write('.')
            if fail or os.path.getsize(log) < 3:
                raise ValueError('not yet')
            return os.path.getsize(log)
        """,
    )
    assert value(notebook, "third_time_lucky.remote(False)") == 3
    (tmp_path / "log").unlink()
    error = notebook.run("third_time_lucky.remote(True)").error
    assert error is not None
    assert error.name == "ValueError"
    assert (tmp_path / "log").stat().st_size == 4


def test_a_cancelled_call_runs_its_finally_blocks_and_says_so(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    typed(
        notebook,
        f"""
        import time
        @app.function()
        def sleeps():
            try:
                open({str(begun)!r}, 'w').close()
                time.sleep(60)
            finally:
                open({str(ended)!r}, 'w').close()
        call = sleeps.spawn()
        """,
    )
    wait_until(begun.exists, what="the input runs")
    typed(notebook, "call.cancel()")
    error = notebook.run("call.get(timeout=10)").error
    assert error is not None
    assert error.name == "CallCancelledError"
    wait_until(ended.exists, 5, "its finally block has run")


def test_a_poll_says_that_a_call_is_pending_with_both_timeout_errors(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    typed(
        notebook,
        f"""
        import os, time
        @app.function()
        def waits():
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.02)
            return 'here'
        call = waits.spawn()
        """,
    )
    for kind in ("TimeoutError", "nb.exception.TimeoutError", "nb.exception.StillPendingError"):
        cell = typed(notebook, f"try:\n    call.get(timeout=0)\nexcept {kind}:\n    print('yes')")
        assert cell.stdout == "yes\n"
    gate.touch()
    assert value(notebook, "call.get(), call.get()") == ("here", "here")
