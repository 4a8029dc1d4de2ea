"""The dashboard and the pool widget in a real kernel: what a page hears, and what its clicks do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook_ext.widgets.shown import Shown
from tests.plain_kernel import PlainKernel

SETUP = """
%load_ext notebook_ext
import json, pathlib, threading, time
import notebook_ext as nb
app = nb.App("panels")

@app.function(max_containers=2)
def held(x, gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.02)
    return x
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainKernel]:
    kernel = PlainKernel(tmp_path_factory.mktemp("panels"))
    try:
        assert kernel.run(SETUP).error is None
        yield kernel
    finally:
        kernel.close()


class Board(Shown):
    """A panel on a page, and the rows that it knows."""

    def rows(self, section: str) -> dict[str, dict[str, Any]]:
        """Return the rows that a page shows now, by key."""
        known: dict[str, dict[str, Any]] = {}
        for tick in self.heard("tick"):
            if tick["whole"]:
                known.clear()
            known.update({row["id"]: row for row in tick["changed"].get(section, ())})
            for key in tick["gone"].get(section, ()):
                known.pop(key, None)
        return known

    def states(self) -> list[str]:
        """Return the states of the workers."""
        return sorted(row["state"] for row in self.rows("workers").values())


@pytest.mark.clock
def test_a_pool_is_set_and_its_workers_are_stopped_while_a_cell_blocks(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    notebook.run("held.update_autoscaler(min_containers=0, max_containers=2)")
    cell = notebook.begin(
        f"%remote_pool held\nprint(sorted(held.map([1, 2, 3], kwargs={{'gate': {str(gate)!r}}})))"
    )
    board = Board(notebook, cell)
    assert board.caption == "Pool of held"
    board.page.click(board.comm, op="hello")
    board.until(lambda: "busy" in board.states(), "a worker runs")
    (pool,) = board.rows("pools").values()
    assert (pool["max"], pool["min"]) == (2, 0)
    assert not board.rows("calls"), "one function is shown alone"

    clicked = time.monotonic()
    board.page.click(board.comm, op="configure", pool=pool["id"], max=3)
    board.until(lambda: board.rows("pools")[pool["id"]]["max"] == 3, "the ceiling is set")
    assert time.monotonic() - clicked < 5.0
    board.page.click(board.comm, op="configure", pool=pool["id"], min=4)
    board.until(lambda: board.rows("pools")[pool["id"]]["min"] == 4, "the floor is set")
    assert board.rows("pools")[pool["id"]]["max"] == 4, "it takes the ceiling along"
    board.page.click(board.comm, op="configure", pool=pool["id"], min=0)

    busy = next(k for k, row in board.rows("workers").items() if row["state"] == "busy")
    board.page.click(board.comm, op="stop", worker=busy)
    board.until(lambda: busy not in board.rows("workers"), "the worker is gone")
    assert not cell.finished
    gate.touch()
    assert notebook.finish(cell).stdout == "[1, 2, 3]\n", "its input ran again elsewhere"


def test_a_worker_is_started_by_a_higher_floor(notebook: PlainKernel) -> None:
    board = Board(
        notebook,
        notebook.run(
            "held.update_autoscaler(min_containers=0, max_containers=8)\n%remote_pool held"
        ),
    )
    board.page.click(board.comm, op="hello")
    board.until(lambda: board.rows("pools"), "the pool is there")
    (key,) = board.rows("pools")
    board.page.click(board.comm, op="start", pool=key)
    board.until(lambda: board.rows("pools")[key]["min"] >= 1, "the floor is higher")
    floor = board.rows("pools")[key]["min"]
    board.until(lambda: len(board.rows("workers")) >= floor, "and kept")
    cell = notebook.run("print(held.autoscaler.settings().min_containers)")
    assert int(cell.stdout) == floor


def test_the_dashboard_shows_calls_and_cancels_them(notebook: PlainKernel) -> None:
    cell = notebook.run("slow = held.spawn(1, '/nowhere/gate')\n%remote_dashboard")
    board = Board(notebook, cell)
    assert board.caption == "Dashboard"
    picture = cell.displays[0]["text/html"]
    assert "held" in picture, "it was looked at before it was shown"
    board.page.click(board.comm, op="hello")
    call = json.loads(notebook.run("print(json.dumps(slow.object_id))").stdout)
    board.until(lambda: call in board.rows("calls"), "the call is there")
    board.until(lambda: board.rows("hosts"), "the host is there")
    assert board.rows("broker")["broker"]["clients"] >= 1
    board.page.click(board.comm, op="cancel", call=call)
    board.until(lambda: board.rows("calls")[call]["state"] == "cancelled", "it is cancelled")


def test_a_graph_is_opened_from_the_dashboard(notebook: PlainKernel) -> None:
    cell = notebook.run("held.spawn(1, '/').get()\n%remote_dashboard")
    board = Board(notebook, cell)
    call = json.loads(notebook.run("print(json.dumps(nb.calls(limit=1)[0].object_id))").stdout)
    board.page.click(board.comm, op="graph", call=call)
    board.until(lambda: len(cell.displays) == 2, "a graph is shown below")
    assert cell.displays[1]["text/plain"] == "Call graph"


def test_what_a_click_cannot_do_is_said(notebook: PlainKernel) -> None:
    board = Board(notebook, notebook.run("%remote_dashboard"))
    board.page.click(board.comm, op="stop", worker="ta-nobody")
    board.until(lambda: board.said("notice"), "it is said")
    assert board.said("notice")[-1] == "there is no worker ta-nobody: it has ended, or never was"


def test_nobody_looks_while_no_page_shows_it(notebook: PlainKernel) -> None:
    cell = notebook.run(
        "held.spawn(1, '/').get()\nfrom notebook_ext.widgets import panel\n"
        "panel.UNSEEN_SECONDS = 0.5\n%remote_dashboard"
    )
    board = Board(notebook, cell)
    board.page.click(board.comm, op="hello")
    board.until(lambda: board.rows("broker"), "it is told")
    quiet = notebook.run("threading.Event().wait(2.0)")
    assert quiet.error is None
    before = len(board.heard("tick"))
    notebook.run("threading.Event().wait(1.5)")
    assert len(board.heard("tick")) == before, "it has ended"
    board.page.click(board.comm, op="seen")
    board.until(lambda: len(board.heard("tick")) > before, "it goes on where it is seen again")
    notebook.run("panel.UNSEEN_SECONDS = 20.0")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%remote_pool 3", "3 is neither a Function"),
        ("%remote_pool nothing_like_it", "the notebook has no nothing_like_it"),
        ("%remote_dashboard now", "takes no argument"),
    ],
)
def test_what_cannot_be_shown_is_one_line(notebook: PlainKernel, line: str, says: str) -> None:
    cell = notebook.run(line)
    assert cell.stderr.startswith("UsageError: ")
    assert says in cell.stderr
    assert not cell.displays
