"""The progress of a map as a person has it: seen, clicked while its cell runs, found again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, expect

from tests.browser.conftest import NotebookOpener
from tests.browser.labkit import NotebookPage
from tests.browser.pictures import keep
from tests.waiting import PATIENCE

DEFINED = """
import notebook_ext as nb
app = nb.App("seen")

@app.function
def score(x, seconds=0.05, fails=False):
    import time
    time.sleep(seconds)
    if fails and x % 9 == 5:
        raise ValueError(f"no score for {x}")
    return x

score.remote(0)
"""
LONG = "list(score.map(range(3000)))"
FAILED = (
    "out = list(score.map(range(200), [0.01] * 200, kwargs={'fails': True},"
    " return_exceptions=True))"
)
pytestmark = pytest.mark.timeout(300)
SERIOUS = {"serious", "critical"}


def widget(notebook: NotebookPage, index: int) -> Locator:
    return notebook.cell(index).locator(".nbx-progress")


def pressed(shown: Locator, label: str, leads_to: str) -> float:
    """Press a button and return the seconds until the widget says what it leads to."""
    began = time.monotonic()
    shown.get_by_role("button", name=label).click()
    shown.get_by_text(leads_to, exact=True).first.wait_for()
    return time.monotonic() - began


def violations(notebook: NotebookPage) -> list[Any]:
    found = Axe().run(notebook.page, context=".nbx-progress")
    assert found.response["passes"], "it has looked"
    return [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in found.response["violations"]
        if each["impact"] in SERIOUS
    ]


@pytest.mark.clock
@pytest.mark.parametrize("front_end", ["lab", "notebook"])
def test_its_buttons_act_while_the_cell_runs(open_notebook: NotebookOpener, front_end: str) -> None:
    notebook = open_notebook(DEFINED, LONG, front_end=front_end)
    notebook.run(0)
    notebook.begin(1)
    shown = widget(notebook, 1)
    bar = shown.get_by_role("progressbar")
    expect(bar).not_to_have_attribute("aria-valuenow", "0")
    assert pressed(shown, "Pause", "paused") < 1 * PATIENCE
    shown.get_by_text("running").first.wait_for(state="hidden")  # what ran has ended
    keep(shown, f"progress-paused-{front_end}")
    paused_at = shown.locator(".nbx-headline").inner_text()
    shown.get_by_role("button", name="Resume").click()
    expect(shown.locator(".nbx-headline")).not_to_have_text(paused_at)
    keep(shown, f"progress-running-{front_end}")
    assert pressed(shown, "Cancel", "cancelled") < 1 * PATIENCE
    expect(shown.get_by_role("button")).to_have_count(0)
    notebook.page.wait_for_function(
        "() => window.panel.content.widgets[1].model.executionState === 'idle'"
    )
    assert notebook.errors(1) == ["CallCancelledError"]
    assert notebook.evaluate("score.remote(3)") == 3


@pytest.mark.clock
def test_a_page_that_is_reloaded_in_the_middle_has_its_widget_again(
    open_notebook: NotebookOpener,
) -> None:
    notebook = open_notebook(DEFINED, LONG)
    notebook.run(0)
    notebook.begin(1)
    widget(notebook, 1).get_by_role("progressbar").wait_for()
    notebook.reload()
    shown = widget(notebook, 1)
    shown.get_by_role("progressbar").wait_for()
    before = shown.locator(".nbx-headline").inner_text()
    expect(shown.locator(".nbx-headline")).not_to_have_text(before)
    keep(shown, "progress-reloaded")
    assert pressed(shown, "Cancel", "cancelled") < 1 * PATIENCE
    assert notebook.evaluate("score.remote(3)") == 3, "the cell has ended"
    notebook.run(0)
    shown.wait_for(state="detached")
    notebook.cell(1).get_by_text("cancelled").first.wait_for()
    (still,) = [each["data"] for each in notebook.outputs(1) if "data" in each]
    assert "cancelled" in still["text/html"], "the page that knew its output is gone"
    assert "was running" not in still["text/html"]


def test_it_is_seen_twice_in_the_dark_and_by_those_who_cannot_see(
    open_notebook: NotebookOpener,
) -> None:
    notebook = open_notebook(DEFINED, FAILED, LONG)
    notebook.run(0)
    notebook.run(1)
    failed = widget(notebook, 1)
    failed.get_by_text("input 5: ValueError: no score for 5").wait_for()
    keep(failed, "progress-failed-light")
    assert violations(notebook) == []

    notebook.open_output_view(1)
    both = notebook.page.locator(".nbx-progress", has_text="input 5: ValueError")
    expect(both).to_have_count(2)
    assert both.first.inner_text() == both.last.inner_text()
    notebook.page.locator(".jp-LinkedOutputView").first.evaluate("(view) => view.remove()")

    light = failed.evaluate("(el) => getComputedStyle(el).getPropertyValue('--nbx-done')")
    notebook.use_theme("JupyterLab Dark")
    dark = failed.evaluate("(el) => getComputedStyle(el).getPropertyValue('--nbx-done')")
    assert light != dark
    keep(failed, "progress-failed-dark")
    notebook.begin(2)
    running = widget(notebook, 2)
    running.get_by_role("button", name="Pause").wait_for()
    keep(running, "progress-running-dark")
    assert violations(notebook) == []
    failed.wait_for(state="detached")
    still = notebook.outputs(1)[-1]["data"]
    assert sorted(still) == ["text/html", "text/plain"], "what is saved needs no kernel"
    notebook.cell(1).get_by_text("input 5: ValueError: no score for 5").wait_for()

    running.locator("canvas").press("End")
    running.get_by_text("input 2999: ").wait_for()
    pause = running.get_by_role("button", name="Pause")
    pause.focus()
    pause.press("Enter")
    expect(running.get_by_role("button", name="Resume")).to_be_focused()
    said = running.get_by_role("status")
    expect(said).to_contain_text("score.map: paused")
    cancel = running.get_by_role("button", name="Cancel")
    cancel.press("Enter")
    running.get_by_text("cancelled", exact=True).first.wait_for()
    notebook.use_theme("JupyterLab Light")  # the server remembers it
