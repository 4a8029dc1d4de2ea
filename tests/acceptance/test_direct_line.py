"""Warm calls in a row go by a line to their worker: nothing that they promise is lost by that."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import notebook_ext as nb
from kernel_worker.model import CallId
from kernel_worker.wire import messages
from notebook_ext import inquiry, process
from notebook_ext.config import reload
from tests.acceptance.cells import begun, typed, value
from tests.acceptance.conftest import HEAD
from tests.acceptance.places import IDLE_EXIT_SECONDS, Place
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until

DEFINE = """
import os, threading, time

@app.function(max_containers=2, timeout=2)
def does(what, path=''):
    if callable(what):
        return what()
    if what == 'die' and not os.path.exists(path):
        open(path, 'w').close()
        os._exit(3)
    if what == 'always dies':
        with open(path, 'a') as file:
            file.write('.')
        os._exit(3)
    if what == 'wait':
        with open(path, 'a') as file:
            file.write(f'{os.getpid()}\\n')
        while not os.path.exists(path + '-gate'):
            time.sleep(0.01)
    if what == 'look':
        breakpoint()
    if what == 'nap':
        print('started', flush=True)
        time.sleep(30)
    if what == 'raise':
        raise KeyError('mine')
    if what == 'print':
        print('said by', what)
    if what == 'long':
        time.sleep(0.3)
    if what == 'large':
        return bytes(200_000)
    if what == 'ids':
        return nb.current_function_call_id(), nb.current_input_id()
    return what

def has_line():
    from notebook_ext import process
    return bool(process.current().lines.count)

def warm(function=None):
    function, until = function or does, time.monotonic() + 30
    while time.monotonic() < until:
        assert function.remote(1) is not None
        if has_line():
            return True
    raise AssertionError('no line')
"""


@pytest.fixture(scope="module")
def lined(notebook: PlainKernel) -> PlainKernel:
    """Return the kernel in which `warm()` calls until there is a line."""
    typed(notebook, DEFINE)
    return notebook


def test_values_output_and_exceptions_are_as_by_the_broker(lined: PlainKernel) -> None:
    cell = typed(lined, "warm()\nprint('before'); does.remote('print'); print('after')")
    assert cell.stdout == "before\nsaid by print\nafter\n"
    assert value(lined, "warm()\nlen(does.remote('large'))") == 200_000
    assert value(lined, "warm()\ndoes.remote('long')") == "long"
    cell = lined.run("warm()\ndoes.remote('raise')")
    assert cell.error is not None
    assert (cell.error.name, cell.error.value) == ("KeyError", "'mine'")
    assert "raise KeyError('mine')" in cell.error.traceback
    assert "notebook_ext" not in cell.error.traceback


def test_each_call_has_its_own_id_and_its_place_in_the_graph(lined: PlainKernel) -> None:
    def by_line() -> list[tuple[str, str]]:
        found = value(lined, "warm()\n[does.remote('ids') for _ in range(3)]")
        assert len({call for call, _ in found}) == len({one for _, one in found}) == 3
        return [each for each in found if "." in each[0]]

    call, _ = wait_until(by_line, what="one of them comes by the line")[-1]
    roots = f"nb.FunctionCall.from_id({call!r}).get_call_graph()"

    def states() -> list[tuple[str, str]]:
        found = value(lined, f"[(each.function_name, each.status.name) for each in {roots}]")
        assert set(found) == {("does", "SUCCESS")}
        return found if len(found) > int(call.partition(".")[2]) else []

    wait_until(states, what="the broker has been told of it, with others")


def test_a_worker_that_dies_costs_nothing_but_time(lined: PlainKernel, tmp_path: Path) -> None:
    path = tmp_path / "died"
    assert value(lined, f"warm()\ndoes.remote('die', {str(path)!r})") == "die"
    assert path.exists()


def test_what_always_kills_its_worker_is_tried_three_times(
    lined: PlainKernel, tmp_path: Path
) -> None:
    path = tmp_path / "tries"
    cell = lined.run(f"warm()\ndoes.remote('always dies', {str(path)!r})")
    assert cell.error is not None
    assert cell.error.name == "InternalFailure"
    assert "died 3 times under it" in cell.error.value
    assert path.read_text() == "..."


def test_a_worker_that_is_killed_from_outside_costs_nothing_either(
    lined: PlainKernel, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    typed(lined, "killed = does.with_options(timeout=60)\nwarm(killed)")
    cell = lined.begin(f"killed.remote('wait', {str(path)!r})")
    wait_until(path.exists, what="it runs")
    os.kill(int(path.read_text()), signal.SIGKILL)
    wait_until(lambda: path.read_text().count("\n") == 2, what="it runs again")
    Path(f"{path}-gate").touch()
    assert lined.finish(cell).result == "'wait'"


def test_a_breakpoint_opens_in_the_cell_that_waits(lined: PlainKernel) -> None:
    typed(lined, "warm()")
    cell = lined.begin("warm()\ndoes.remote('look')", with_input=True)
    assert lined.answer("p what", "c") == ["(Pdb) ", "(Pdb) "]
    lined.finish(cell)
    assert cell.result == "'look'"
    assert "'look'" in cell.stdout


def test_a_call_that_takes_long_can_be_seen_and_cancelled_from_outside(
    lined: PlainKernel, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    typed(lined, "long = does.with_options(timeout=60)\nwarm(long)")
    cell = lined.begin(f"long.remote('wait', {str(path)!r})")
    wait_until(path.exists, what="it runs")
    wait_until(lambda: len(_running()) == 1, what="the broker knows of it")
    (call,) = _running()
    reload()
    nb.FunctionCall.from_id(call).cancel()
    process.close()
    error = lined.finish(cell).error
    assert error is not None
    assert error.name == "CallCancelledError"
    assert value(lined, "long.remote(1)") == 1


def _running() -> list[CallId]:
    found = inquiry.calls(messages.CallFilter()) or []
    return [each.call for each in found if each.running and each.name == "does"]


def test_kill_9_of_the_broker_while_a_worker_is_lent(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINE)
    typed(kernel, "long = does.with_options(timeout=60)\nwarm(long)")
    cell = kernel.begin(f"long.remote('wait', {str(path)!r})")
    wait_until(path.exists, what="it runs")
    own_place.kill_broker()
    wait_until(lambda: path.read_text().count("\n") == 2, what="it runs again")
    Path(f"{path}-gate").touch()
    assert kernel.finish(cell).result == "'wait'"
    typed(kernel, "warm(long)")
    own_place.kill_broker()
    assert value(kernel, "[long.remote(number) for number in range(20)]") == list(range(20))


def test_kill_9_of_the_notebook_ends_what_runs_on_its_line(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINE)
    typed(kernel, "long = does.with_options(timeout=600)\nwarm(long)")
    kernel.begin(f"long.remote('wait', {str(path)!r})")
    wait_until(path.exists, what="it runs")
    kernel.kill()
    wait_until(
        lambda: not own_place.processes(), IDLE_EXIT_SECONDS + 10, "no orphan after the idle time"
    )


def test_a_call_that_takes_too_long_times_out(lined: PlainKernel) -> None:
    cell = lined.run("warm()\ndoes.remote('nap')")
    assert cell.error is not None
    assert cell.error.name == "FunctionTimeoutError"


@pytest.mark.clock
def test_the_stop_button_ends_what_runs_and_the_next_call_works(lined: PlainKernel) -> None:
    cell = begun(lined, "warm()\ndoes.remote('nap')")
    pressed = time.monotonic()
    lined.interrupt()
    error = lined.finish(cell).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    assert "notebook_ext" not in error.traceback
    assert time.monotonic() - pressed < 1.0 * PATIENCE
    assert value(lined, "does.remote(1)") == 1


def test_others_that_wait_get_the_worker(lined: PlainKernel) -> None:
    typed(
        lined,
        """
        @app.function()
        def other(x):
            return -x
        warm()
        assert list(does.map(range(100))) == list(range(100))
        warm()
        assert sum(other.map(range(100))) == -4950
        found = []
        def call():
            found.extend(does.remote(number) == number for number in range(50))
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 150 and all(found)
        """,
    )


def test_a_redefined_function_a_changed_global_and_another_directory_are_seen(
    lined: PlainKernel, tmp_path: Path
) -> None:
    typed(
        lined,
        f"""
        factor = 2
        @app.function()
        def scaled(x):
            return x * factor, os.getcwd()
        here = os.getcwd()
        assert [scaled.remote(1) for _ in range(8)] == [(2, here)] * 8
        factor = 3
        assert [scaled.remote(1) for _ in range(8)] == [(3, here)] * 8
        os.chdir({str(tmp_path)!r})
        assert [scaled.remote(1) for _ in range(8)] == [(3, os.getcwd())] * 8
        os.chdir(here)
        @app.function()
        def scaled(x):
            return 'new'
        assert [scaled.remote(1) for _ in range(8)] == ['new'] * 8
        """,
    )


def test_numbers_are_true_at_once_and_the_worker_is_given_back(lined: PlainKernel) -> None:
    typed(lined, "warm()")
    wait_until(
        lambda: (
            value(lined, "(has_line(), does.get_current_stats().num_running_inputs)") == (False, 0)
        ),
        what="nobody uses the line any more",
    )
