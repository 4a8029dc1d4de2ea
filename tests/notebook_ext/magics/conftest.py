"""A shell to type cells into, in this process, with the extension loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from notebook_ext import magics
from tests.notebook_ext.magics.typing import Typed


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """An IPython without history file, in which `%load_ext notebook_ext` was run."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell.instance(config=config)
    magics.load(made)
    yield made
    magics.unload(made)
    InteractiveShell.clear_instance()


@pytest.fixture
def typed(shell: InteractiveShell) -> Typed:
    """Run a cell as a user does and return what its last line is worth; a failure raises."""

    def run(source: str) -> Any:
        result = shell.run_cell(source, store_history=True)  # type: ignore[no-untyped-call]
        result.raise_error()
        return result.result

    return run
