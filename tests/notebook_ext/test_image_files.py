from __future__ import annotations

import sys
from pathlib import Path

import pytest

from notebook_ext.image_files import added_file, added_folder, added_modules, read


def test_files_lie_where_they_are_said_to(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "run.sh").write_text("b")
    (tmp_path / "run.sh").chmod(0o700)
    named = added_file(tmp_path / "a.txt", None), added_file(tmp_path / "run.sh", "bin/")
    moved = added_file(tmp_path / "a.txt", "run.txt")
    assert [(f.path, f.content, f.mode) for f in read([*named, moved])] == [
        ("a.txt", b"a", 0o644),
        ("bin/run.sh", b"b", 0o755),
        ("run.txt", b"a", 0o644),
    ]


def test_folders_without_what_is_ignored(tmp_path: Path) -> None:
    for name in ("keep.py", "sub/keep.txt", "sub/drop.log", "__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    layer = added_folder(tmp_path, "inner", ["*.log"])
    assert [f.path for f in read([layer])] == ["inner/keep.py", "inner/sub/keep.txt"]
    by_function = added_folder(tmp_path, ".", lambda path: path.suffix == ".py")
    assert [f.path for f in read([by_function])] == ["sub/drop.log", "sub/keep.txt"]
    before = layer.stamp()
    (tmp_path / "keep.py").write_text("longer than it was")
    assert layer.stamp() != before


def test_modules_are_importable_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nbx_single.py").write_text("")
    (tmp_path / "nbx_package").mkdir()
    (tmp_path / "nbx_package" / "__init__.py").write_text("")
    (tmp_path / "nbx_package" / "table.csv").write_text("1,2")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    layers = added_modules(["nbx_single", "nbx_package"], ())
    assert [f.path for f in read(layers)] == [
        "nbx_package/__init__.py",
        "nbx_package/table.csv",
        "nbx_single.py",
    ]
