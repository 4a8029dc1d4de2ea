"""What a data scientist meets first: the quickstart, in JupyterLab, in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import NotebookOpener

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.mark.timeout(300)
def test_the_quickstart_runs_and_its_progress_reaches_the_end(
    open_notebook: NotebookOpener,
) -> None:
    notebook = open_notebook(path=QUICKSTART)
    notebook.run_all(timeout=240)
    search = notebook.index_of("score.map(")
    notebook.cell(search).get_by_text("100 / 100").wait_for()
    notebook.cell(search).get_by_text("100 %").wait_for()
    shown_on_purpose = notebook.index_of("score.remote(Cs[67]")
    assert notebook.all_errors() == {shown_on_purpose: ["InvalidParameterError"]}
