"""Where browser tests leave pictures of what they saw, to be looked at: `.pictures/`."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator

PICTURES = Path(__file__).parents[2] / ".pictures"


def keep(what: Locator, name: str) -> Path:
    """Take a picture of a part of the page and return where it lies."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    what.screenshot(path=path)
    print(f"picture: {path}")  # noqa: T201  who runs the tests by hand looks at it
    return path
