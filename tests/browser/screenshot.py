"""Takes the pictures of the gallery: each notebook run in JupyterLab, its best cell in view.

    python -m tests.browser.screenshot              all of them, into docs/pictures
    python -m tests.browser.screenshot maps durable

Everything but the pictures lies in a directory that goes away.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from tests.browser.labkit import LabServer, NotebookPage, browser
from tools.own_directories import own_directories

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
VIEWPORT: ViewportSize = {"width": 1000, "height": 760}
MOST_BYTES = 150_000

FIRST = {
    "quickstart": "rng =",
    "maps": "bands = ",
    "failures": "temperatures = []",
    "classes": "reader.keep_warm(2)",
    "gpu_workers": "seen = set(",
    "laptop_to_cluster": "def accuracy",
    "generators": "accuracy = []",
    "call_graph": "%remote_graph call",
    "durable": "manager.restart_kernel",
    "cells": "%%remote_run --timeout",
    "debugging": "readings = list(power.map",
}
"""What the first cell in each picture has in it."""


def take(name: str, server: LabServer, chromium: Browser) -> Path:
    """Run the notebook `name` and write its picture, in as few colours as it takes."""
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    (server.notebooks / notebook.name).write_bytes(notebook.read_bytes())
    page = chromium.new_page(viewport=VIEWPORT, device_scale_factor=1.5)
    shown = NotebookPage(server, page, notebook.name)
    shown.run_all(timeout=240)
    shown.show_at_top(shown.index_of(FIRST[name]))
    picture = PICTURES / f"{name}.png"
    _write(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), picture)
    page.close()
    server.end_kernels()
    return picture


def _write(image: Image.Image, path: Path) -> None:
    for colours in (256, 128, 64, 32):
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            return


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", choices=[[], *FIRST])
    names = parser.parse_args().names or list(FIRST)
    PICTURES.mkdir(exist_ok=True)
    with own_directories() as base:
        (base / "notebooks").mkdir()
        server = LabServer(base / "notebooks", base / "lab")
        try:
            with browser(base) as chromium:
                for name in names:
                    picture = take(name, server, chromium)
                    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes")  # noqa: T201  a command
        finally:
            server.close()


if __name__ == "__main__":
    main()
