"""The blocks of code in the documentation's pages run, from top to bottom, as people type them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import KernelStarter

PAGES = Path(__file__).parents[2] / "docs"
RUNNABLE = [*sorted((PAGES / "howto").glob("*.md")), PAGES / "index.md"]
BLOCK = re.compile(r"^```(ipython|python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, start_kernel: KernelStarter) -> None:
    blocks = BLOCK.findall(page.read_text())
    assert blocks or page.stem == "index"
    own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `notebook-ext` is
    kernel = start_kernel(variables={"PATH": own})
    for language, source in blocks:
        typed = f"%%bash\nset -e\n{source}" if language == "sh" else source
        cell = kernel.run(typed, timeout=90)
        assert cell.error is None, f"{source}\n{cell.stderr}\n{cell.error.traceback}"


def test_nothing_else_is_shown_as_code_without_being_run() -> None:
    """Blocks that stay unexecuted are files and drawings, and how the package is installed."""
    languages = {
        page.stem: set(re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE))
        for page in RUNNABLE
    }
    others = {"ipython", "sh", "toml", "console"}
    assert {name: found - others for name, found in languages.items() if found - others} == {}
