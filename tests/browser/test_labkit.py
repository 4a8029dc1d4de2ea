"""The kit drives a real JupyterLab: shown here with widgets that are not ours."""

from __future__ import annotations

from tests.browser.conftest import NotebookOpener

BUTTON = """
import ipywidgets
hits = 0
button = ipywidgets.Button(description="Hit")
def count(_):
    global hits
    hits += 1
    button.description = f"hits {hits}"
button.on_click(count)
button
"""
PROGRESS = """
import ipywidgets
bar = ipywidgets.IntProgress(max=200, description="0 %")
display(bar)
for value in range(201):
    bar.value = value
    bar.description = f"{value / 2:.0f} %"
"""


def test_a_click_reaches_the_kernel(open_notebook: NotebookOpener) -> None:
    notebook = open_notebook(BUTTON)
    notebook.run(0)
    notebook.cell(0).get_by_role("button", name="Hit").click()
    notebook.cell(0).get_by_role("button", name="hits 1").wait_for()
    assert notebook.evaluate("hits") == 1


def test_a_progress_bar_reaches_its_end(open_notebook: NotebookOpener) -> None:
    notebook = open_notebook(PROGRESS)
    notebook.run_all()
    notebook.cell(0).get_by_text("100 %").wait_for()
    assert notebook.errors(0) == []


def test_an_exception_is_found_in_the_outputs(open_notebook: NotebookOpener) -> None:
    notebook = open_notebook("1/0")
    notebook.run(0)
    assert notebook.errors(0) == ["ZeroDivisionError"]
