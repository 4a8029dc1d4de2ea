from __future__ import annotations

import pickle
import sys
from collections.abc import Callable

import pytest

from notebook_ext.image_imports import Imports


def test_what_is_here_is_imported_here() -> None:
    with Imports():
        import json
        from os import path
    assert json.loads("1") == 1
    assert path is sys.modules["os.path"]


def test_what_is_not_here_stands_in_for_itself() -> None:
    with Imports(), Imports():
        import nbx_nowhere  # type: ignore[import-not-found]
        from nbx_elsewhere import name  # type: ignore[import-not-found]
        from nbx_nowhere import inner
    assert repr(nbx_nowhere) == "<nbx_nowhere, which the image has>"
    assert repr(name) == "<name of nbx_elsewhere, which the image has>"
    uses: list[Callable[[], object]] = [
        lambda: nbx_nowhere.x,
        lambda: name.x,
        lambda: name(1),
        lambda: inner.x,
    ]
    for use in uses:
        with pytest.raises(ModuleNotFoundError, match="is in the image and not in this notebook"):
            use()
    assert not hasattr(type(name), "x")
    assert not [each for each in sys.modules if each.startswith("nbx_")]
    with pytest.raises(ModuleNotFoundError, match="No module named 'nbx_nowhere'"):
        import nbx_nowhere as again  # noqa: F401


def test_it_becomes_the_module_where_that_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Imports():
        import nbx_later.inner  # type: ignore[import-not-found]
        from nbx_later import inner as found
        from nbx_later import value
    pickled = pickle.dumps((nbx_later, value, found))
    place = tmp_path_factory.mktemp("later")
    (place / "nbx_later").mkdir()
    (place / "nbx_later" / "__init__.py").write_text("value = 7\n")
    (place / "nbx_later" / "inner.py").write_text("other = 8\n")
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    module, seven, inner = pickle.loads(pickled)
    assert (module.value, seven, module.inner.other, inner.other) == (7, 7, 8, 8)
    for name in [name for name in sys.modules if name.startswith("nbx_later")]:
        del sys.modules[name]


def test_a_submodule_that_a_module_here_has_not_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError), Imports():
        import json.nowhere  # type: ignore[import-not-found]  # noqa: F401
