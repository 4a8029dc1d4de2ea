"""Where the browser is: `$CHROMIUM`, else one on PATH, else Playwright's own.

`tools/setup.sh` runs this file to learn where Playwright's own would be.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """Return the path of the browser to use; the last resort need not exist."""
    named = os.environ.get("CHROMIUM")
    found = [named] if named else [path for name in NAMES if (path := shutil.which(name))]
    return found[0] if found else playwrights_own()


def playwrights_own() -> str:
    """Return where Playwright keeps its Chromium: beside the packages, not in the user's home."""
    os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(Path(sys.prefix) / "browsers"))
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


if __name__ == "__main__":
    print(playwrights_own())  # noqa: T201  read by the shell
