"""Files below one directory: whatever they are called, whatever they are, and nothing outside."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from notebook_ext.exception import InvalidError
from notebook_ext.state import trees
from notebook_ext.state.trees import FileEntryType


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "d" / "below").mkdir(parents=True)
    (made / "f").write_text("f")
    (made / "d" / "below" / "g").write_text("g")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("p")
    return made


def names(root: Path, path: str = "/") -> list[str]:
    found = trees.entries(root, trees.inside(root, path), recursive=True)
    return [entry.path for entry in found]


def test_a_path_stays_inside(root: Path) -> None:
    for path in ("d/f", "/d/f", "//d/f", "///d//./f", "./d/f/"):
        assert trees.inside(root, path) == root / "d" / "f"
    assert [trees.inside(root, each) for each in ("", "/", "//", ".")] == [root] * 4
    (root / "out").symlink_to(root.parent / "outside")
    (root / "in").symlink_to("d")
    assert trees.inside(root, "in/f") == root / "in" / "f"
    assert trees.inside(root, "out") == root / "out"
    for path in ("..", "d/../../x", "/../x", "out/precious", "a\0b"):
        with pytest.raises(InvalidError, match="allowed is"):
            trees.inside(root, path)
    with pytest.raises(InvalidError, match="allowed is"):
        trees.remove(root, "out/precious", recursive=True)
    trees.remove(root, "out", recursive=True)
    assert (root.parent / "outside" / "precious").exists()


def test_entries_have_any_name_and_are_of_any_kind(root: Path) -> None:
    odd = ["new\nline", " space ", "ü", "-rf", "~", "*", "x" * 255, os.fsdecode(b"\xff\xfe")]
    for name in odd:
        (root / name).touch()
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
        found = list(trees.entries(root, root, recursive=True))
    kinds = {entry.path: entry.type for entry in found}
    assert list(kinds) == sorted(kinds)
    assert {kinds[name] for name in [*odd, "f", "d/below/g"]} == {FileEntryType.FILE}
    assert (kinds["loop"], kinds["pipe"], kinds["socket"], kinds["d"]) == (
        FileEntryType.SYMLINK, FileEntryType.FIFO, FileEntryType.SOCKET, FileEntryType.DIRECTORY,
    )  # fmt: skip
    for name in odd:
        assert b"".join(trees.chunks(trees.inside(root, name))) == b""
        trees.remove(root, name, recursive=False)
    with pytest.raises(InvalidError, match="path='pipe' is no file"):
        list(trees.chunks(root / "pipe"))
    with pytest.raises(OSError, match="symbolic links"):
        list(trees.chunks(trees.inside(root, "loop")))


def test_what_is_removed_meanwhile_is_left_out(root: Path) -> None:
    found = trees.entries(root, root, recursive=True)
    assert next(found).path == "d"
    shutil.rmtree(root / "d" / "below")
    (root / "f").unlink()
    assert list(found) == []
    assert names(root, "d") == []
    with pytest.raises(FileNotFoundError):
        names(root, "f")


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda root: trees.copy(root, ["d"], "d/below", recursive=True), "'d/below' is in d"),
        (lambda root: trees.copy(root, ["d"], "d", recursive=True), "'d' is in d"),
        (lambda root: trees.copy(root, ["d"], "new/../x", recursive=True), "allowed is"),
        (lambda root: trees.copy(root, "d", "e", recursive=True), "src_paths='d'"),
        (lambda root: trees.remove(root, "/", recursive=True), "use Volume.delete"),
        (lambda root: trees.remove(root, "d", recursive=False), "give recursive=True"),
    ],
)
def test_what_would_do_harm_is_refused(root: Path, does: Callable[[Path], None], says: str) -> None:
    before = names(root)
    with pytest.raises(InvalidError, match=says):
        does(root)
    assert names(root) == before


def test_links_are_copied_as_links(root: Path) -> None:
    (root / "d" / "link").symlink_to("nowhere")
    (root / "d" / "loop").symlink_to("../d")
    trees.copy(root, ["d"], "e", recursive=True)
    assert names(root, "e") == ["e/below", "e/below/g", "e/link", "e/loop"]
    assert (root / "e" / "link").readlink() == Path("nowhere")


def test_when_a_directory_was_made_does_not_change(root: Path) -> None:
    made = trees.made_at(root / "d")
    (root / "d" / "new").touch()
    os.utime(root / "d", (1, 1))
    assert made == trees.made_at(root / "d") > 1e9
