from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest

from kernel_worker.wire.bundle import ModuleSource
from kernel_worker.worker import modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(modules, "_finder", modules.ShippedFinder())
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    folder = tmp_path / "shipped_one"
    folder.mkdir()
    (folder / "data.txt").write_text("data")
    (folder / "on_disk.py").write_text("v = 3\n")
    yield folder
    for name in [n for n in sys.modules if n.startswith("shipped_")]:
        del sys.modules[name]


def source(folder: Path, name: str, text: str) -> ModuleSource:
    is_package = "." not in name
    path = folder / ("__init__.py" if is_package else f"{name.rpartition('.')[2]}.py")
    return ModuleSource(name, str(path), text.encode(), is_package)


def test_package_with_relative_imports_and_what_is_on_disk(package: Path) -> None:
    modules.install(
        [
            source(package, "shipped_one", "from .inner import v\nfrom . import on_disk\n"),
            source(package, "shipped_one.inner", "v = 1\n"),
        ]
    )
    made = importlib.import_module("shipped_one")
    assert (made.v, made.on_disk.v) == (1, 3)
    assert made.__file__ == str(package / "__init__.py")
    loader = made.__loader__
    assert isinstance(loader, modules.ShippedLoader)
    assert loader.get_data(str(package / "data.txt")) == b"data"
    assert not list(package.glob("__pycache__/inner*"))
    assert loader.get_source("shipped_one") == "from .inner import v\nfrom . import on_disk\n"


def test_another_text_is_imported_anew(package: Path) -> None:
    modules.install([source(package, "shipped_one", "v = 1\n")])
    first = importlib.import_module("shipped_one")
    modules.install([source(package, "shipped_one", "v = 1\n")])
    assert importlib.import_module("shipped_one") is first
    modules.install([source(package, "shipped_one", "v = 2\n")])
    assert importlib.import_module("shipped_one").v == 2


def test_nothing_to_install_changes_nothing(package: Path) -> None:
    before = list(sys.meta_path)
    modules.install([])
    assert sys.meta_path == before


def test_other_names_are_not_found(package: Path) -> None:
    modules.install([source(package, "shipped_one", "")])
    assert importlib.util.find_spec("shipped_other") is None
