"""Clicks and reloads while a cell blocks the kernel, on every ipykernel that matters."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from notebook_ext.widgets.comm_filter import HINT, missing
from tests import ipykernels
from tests.conftest import KernelStarter
from tests.plain_kernel import Cell, PlainKernel
from tests.waiting import PATIENCE, wait_until
from tests.widget_page import WidgetPage

SHOWN = """
import json, threading
import ipywidgets
from notebook_ext.widgets.live import LiveWidget
class Clicked(LiveWidget):
    _esm = "export default {}"
heard, seen = threading.Event(), []
def hit(content):
    seen.append((content, threading.current_thread().name))
    heard.set()
def fail(content):
    raise ValueError("no such worker")
ours = Clicked("Clicked")
ours.on("hit", hit)
ours.on("fail", fail)
ours.show()
theirs = ipywidgets.IntText(value=7)
theirs.observe(lambda change: heard.set(), "value")
print(json.dumps([each.comm.comm_id for each in (ours, ours.layout, theirs)]))
"""
STACKS = """
import faulthandler, signal
faulthandler.register(signal.SIGUSR1, file=open("stacks", "w"), all_threads=True)
"""
BLOCKED = "heard.clear(); print('waits', flush=True); print(heard.wait(30))"


class Blocked:
    """A kernel with a widget of ours and one of others, and the ids of their comms."""

    def __init__(self, kernel: PlainKernel) -> None:
        self.kernel = kernel
        shown = kernel.run(SHOWN)
        assert shown.error is None, shown.error
        self.ours, self.layout, self.theirs = json.loads(shown.stdout)

    def block(self) -> Cell:
        """Run a cell that blocks until it is clicked; return it when it does."""
        cell = self.kernel.begin(BLOCKED)
        end = time.monotonic() + 10 * PATIENCE
        while "waits" not in cell.stdout:
            assert self.kernel.listen(end - time.monotonic())
        return cell


@pytest.fixture(scope="module", params=ipykernels.VERSIONS)
def blocked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Blocked]:
    directory, failures = tmp_path_factory.mktemp("kernel"), request.session.testsfailed
    kernel = ipykernels.start(request.param, directory)
    try:
        assert kernel.run(STACKS).error is None
        yield Blocked(kernel)
    finally:
        if request.session.testsfailed > failures:
            os.kill(kernel.pid, signal.SIGUSR1)
            wait_until((directory / "stacks").read_text, what="the kernel's stacks")
            print((directory / "stacks").read_text())  # noqa: T201  where the kernel stands
        kernel.close()


@pytest.mark.parametrize("subshell", [False, True], ids=["shell", "subshell"])
def test_a_click_acts_while_the_cell_blocks(blocked: Blocked, subshell: bool) -> None:
    page = WidgetPage(blocked.kernel, subshell=subshell)
    cell = blocked.block()
    clicked = page.click(blocked.ours, op="hit", worker=3)
    blocked.kernel.finish(cell, 10)
    assert cell.stdout == "waits\nTrue\n"
    seen = blocked.kernel.run("print(json.dumps(seen.pop()))").stdout
    assert json.loads(seen) == [{"op": "hit", "worker": 3}, "notebook-ext-ui"]
    assert page.saw_busy_and_idle(clicked), "the page sends nothing more before that"


@pytest.mark.parametrize("subshell", [False, True], ids=["shell", "subshell"])
def test_a_page_that_is_reloaded_finds_its_widgets(blocked: Blocked, subshell: bool) -> None:
    page = WidgetPage(blocked.kernel, subshell=subshell)
    cell = blocked.block()
    assert page.ask("kernel_info_request", {})["status"] == "ok"
    comms = page.ask("comm_info_request", {"target_name": "jupyter.widget"})["comms"]
    assert {blocked.ours, blocked.layout, blocked.theirs} <= comms.keys()
    ours, theirs = page.state(blocked.ours), page.state(blocked.theirs)
    assert ours is not None
    assert ours["hint"] == ""
    assert ours["layout"] == f"IPY_MODEL_{blocked.layout}"
    assert page.state(blocked.layout) is not None
    assert theirs is not None, "a page shows no widget before all have answered"
    assert theirs["value"] in {7, 8}
    assert not cell.finished
    page.click(blocked.ours, op="hit")
    blocked.kernel.finish(cell, 10)


def test_a_click_that_fails_says_so(blocked: Blocked) -> None:
    page = WidgetPage(blocked.kernel)
    cell = blocked.block()
    assert page.saw_busy_and_idle(page.click(blocked.ours, op="fail"))
    state = page.state(blocked.ours)
    assert state is not None
    assert state["notice"] == "ValueError: no such worker"
    page.click(blocked.ours, op="hit")
    blocked.kernel.finish(cell, 10)
    assert cell.stderr == ""


def test_the_widgets_of_others_are_heard_as_ever(blocked: Blocked) -> None:
    page = WidgetPage(blocked.kernel)
    assert blocked.kernel.run("heard.clear(); theirs.value = 7").error is None
    page.send(blocked.theirs, {"method": "update", "state": {"value": 8}})
    asked = page.ask("kernel_info_request", {})
    assert asked["status"] == "ok", "and so is everything else while no cell runs"
    after = blocked.kernel.run("print(heard.is_set(), theirs.value)")
    assert after.stdout == "True 8\n"


def test_a_kernel_without_these_names_gets_a_hint_and_keeps_its_ways(
    start_kernel: KernelStarter,
) -> None:
    kernel = start_kernel()
    cell = kernel.run(
        "kernel = get_ipython().kernel\n"
        "kernel._main_asyncio_lock = None\n"
        "from notebook_ext.widgets import comm_filter\n"
        "print(comm_filter.hint())\n"
        "print(kernel.shell_stream._recv_callback.__name__)"
    )
    assert cell.stdout.splitlines() == [HINT, "shell_channel_thread_main"]


def test_what_is_missing_is_named() -> None:
    assert "shell_channel_thread_main" in missing(object())
