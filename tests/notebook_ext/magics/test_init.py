import asyncio
import warnings

import pytest
from IPython.core.interactiveshell import InteractiveShell

from notebook_ext import magics


def test_loading_twice_changes_nothing(shell: InteractiveShell) -> None:
    before = len(shell.ast_transformers), len(shell.input_transformers_cleanup)
    magics.load(shell)
    assert (len(shell.ast_transformers), len(shell.input_transformers_cleanup)) == before


def test_unloading_leaves_nothing(shell: InteractiveShell) -> None:
    magics.unload(shell)
    assert "remote" not in shell.magics_manager.magics["cell"]
    assert "remote_status" not in shell.magics_manager.magics["line"]
    cell = shell.transform_cell("%%remote\ndef f(): pass")  # type: ignore[no-untyped-call]
    assert "run_cell_magic" in cell
    magics.unload(shell)


def test_a_loop_that_nest_asyncio_patched_is_named_once(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "_nest_patched", True, raising=False)
    monkeypatch.setattr(magics, "_warned", False)
    with pytest.warns(UserWarning, match="nest_asyncio2"):
        magics.load(shell)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        magics.load(shell)


def test_nest_asyncio2_is_fine(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "_nest_patched", True, raising=False)
    monkeypatch.setattr(asyncio, "_nest_asyncio2", True, raising=False)
    monkeypatch.setattr(magics, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        magics.load(shell)
