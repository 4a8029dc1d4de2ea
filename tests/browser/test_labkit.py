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
bar = ipywidgets.IntProgress(max=50, description="0 %")
display(bar)
for value in range(51):
    bar.value = value
    bar.description = f"{value * 2} %"
"""


def test_clicks_progress_and_exceptions_are_seen(open_notebook: NotebookOpener) -> None:
    notebook = open_notebook(BUTTON, PROGRESS, "1/0")
    notebook.run(0)
    notebook.cell(0).get_by_role("button", name="Hit").click()
    notebook.cell(0).get_by_role("button", name="hits 1").wait_for()
    assert notebook.evaluate("hits") == 1
    notebook.run(1)
    notebook.cell(1).get_by_text("100 %").wait_for()
    assert notebook.errors(1) == []
    notebook.run(2)
    assert notebook.errors(2) == ["ZeroDivisionError"]
