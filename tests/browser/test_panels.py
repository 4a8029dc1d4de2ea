"""The pool widget and the dashboard in JupyterLab: they act while a cell blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import NotebookOpener
from tests.browser.labkit import NotebookPage
from tests.browser.pictures import keep
from tests.waiting import PATIENCE, wait_until

SETUP = """
%load_ext notebook_ext
import notebook_ext as nb, pathlib, time
app = nb.App("panels")

@app.function(max_containers=2)
def held(x, gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.02)
    return x
"""


DAILY = """
@app.function(schedule=nb.Cron("0 9 * * *"))
def daily(): ...

deployed = app.deploy().app
"""


def violations(notebook: NotebookPage, context: str) -> list[Any]:
    """Return what axe-core finds serious or critical there."""
    found = Axe().run(notebook.page, context=context)
    assert found.response["passes"], "it has looked"
    wrong = found.response["violations"]
    serious = [each for each in wrong if each["impact"] in {"serious", "critical"}]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]


def rows(notebook: NotebookPage, index: int) -> list[str]:
    """Return the workers that the widget below a cell shows."""
    return notebook.cell(index).locator("tbody th .nbx-code").all_inner_texts()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("front_end", ["lab", "notebook"])
def test_sliders_and_buttons_act_while_the_cell_blocks(
    open_notebook: NotebookOpener, gate: Path, front_end: str
) -> None:
    work = f"gate = {str(gate)!r}\nfound = sorted(held.map(range(4), kwargs={{'gate': gate}}))"
    notebook = open_notebook(SETUP, f"%remote_pool held\n{work}", front_end=front_end)
    notebook.run(0)
    notebook.begin(1)
    cell = notebook.cell(1)
    cell.get_by_role("button", name="Stop worker").first.wait_for(timeout=60_000 * PATIENCE)
    wait_until(lambda: "busy" in cell.locator(".nbx-counts").inner_text(), 60, "workers are busy")
    keep(notebook.page.locator(".jp-Notebook"), "pool")

    slider = cell.get_by_role("slider", name="Max: the most workers")
    assert slider.get_attribute("aria-valuetext") == "2"
    slider.focus()
    notebook.page.keyboard.press("ArrowRight")
    wait_until(lambda: slider.get_attribute("aria-valuetext") == "3", 5, "the slider has moved")

    notebook.reload()
    cell.get_by_role("button", name="Stop worker").first.wait_for(timeout=60_000 * PATIENCE)
    assert slider.get_attribute("aria-valuetext") == "3", "it is found again as it was"
    stopped = rows(notebook, 1)[0]
    cell.get_by_role("button", name=f"Stop worker {stopped}").click()
    wait_until(
        lambda: stopped not in rows(notebook, 1) or "stopping" in cell.inner_text(),
        10,
        "it takes effect while the cell blocks",
    )
    wait_until(lambda: stopped not in rows(notebook, 1), 30, "the worker is gone")

    gate.touch()
    assert notebook.evaluate("found") == [0, 1, 2, 3], "every input has run"


@pytest.mark.timeout(300)
def test_the_dashboard_shows_everything_by_day_and_by_night(
    open_notebook: NotebookOpener, gate: Path
) -> None:
    notebook = open_notebook(
        SETUP.replace("panels", "by day and by night") + DAILY,
        f"calls = [held.spawn(i, {str(gate)!r}) for i in range(3)]\n%remote_dashboard",
        "print('another cell runs')",
    )
    notebook.run(0)
    notebook.run(1)
    cell = notebook.cell(1)
    call = notebook.evaluate("calls[0].object_id")
    row = cell.locator("table.nbx-calls tbody tr", has_text=call)
    row.get_by_role("button", name="Cancel held").wait_for()
    card = cell.locator(".nbx-card", has_text="by day and by night")
    wait_until(lambda: "busy" in card.locator(".nbx-counts").inner_text(), 60, "workers are busy")
    cell.locator(".nbx-schedule", has_text="0 9 * * * (UTC) · next in").wait_for()
    stop = "__import__('notebook_ext.inquiry', fromlist=['_']).stop_app(deployed).app"
    assert notebook.evaluate(stop) == "by day and by night"
    card.get_by_role("button", name="held").click()
    card.get_by_role("img", name="Workers over the last two minutes").wait_for()
    keep(notebook.page.locator(".jp-Notebook"), "dashboard")
    assert violations(notebook, ".nbx-panel") == []
    notebook.use_theme("JupyterLab Dark")
    notebook.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    keep(notebook.page.locator(".jp-Notebook"), "dashboard-dark")
    assert violations(notebook, ".nbx-panel") == []

    row.get_by_role("button", name="Cancel held").click()
    wait_until(lambda: "cancelled" in row.inner_text(), 10, "the call is cancelled")
    row.get_by_role("button", name="Show the graph of held").click()
    cell.get_by_role("application").wait_for()
    assert violations(notebook, ".nbx-graph") == []
    keep(notebook.page.locator(".jp-Notebook"), "dashboard-graph-dark")
    notebook.use_theme("JupyterLab Light")
    notebook.open_output_view(1)
    expect(notebook.page.locator(".nbx-card", has_text="by day and by night")).to_have_count(2)
    gate.touch()
    picture = next(o["data"] for o in notebook.outputs(1) if "text/html" in o.get("data", {}))
    assert "held" in "".join(picture["text/html"])
