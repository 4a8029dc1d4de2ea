"""The documentation builds without a warning, fetches nothing, and leaves nothing out."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import notebook_ext as nb
from kernel_worker.settings import NAMES
from notebook_ext import exception, options
from notebook_ext.cli import main
from notebook_ext.magics import table

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs"
FETCHED = re.compile(r"""(?:\bsrc=|<link[^>]*\bhref=|@import |url\()["']?(?:https?:)?//[^"' )]+""")
"""What a browser would ask another machine for while it shows a page."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-d"]
    places = [str(built / "cache"), str(SOURCE), str(built / "html")]
    result = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return built / "html"


def page(site: Path, name: str) -> str:
    """Return the text of a page, without its tags."""
    return re.sub(r"<[^>]+>", "", (site / f"{name}.html").read_text())


@pytest.mark.timeout(300)
def test_no_page_asks_the_network_for_anything(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    found = {str(path.relative_to(site)): FETCHED.findall(path.read_text()) for path in pages}
    assert {name: fetched for name, fetched in found.items() if fetched} == {}


def test_every_notebook_is_in_the_tutorial(site: Path) -> None:
    tutorial = (site / "tutorial.html").read_text()
    notebooks = {path.stem for path in ROOT.glob("notebooks/*.ipynb")}
    assert {name for name in notebooks if f"notebooks/{name}.html" not in tutorial} == set()


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = (site / "reference/api.html").read_text()
    missing = [name for name in nb.__all__ if f'id="notebook_ext.{name}"' not in text]
    assert set(missing) - ELSEWHERE == set()


def test_the_reference_has_every_method_that_people_call(site: Path) -> None:
    text = (site / "reference/api.html").read_text()
    for kind in (nb.App, nb.Function, nb.FunctionCall):
        for name in dir(kind):
            if not name.startswith("_") and name not in INTERNAL:
                assert f'id="notebook_ext.{kind.__name__}.{name}"' in text, (kind, name)


ELSEWHERE = {"Error", "exception", "call_graph", "functions", "enable_output"}
"""Modules, whose names are on their pages, and what does nothing."""

INTERNAL = {
    *(
        "add",
        "as_argument",
        "follow",
        "gather",
        "has_code",
        "is_generator",
        "key",
        "newest",
        "own_table",
    ),
    *("pool_stats", "read", "reference", "submission"),
}
"""For the rest of the package; `gather` is the function of that name."""


def test_the_reference_has_every_option_setting_magic_command_and_exception(site: Path) -> None:
    shown = page(site, "reference/options")
    assert [name for name in options._READERS if name not in shown] == []
    assert [name for name in NAMES if name not in page(site, "reference/settings")] == []
    magics = page(site, "reference/magics")
    names = {each.name for each in table.LINES} | {each.name for each in table.CELLS}
    assert {name for name in names if f"%{name}" not in magics} == set()
    assert [name for name in main.commands if name not in page(site, "reference/cli")] == []
    tree = page(site, "reference/exceptions")
    assert [name for name in exception.__all__ if name not in tree] == []


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [
        f"{kind.__name__}.{name}"
        for kind in (nb.App, nb.Cls, nb.Function, nb.FunctionCall, nb.Secret, nb.Retries)
        for name, thing in vars(kind).items()
        if not name.startswith("_") and callable(thing) and not inspect.getdoc(thing)
    ]
    assert undocumented == []
