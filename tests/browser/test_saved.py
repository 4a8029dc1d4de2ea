"""A notebook that was saved while its widgets were shown, opened where their kernel is gone."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import NotebookOpener
from tests.browser.labkit import NotebookPage
from tests.browser.pictures import keep
from tests.waiting import PATIENCE, wait_until

SETUP = """
%load_ext notebook_ext
import notebook_ext as nb, pathlib, time
app = nb.App("saved")

@app.function(max_containers=1)
def held(x, gate):
    while x >= 200 and not pathlib.Path(gate).exists():
        time.sleep(0.02)
    return x

@app.function
def outer(gate):
    return inner.remote(200, gate)

@app.function
def inner(x, gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.02)
"""
GRAPH = "call = outer.spawn({gate!r})\n%remote_graph call"
PANELS = "held.remote(0, '')\n%remote_pool held\n%remote_dashboard"
MAP = "done = list(held.map(range(400), kwargs={{'gate': {gate!r}}}))"
SHOWN = {1: ".nbx-graph", 2: ".nbx-panel", 3: ".nbx-progress"}
SAID = {1: "inner", 2: "backlog", 3: "200 / 400"}
"""What each cell shows: its widget, and words of its picture."""


def is_picture(notebook: NotebookPage, index: int, said: str) -> bool:
    """Return whether what the notebook holds for a cell needs no kernel, and has that in it."""
    found = [each["data"] for each in notebook.outputs(index) if "data" in each]
    pictures = all(set(data) == {"text/html", "text/plain"} for data in found)
    return pictures and said in str(found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("front_end", "is_others"), [("lab", False), ("notebook", True)])
def test_it_shows_pictures_and_no_error(  # noqa: PLR0917  fixtures
    open_notebook: NotebookOpener,
    chromium: Browser,
    gate: Path,
    tmp_path: Path,
    front_end: str,
    is_others: bool,
) -> None:
    cells = [each.format(gate=str(gate)) for each in (GRAPH, PANELS, MAP)]
    notebook = open_notebook(SETUP, *cells, front_end=front_end)
    for index in range(3):
        notebook.run(index)
    notebook.begin(3)
    notebook.cell(3).get_by_text("200 / 400").wait_for(timeout=60_000 * PATIENCE)
    for index, widget in SHOWN.items():
        expect(notebook.cell(index).locator(widget)).to_have_count(2 if index == 2 else 1)
    for index, said in SAID.items():
        wait_until(partial(is_picture, notebook, index, said), 30, "the output holds it")
    keep(notebook.page.locator(".jp-Notebook"), f"saved-live-{front_end}")
    notebook.page.keyboard.press("Control+s")
    wait_until(lambda: "was running" in notebook.path.read_text(), 10, "it is saved")
    saved = tmp_path / "saved.ipynb"
    saved.write_bytes(notebook.path.read_bytes())

    gate.touch()
    wait_until(partial(is_picture, notebook, 3, "400 / 400"), 60, "the last progress, ended")
    expect(notebook.cell(3).locator(".nbx-progress")).to_have_count(1)
    notebook.restart_kernel()
    expect(notebook.page.locator(".nbx")).to_have_count(0)
    notebook.cell(3).get_by_text("400 / 400").wait_for()
    notebook.page.close()
    notebook.server.end_kernels()

    if is_others:  # not signed: JupyterLab cleans its HTML
        saved.write_text(saved.read_text().replace("time.sleep(0.02)", "time.sleep(0.03)"))
    again = open_notebook(path=saved, front_end=front_end)
    for index, said in SAID.items():
        again.cell(index).get_by_text(said).first.wait_for()
    again.cell(3).get_by_text("was running when this was saved").wait_for()
    for wrong in ("Error displaying widget", "Loading widget"):
        expect(again.page.get_by_text(wrong)).to_have_count(0)
    expect(again.page.locator(".nbx")).to_have_count(0)
    keep(again.page.locator(".jp-Notebook"), f"saved-opened-{front_end}")

    in_html(saved, tmp_path / "saved.html")
    page = chromium.new_context(offline=True).new_page()
    page.goto(f"file://{tmp_path}/saved.html", wait_until="domcontentloaded")
    for said in SAID.values():
        page.get_by_text(said).first.wait_for()
    keep(page.locator("body"), f"saved-html-{front_end}")
    page.context.close()


def in_html(notebook: Path, made: Path) -> None:
    """Convert a notebook as its readers do."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(notebook)]
    subprocess.run(
        [*command, f"--output={made}"], check=True, capture_output=True, timeout=120 * PATIENCE
    )
