"""JupyterLab in a browser, for the tests of this folder: one server and one browser for all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.labkit import LabServer, NotebookPage, browser, write_notebook

NotebookOpener = Callable[..., NotebookPage]


@pytest.fixture(scope="session")
def lab(own_directories: Path) -> Iterator[LabServer]:
    """Return a server with an empty directory of notebooks."""
    (own_directories / "notebooks").mkdir()
    server = LabServer(own_directories / "notebooks", own_directories / "lab")
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium(own_directories: Path) -> Iterator[Browser]:
    """Return a browser."""
    with browser(own_directories) as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Return the path of a file that inputs wait for; it is there at the end, whatever happened.

    The workers are those of all tests of this folder.
    """
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def open_notebook(
    lab: LabServer, chromium: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[NotebookOpener]:
    """Open notebooks, `open_notebook(*cells)` or `open_notebook(path=…)`, on kernels of their own.

    In JupyterLab, or with `front_end="notebook"` in Notebook 7.

    Where the test fails, a screenshot and the page's console lie in its `tmp_path`.
    """
    opened: list[NotebookPage] = []

    def open_one(*cells: str, path: Path | None = None, front_end: str = "lab") -> NotebookPage:
        name = re.sub(r"\W", "_", f"{request.node.name}_{len(opened)}") + ".ipynb"
        if path is None:
            write_notebook(lab.notebooks / name, *cells)
        else:
            (lab.notebooks / name).write_bytes(path.read_bytes())
        context = chromium.new_context(viewport={"width": 1200, "height": 900})
        opened.append(NotebookPage(lab, context.new_page(), name, front_end))
        return opened[-1]

    failures = request.session.testsfailed
    yield open_one
    for number, notebook in enumerate(opened):
        if request.session.testsfailed > failures and not notebook.page.is_closed():
            notebook.page.screenshot(path=tmp_path / f"page-{number}.png")
            (tmp_path / f"console-{number}.txt").write_text("\n".join(notebook.console))
        notebook.page.context.close()
    lab.end_kernels()
