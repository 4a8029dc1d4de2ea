"""Files come into a volume all or none, each whole, under any name."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from notebook_ext.exception import InvalidError
from notebook_ext.state.uploads import Upload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "volumes" / "v"
    (made / "d").mkdir(parents=True)
    (made / "f").write_text("old")
    return made


class Broken(io.BytesIO):
    """A file whose disk fails."""

    def read(self, _size: int | None = -1, /) -> NoReturn:
        raise OSError("no disk")


def put(root: Path, *files: tuple[io.BytesIO, str], force: bool = False) -> None:
    with Upload(root, force=force) as batch:
        for source, remote in files:
            batch.put_file(source, remote)


def content(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def new(text: str = "new") -> io.BytesIO:
    return io.BytesIO(text.encode())


def test_what_fails_on_the_way_changes_nothing(root: Path) -> None:
    with pytest.raises(OSError, match="no disk"):
        put(root, (new(), "a"), (new(), "f"), (Broken(), "b"), force=True)
    assert content(root) == {"f": "old"}
    assert list(root.parent.iterdir()) == [root], "nothing is left beside the volumes"


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "new\nline", ".hidden", "~1-2", "-", "*"])
def test_any_name(root: Path, name: str) -> None:
    put(root, (new(name), f"e/{name}"))
    assert content(root) == {"f": "old", f"e/{name}": name}


@pytest.mark.parametrize(
    ("files", "force", "error", "says"),
    [
        ([(new(), "f")], False, FileExistsError, "f is there already"),
        ([(new(), "a"), (new(), "./a")], False, FileExistsError, "a is put twice"),
        ([(new(), "a"), (new(), "d")], True, IsADirectoryError, "d is a directory"),
        ([(new(), "a"), (new(), "f/below/x")], True, NotADirectoryError, "f is no directory"),
        ([(new(), "link")], False, FileExistsError, "link is there already"),
        ([(new(), "")], True, InvalidError, "remote_path=''"),
        ([(new(), "a/")], True, InvalidError, "remote_path='a/'"),
        ([(new(), "//../x")], True, InvalidError, "stays in the volume"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_copied(
    root: Path,
    files: list[tuple[io.BytesIO, str]],
    force: bool,
    error: type[Exception],
    says: str,
) -> None:
    (root / "link").symlink_to("nowhere")
    with pytest.raises(error, match=says):
        put(root, *files, force=force)
    assert content(root) == {"f": "old"}


def test_the_last_one_of_a_name_stays_where_that_is_asked_for(root: Path) -> None:
    put(root, (new("1"), "f"), (new("2"), "f"), force=True)
    assert content(root) == {"f": "2"}


def test_a_link_is_replaced_and_what_it_leads_to_stays(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("p")
    (root / "link").symlink_to(tmp_path / "precious")
    put(root, (new(), "link"), force=True)
    assert (root / "link").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "p"


def test_what_a_killed_process_left_goes_with_the_next_upload(root: Path) -> None:
    left = root.parent / "~99999999-abc"
    left.mkdir()
    mine = root.parent / f"~{os.getpid()}-abc"
    mine.mkdir()
    put(root, (new(), "a"))
    assert (left.exists(), mine.exists()) == (False, True)


def test_a_volume_on_another_file_system_than_what_is_beside_it(root: Path) -> None:
    memory = Path("/dev/shm")
    if memory.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is one file system here")
    elsewhere = Path(tempfile.mkdtemp(prefix="nbx-volume-", dir=memory))
    try:
        link = root.parent / "link"
        link.symlink_to(elsewhere)
        put(link, (new(), "d/a"))
        assert content(elsewhere) == {"d/a": "new"}
        assert list(elsewhere.iterdir()) == [elsewhere / "d"]
    finally:
        shutil.rmtree(elsewhere)
