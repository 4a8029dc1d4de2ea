"""The call graph in a real kernel: what a page hears of it, by messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook_ext.widgets.shown import Shown
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

SETUP = """
%load_ext notebook_ext
import notebook_ext as nb, pathlib, time
app = nb.App("graphs")

@app.function
def leaf(x, gate=""):
    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.02)
    print("leaf", x)
    if x == 3:
        raise ValueError("three is bad")
    return x

@app.function
def tree(n, gate=""):
    return len(list(leaf.map(range(n), kwargs={"gate": gate}, return_exceptions=True)))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainKernel]:
    kernel = PlainKernel(tmp_path_factory.mktemp("graphs"))
    try:
        assert kernel.run(SETUP).error is None
        yield kernel
    finally:
        kernel.close()


class Graph(Shown):
    """A call graph on a page."""

    def names(self) -> set[str]:
        """Return the functions that it has heard of."""
        return {name for tick in self.heard("tick") for name in tick["names"]}

    @property
    def last(self) -> dict[str, Any]:
        """The last tick."""
        return self.heard("tick")[-1]


def test_a_graph_lives_while_its_cell_blocks(
    notebook: PlainKernel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    gate = tmp_path / "gate"
    request.addfinalizer(gate.touch)
    cell = notebook.begin(f"%remote_graph\nprint(tree.remote(5, {str(gate)!r}))")
    shown = Graph(notebook, cell)
    assert shown.caption == "Call graph"
    shown.page.click(shown.comm, op="hello")
    # It may show the call before at first.
    shown.until(lambda: shown.heard("tick") and not shown.last["ended"], "the call is there")
    shown.until(lambda: {"tree", "leaf"} <= shown.names(), "both functions are there")
    assert not cell.finished
    assert shown.last["title"] == "tree"

    def answered() -> bool:
        # An input that it has not heard of yet, as the map may just have begun, is not answered.
        shown.page.click(shown.comm, op="detail", row=1, index=2)
        notebook.listen(0.5)
        return bool(shown.heard("detail"))

    wait_until(answered, 20, "details come while the cell blocks")
    told = shown.heard("detail")[-1]
    assert (told["row"], told["index"]) == (1, 2)
    assert dict(told["facts"])["kind"] == "attached"
    assert not cell.finished
    gate.touch()
    assert notebook.finish(cell).stdout.endswith("5\n")
    shown.until(lambda: cell.updates, "its picture stays")
    picture = cell.updates[-1]["text/html"]
    assert "leaf" in picture
    assert "4 done" in picture
    assert "1 failed" in picture


def test_a_cell_that_is_over_at_once_stays_with_its_own_call(notebook: PlainKernel) -> None:
    notebook.run("tree.remote(1)")
    shown = Graph(notebook, notebook.run("%remote_graph\nleaf.remote(1)"))
    notebook.run("tree.remote(1)")
    shown.until(lambda: shown.cell.updates, "it has ended")
    picture = shown.cell.updates[-1]["text/html"]
    assert "leaf" in picture
    assert "tree" not in picture


def test_a_spawned_call_says_what_it_raised_and_wrote(notebook: PlainKernel) -> None:
    notebook.run("bad = leaf.spawn(3)\ntry: bad.get()\nexcept ValueError: pass")
    shown = Graph(notebook, notebook.run("%remote_graph bad"))
    shown.until(lambda: shown.cell.updates, "it has ended")
    shown.page.click(shown.comm, op="detail", row=0, index=0)
    shown.until(lambda: shown.heard("detail"), "details come after the end")
    texts = dict(shown.heard("detail")[-1]["texts"])
    assert texts["Error"] == "ValueError: three is bad"
    assert "in leaf" in texts["Traceback"]
    assert texts["Output"] == "leaf 3"


def test_a_new_page_is_told_everything_also_after_the_end(notebook: PlainKernel) -> None:
    notebook.run("done = tree.spawn(4)\ndone.get()")
    shown = Graph(notebook, notebook.run("%remote_graph done"))
    shown.until(lambda: shown.cell.updates, "it has ended")
    before = len(shown.heard("tick"))
    shown.page.click(shown.comm, op="hello")
    shown.until(lambda: len(shown.heard("tick")) > before, "the page is told")
    assert shown.last["whole"]
    assert shown.last["ended"]
    assert shown.last["names"] == ["tree", "leaf"]


def test_a_row_that_is_none_is_not_answered(notebook: PlainKernel) -> None:
    notebook.run("one = leaf.spawn(1)\none.get()")
    shown = Graph(notebook, notebook.run("%remote_graph one"))
    clicked = [shown.page.click(shown.comm, op="detail", row=row, index=9) for row in (-1, 0, 7)]
    assert all(shown.page.saw_busy_and_idle(each) for each in clicked)
    shown.page.click(shown.comm, op="detail", row=0, index=0)
    shown.until(lambda: shown.heard("detail"), "that one is")
    assert [told["index"] for told in shown.heard("detail")] == [0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fc-nobody", "nobody knows the call fc-nobody"),
        ("nothing_like_it", "the notebook has no nothing_like_it"),
        ("leaf", "leaf is no id of a call"),
    ],
)
def test_what_cannot_be_shown_is_one_line(notebook: PlainKernel, line: str, says: str) -> None:
    cell = notebook.run(f"%remote_graph {line}")
    assert cell.stderr.startswith("UsageError: ")
    assert cell.stderr.count("\n") == 1
    assert says in cell.stderr
    assert not cell.displays


def test_where_there_is_no_call_it_says_so_and_shows_the_first_that_its_cell_makes(
    tmp_path: Path,
) -> None:
    kernel = PlainKernel(tmp_path, {"NOTEBOOK_EXT_PROFILE": f"empty-{tmp_path.name[:12]}"})
    try:
        kernel.run(SETUP)
        for line in ("%remote_graph", "%remote_progress"):
            cell = kernel.run(line)
            assert not cell.displays
            assert cell.stderr.endswith(": no call was spawned yet; give the id of one, fc-…\n")
        cell = kernel.run("%remote_graph\nleaf.remote(1)")
        assert cell.stderr == ""
        shown = Graph(kernel, cell)
        shown.until(lambda: "leaf" in shown.names() or cell.updates, "the call is there")
        kernel.run("leaf.spawn(2).get()")
        kernel.run("import notebook_ext.inquiry as inquiry\ninquiry.stop()")
    finally:
        kernel.close()
    again = PlainKernel(tmp_path, {"NOTEBOOK_EXT_PROFILE": f"empty-{tmp_path.name[:12]}"})
    try:
        again.run("%load_ext notebook_ext")
        shown = Graph(again, again.run("%remote_graph"))
        assert shown.cell.stderr == ""
        shown.until(lambda: "leaf" in shown.names() or shown.cell.updates, "the newest is shown")
    finally:
        again.run("import notebook_ext.inquiry as inquiry\ninquiry.stop()")
        again.close()
