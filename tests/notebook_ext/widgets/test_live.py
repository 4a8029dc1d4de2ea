from __future__ import annotations

from pathlib import Path

import pytest

from notebook_ext.widgets.live import front_end
from tests.conftest import KernelStarter
from tests.notebook_ext.widgets.shown import WIDGET, Shown
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

HERE = """
from notebook_ext.widgets import comm_filter, live
class Plain(live.LiveWidget):
    _esm = "export default {}"
"""


@pytest.fixture
def notebook(start_kernel: KernelStarter) -> PlainKernel:
    kernel = start_kernel()
    assert kernel.run(HERE).error is None
    return kernel


def test_a_finished_widget_leaves_its_picture_beside_itself(notebook: PlainKernel) -> None:
    cell = notebook.run("one = Plain('One')\none.show()\none.picture = '<b>1</b>'\none.finish()")
    assert cell.error is None
    (first,), (last,) = cell.displays, cell.updates
    assert first["text/plain"] == last["text/plain"] == "One"
    assert first[WIDGET] == last[WIDGET]
    assert last["text/html"] == "<b>1</b>"


def test_old_widgets_are_closed_and_leave_their_pictures(notebook: PlainKernel) -> None:
    cell = notebook.run(
        "live.KEPT_OPEN = 2\n"
        "for i in range(4):\n"
        "    made = Plain(f'number {i}')\n    made.picture = f'<b>{i}</b>'\n"
        "    made.show()\n    made.finish()\n"
        "from ipywidgets.widgets.widget import _instances\n"
        "print(sorted(w.caption for w in _instances.values() if isinstance(w, Plain)))\n"
        "print(len(comm_filter._filter._claimed))"
    )
    assert cell.stdout == "['number 2', 'number 3']\n4\n", "each has its own comm and its layout's"
    still = [each for each in cell.updates if WIDGET not in each]
    assert still == [{"text/plain": f"number {i}", "text/html": f"<b>{i}</b>"} for i in range(2)]


LIVE = """
import pathlib, time
live.PICTURE_SECONDS = 0.3
class Counting:
    is_shown, starts_at, looks, ends = True, 0.0, 0, False
    def tick(self, now, *, last):
        if not self.looks:
            self.widget = Plain("Count")
            self.widget.picture = "none"
            self.widget.show()
        self.looks += 1
        self.widget.keep_picture(lambda: "few" if self.looks < 30 else "many", now)
        if self.ends:
            self.widget.picture = "all"
            self.widget.finish()
        return not self.ends
counting = Counting()
live.ticker.show(counting, wait_seconds=5)
"""
LOOKED = "while counting.looks < 9:\n    time.sleep(0.02)"
ENDS = """
while not pathlib.Path("gate").exists():
    time.sleep(0.02)
counting.ends = True
live.ticker.settle()
"""


def test_where_a_page_shows_it_in_front_of_its_picture_the_output_is_that(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    shown = Shown(notebook, notebook.run(LIVE))
    assert notebook.run(LOOKED).error is None
    assert updates(notebook) == [], "no page has said that it can"
    mark = (shown.page.state(shown.comm) or {})["mark"]

    def holds(picture: str) -> dict[str, str]:
        marked = f'<nbx-picture data-mark="{mark}">{picture}</nbx-picture>'
        return {"text/plain": "Count", "text/html": marked}

    blocked = notebook.begin(ENDS)
    shown.page.click(shown.comm, op="over")
    shown.until(lambda: holds("many") in updates(notebook), "it is kept up to date, also now")
    shown.page.click(shown.comm, op="over")  # of another page
    (tmp_path / "gate").touch()
    assert notebook.finish(blocked).error is None
    written = [holds(each) for each in ("none", "few", "many", "all")]
    assert updates(notebook) == written, "only what is new"
    told = [each["html"] for each in shown.heard("picture")]
    assert told == [each["text/html"] for each in written], "for a page that was loaded again"

    assert notebook.run("counting.widget.retire()").error is None
    assert updates(notebook)[-1] == {"text/plain": "Count", "text/html": "all"}


def updates(kernel: PlainKernel) -> list[dict[str, str]]:
    """Return what has been written into outputs that were there, whichever cell ran."""
    return [m["content"]["data"] for m in kernel.heard if m["msg_type"] == "update_display_data"]


def pictures_at_the_end(kernel: PlainKernel, *captions: str) -> None:
    """Shut a kernel down; wait until it has put a picture in the place of each of its widgets."""
    kernel._client.shutdown()

    def told() -> bool:
        kernel.listen(0.2)
        written = [each["text/plain"] for each in updates(kernel) if WIDGET not in each]
        return set(written) >= set(captions)

    wait_until(told, 20, "a page that is open has the pictures")


def test_what_is_finished_is_its_picture_once_the_kernel_has_ended(notebook: PlainKernel) -> None:
    cell = notebook.run("one = Plain('One')\none.show()\none.picture = '<b>1</b>'\none.finish()")
    assert WIDGET in cell.updates[-1]
    pictures_at_the_end(notebook, "One")


def test_what_is_live_is_too(start_kernel: KernelStarter) -> None:
    kernel = start_kernel()
    called = kernel.run(
        "%load_ext notebook_ext\nimport notebook_ext as nb\napp = nb.App('end')\n"
        "@app.function\ndef f(x):\n    return x\nf.remote(1)"
    )
    assert called.error is None
    shown = [kernel.run("%remote_dashboard"), kernel.run("%remote_graph")]
    assert all(WIDGET in each.displays[0] for each in shown)
    pictures_at_the_end(kernel, "Dashboard", "Call graph")


def test_a_module_has_its_parts_before_it_and_loads_nothing() -> None:
    module, style = front_end("progress", "strip")
    assert (
        module.index("function button(")
        < module.index("class Strip ")
        < module.index("export default")
    )
    assert module.count("export default") == 1
    assert "import " not in module
    assert style.index("--nbx-done:") < style.index(".nbx-progress")
    assert "url(" not in style


def test_every_style_sheet_has_a_module() -> None:
    room = Path(__file__).parents[3] / "notebook_ext/widgets"
    styles = {path.stem for path in room.glob("*.css")} - {"palette"}
    assert styles <= {path.stem for path in room.glob("*.js")}
