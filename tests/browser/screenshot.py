"""Takes the README's picture: a notebook run in JupyterLab, its progress display in view.

    python -m tests.browser.screenshot notebooks/quickstart.ipynb docs/pictures/quickstart.png

Everything but the picture lies in a directory that goes away.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import ViewportSize

from tests.browser.labkit import LabServer, NotebookPage, browser
from tools.own_directories import own_directories

VIEWPORT: ViewportSize = {"width": 1000, "height": 760}

FIRST = "rng ="
"""What the first cell in the picture has in it: a little before the map."""


def take(notebook: Path, picture: Path, base: Path) -> None:
    """Run `notebook` and write `picture`, keeping all other files below `base`."""
    (base / "notebooks").mkdir()
    (base / "notebooks" / notebook.name).write_bytes(notebook.read_bytes())
    server = LabServer(base / "notebooks", base / "lab")
    try:
        with browser(base) as chromium:
            page = chromium.new_page(viewport=VIEWPORT, device_scale_factor=1.5)
            shown = NotebookPage(server, page, notebook.name)
            shown.run_all(timeout=240)
            shown.show_at_top(shown.index_of(FIRST))
            page.screenshot(path=picture)
    finally:
        server.close()


def main() -> None:
    """Take the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    with own_directories() as base:
        take(arguments.notebook, arguments.picture, base)


if __name__ == "__main__":
    main()
