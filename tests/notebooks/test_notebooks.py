"""The notebooks are documentation that runs: nbval executes each and compares what is marked.

In a process of its own, because nbval collects notebooks instead of tests. Cells tagged
`nbval-check-output` must show what is stored in the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

HERE = Path(__file__).parents[2] / "notebooks"
NBVAL = ("--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={60 * PATIENCE:.0f}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", sorted(HERE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_says(path: Path, tmp_path: Path) -> None:
    quiet = ["-p", "no:randomly", "-p", "no:cacheprovider", "-c", "/dev/null", "-q"]
    kept = ["--rootdir", str(HERE), f"--basetemp={tmp_path / 't'}"]
    command = [sys.executable, "-m", "pytest", *NBVAL, *quiet, *kept, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted(HERE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_tells_before_it_shows(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert all(len("".join(cell["source"]).splitlines()) <= 16 for cell in cells)
