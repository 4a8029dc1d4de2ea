"""The buttons of a map's progress, pressed while its cell blocks the kernel (messages, no page)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plain_kernel import Cell, PlainKernel
from tests.waiting import PATIENCE, wait_until
from tests.widget_page import WidgetPage

WIDGET = "application/vnd.jupyter.widget-view+json"
DEFINED = """
%load_ext notebook_ext
import notebook_ext as nb
app = nb.App("buttons")

@app.function
def slow(x, seconds=0.1, fails=False):
    import pathlib, time
    time.sleep(seconds)
    while fails and not x and not pathlib.Path("go").exists():
        time.sleep(0.01)
    if x % 2 and not pathlib.Path("mended").exists() and fails:
        raise ValueError(x)
    return x

slow.remote(0)
"""


@pytest.fixture
def notebook(kernel: PlainKernel) -> PlainKernel:
    """Return a kernel with a function that is warm."""
    error = kernel.run(DEFINED).error
    assert error is None, error
    return kernel


def heard(kernel: PlainKernel, condition: Callable[[], bool]) -> None:
    """Listen until it is so."""
    wait_until(lambda: condition() or (kernel.listen(0.1) and condition()))


def shown(kernel: PlainKernel, cell: Cell) -> str:
    """Return the comm of the progress widget that the cell shows."""
    heard(kernel, lambda: any(WIDGET in each for each in cell.displays))
    model: str = next(each for each in cell.displays if WIDGET in each)[WIDGET]["model_id"]
    return model


def stats(page: WidgetPage, model: str) -> dict[str, Any]:
    """Return what a page that is reloaded now would show."""
    state = page.state(model)
    assert state is not None
    found: dict[str, Any] = state["stats"]
    return found


@pytest.mark.clock
def test_a_map_is_paused_goes_on_and_is_cancelled_from_its_progress(
    notebook: PlainKernel,
) -> None:
    cell = notebook.begin("list(slow.map(range(1000)))")
    page = WidgetPage(notebook)
    model = shown(notebook, cell)
    wait_until(lambda: stats(page, model)["done"], what="some are done")
    page.click(model, op="pause", paused=True)
    wait_until(lambda: stats(page, model)["paused"], 5)
    wait_until(lambda: stats(page, model)["running"] == 0, 5, "what ran has ended")
    done = stats(page, model)["done"]
    again = time.monotonic() + 0.5
    wait_until(lambda: time.monotonic() > again)
    assert stats(page, model)["done"] == done, "a snapshot's age later"
    page.click(model, op="pause", paused=False)
    wait_until(lambda: stats(page, model)["done"] > done, 10)
    pressed = time.monotonic()
    page.click(model, op="cancel")
    notebook.finish(cell, 10)
    assert time.monotonic() - pressed < 1 * PATIENCE
    assert cell.error is not None
    assert cell.error.name == "CallCancelledError"
    last = stats(page, model)
    assert (last["state"], last["controls"], last["running"]) == ("cancelled", False, 0)
    assert notebook.run("slow.remote(7)").result == "7", "the workers serve on"


def test_failures_run_again_while_the_cell_waits(notebook: PlainKernel, tmp_path: Path) -> None:
    cell = notebook.begin(
        "out = list(slow.map(range(4), kwargs={'fails': True}, return_exceptions=True))"
    )
    page = WidgetPage(notebook)
    model = shown(notebook, cell)
    wait_until(lambda: stats(page, model)["retryable"] == 2)
    page.click(model, op="retry")
    wait_until(lambda: stats(page, model)["retried"] == 2, 5)
    wait_until(lambda: stats(page, model)["retryable"] == 2, 5, "they fail again")
    (tmp_path / "mended").touch()
    page.click(model, op="retry")
    wait_until(lambda: stats(page, model)["done"] == 3, 5)
    (tmp_path / "go").touch()
    notebook.finish(cell, 20)
    assert cell.error is None
    assert stats(page, model)["summary"] == "4 done, 4 retried"
    assert notebook.run("out").result == "[0, 1, 2, 3]"

    # With the next cell its picture takes its place, which needs no kernel.
    def stills() -> list[str]:
        updates = [m["content"]["data"] for m in notebook.heard if "update" in m["msg_type"]]
        return [data["text/html"] for data in updates if WIDGET not in data]

    heard(notebook, lambda: any("4 done, 4 retried" in still for still in stills()))


def test_the_progress_of_a_spawned_call_is_shown_and_cancels_it(notebook: PlainKernel) -> None:
    spawned = notebook.run("fc = slow.spawn_map(range(500))\n%remote_progress fc")
    assert spawned.error is None, spawned.error
    page = WidgetPage(notebook)
    model = shown(notebook, spawned)
    found = wait_until(lambda: (s := stats(page, model))["done"] and s["running"] and s)
    assert (found["total"], found["controls"], found["can_pause"]) == (500, True, False)
    page.click(model, op="cancel")
    wait_until(lambda: stats(page, model)["state"] == "cancelled", 10)
    assert notebook.run("fc.status().state").result == "'cancelled'"
    ended = notebook.run("ended = slow.spawn(5, 0.0)\nended.get()\n%remote_progress")
    last = shown(notebook, ended)
    wait_until(lambda: stats(page, last)["summary"] == "1 done", 10)
    unknown = notebook.run("%remote_progress fc-nobody")
    assert "nobody knows the call fc-nobody" in unknown.stderr
    wrong = notebook.run("%remote_progress slow it down")
    assert "is no id of a call" in wrong.stderr
