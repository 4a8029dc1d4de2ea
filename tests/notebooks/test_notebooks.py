"""The notebooks are documentation that runs: nbval executes each and compares what is marked.

In a process of its own, because nbval collects notebooks instead of tests. Cells tagged
`nbval-check-output` must show what is stored in the file; `nbval-ignore-output` marks those whose
output is a look at what runs at the moment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks.live_output import is_live
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
HERE = ROOT / "notebooks"
NBVAL = ("--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={60 * PATIENCE:.0f}")

each_notebook = pytest.mark.parametrize(
    "path", sorted(HERE.glob("*.ipynb")), ids=lambda path: path.stem
)


@pytest.mark.timeout(300)
@each_notebook
def test_notebook_runs_and_shows_what_it_says(path: Path, tmp_path: Path) -> None:
    command = nbval(path, tmp_path / "t")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@each_notebook
def test_notebook_tells_before_it_shows(path: Path) -> None:
    cells = cells_of(path)
    assert cells[0]["cell_type"] == "markdown"
    assert all(len("".join(cell["source"]).splitlines()) <= 26 for cell in cells)


@each_notebook
def test_what_a_notebook_shows_is_compared_or_a_picture(path: Path) -> None:
    """No stored output depends on times, ids or addresses: it is compared, or drawn, or marked."""
    loose = ["".join(cell["source"]) for cell in cells_of(path) if _is_loose(cell)]
    assert loose == []


@each_notebook
def test_a_stored_notebook_shows_pictures_where_widgets_were(path: Path) -> None:
    stored = [
        output.get("data", {}) for cell in cells_of(path) for output in cell.get("outputs", ())
    ]
    assert [each for each in stored if "application/vnd.jupyter.widget-view+json" in each] == []


def nbval(path: Path, directory: Path) -> list[str]:
    """Return the command that runs a notebook and compares what it shows, from `ROOT`."""
    plugins = ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.notebooks.live_output"]
    kept = ["-c", "/dev/null", "-q", "--rootdir", str(HERE), f"--basetemp={directory}"]
    return [sys.executable, "-m", "pytest", *NBVAL, *plugins, *kept, str(path)]


def _is_loose(cell: dict[str, Any]) -> bool:
    tags = {"nbval-check-output", "nbval-ignore-output", "raises-exception"}
    if tags & set(cell["metadata"].get("tags", ())):
        return False
    outputs = [output for output in cell.get("outputs", ()) if not is_live(output)]
    return any("image/png" not in output.get("data", {}) for output in outputs)


def cells_of(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook as its file has them."""
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return cells
