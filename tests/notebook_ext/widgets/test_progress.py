import zlib
from pathlib import Path

import pytest

from tests.conftest import KernelStarter
from tests.plain_kernel import Cell, PlainKernel

ROOT = Path(__file__).parents[3]
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = """
import threading
from tests.notebook_ext.widgets.mapped import Mapped
from notebook_ext import widgets
from notebook_ext.widgets import progress, watched
watched.SHOWN_AFTER_SECONDS = 0.05

def until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not in time")

def shown(facts):
    widgets.watch(facts)
    until(lambda: any(w.title == facts.title for w in widgets_now()))

def widgets_now():
    from ipywidgets.widgets.widget import _instances
    return [w for w in list(_instances.values()) if isinstance(w, progress.ProgressWidget)]
"""


@pytest.fixture
def notebook(start_kernel: KernelStarter) -> PlainKernel:
    kernel = start_kernel(variables={"PYTHONPATH": str(ROOT)})
    assert kernel.run(SHOWN).error is None
    return kernel


def ran(kernel: PlainKernel, source: str) -> Cell:
    cell = kernel.run(source)
    assert cell.error is None, cell.error
    assert cell.stderr == ""
    return cell


def test_a_map_shows_a_widget_and_leaves_a_picture(notebook: PlainKernel) -> None:
    cell = ran(
        notebook,
        "facts = Mapped(50, 'score')\nshown(facts)\nfacts.succeed(0, 49)\n"
        "facts.fail(49, ValueError('bad'))\nfacts.end()\nwidgets.settle()",
    )
    (first,) = cell.displays
    assert first["text/plain"] == "Progress of score"
    assert "was running when this was saved" in first["text/html"]
    assert WIDGET in first
    last = cell.updates[-1]
    assert last[WIDGET] == first[WIDGET]
    assert "data:image/png;base64," in last["text/html"]
    assert "input 49: ValueError: bad" in last["text/html"]
    assert last["text/plain"] == first["text/plain"], "the same in every run"


def test_the_end_is_shown_before_the_cell_is_over_without_anyones_help(
    notebook: PlainKernel,
) -> None:
    ran(notebook, "%load_ext notebook_ext")
    cell = ran(
        notebook, "facts = Mapped(5, 'score')\nshown(facts)\nfacts.succeed(0, 5)\nfacts.end()"
    )
    assert "100 %" in cell.updates[-1]["text/html"]


def test_a_reloaded_page_finds_the_whole_state(notebook: PlainKernel) -> None:
    cell = ran(
        notebook,
        "facts = Mapped(4, 'score')\nshown(facts)\nfacts.succeed(1, 3)\nfacts.end('failed')\n"
        "widgets.settle()\nw, = widgets_now()\nimport json\n"
        "print(json.dumps([w.snapshot.hex(), w.base, w.count, w.stats['state'], w.stats['done']]))",
    )
    snapshot, *rest = __import__("json").loads(cell.stdout)
    assert zlib.decompress(bytes.fromhex(snapshot)) == bytes([0, 3, 3, 0])
    assert rest == [0, 4, "failed", 2]


def test_maps_of_two_cells_are_shown_each_in_its_own(notebook: PlainKernel) -> None:
    began = notebook.begin("facts = Mapped(5, 'first')\nwidgets.watch(facts)")
    later = ran(notebook, "until(lambda: widgets_now())\nfacts.end()\nwidgets.settle()")
    notebook.finish(began)
    assert later.displays == []
    notebook.listen(0.5)
    assert [each["text/plain"] for each in began.displays] == ["Progress of first"]


def test_off_shows_nothing(notebook: PlainKernel) -> None:
    cell = ran(
        notebook,
        "from notebook_ext.config import config\nconfig.progress = 'off'\n"
        "facts = Mapped(5)\nwidgets.watch(facts)\nthreading.Event().wait(0.4)\nfacts.end()\n"
        "widgets.settle()",
    )
    assert cell.displays == []


def test_text_is_text_in_a_notebook_too(notebook: PlainKernel) -> None:
    cell = notebook.run(
        "from notebook_ext.config import config\nconfig.progress = 'text'\n"
        "facts = Mapped(5)\nwidgets.watch(facts)\nthreading.Event().wait(0.4)\n"
        "facts.succeed(0, 5)\nfacts.end()\nwidgets.settle()",
    )
    assert cell.displays == []
    assert "5 / 5  100 %" in cell.stderr
