"""A `Volume` is a directory that has a name, with what people do to files in it."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import notebook_ext as nb
from kernel_worker import context, rendezvous
from kernel_worker.model import WorkerId
from notebook_ext.exception import InvalidError, NotFoundError
from notebook_ext.state.volumes import FileEntryType


@pytest.fixture
def volume() -> Iterator[nb.Volume]:
    with nb.Volume.ephemeral() as made:
        yield made


def test_by_name() -> None:
    with pytest.raises(NotFoundError, match="the volume 'named' is not there; create_if_missing"):
        nb.Volume.lookup("named")
    made = nb.Volume.lookup("named", create_if_missing=True)
    assert (made.path.stat().st_mode & 0o777, made.info().name) == (0o700, "named")
    assert made == pickle.loads(pickle.dumps(made)) == nb.Volume.from_name("named")
    assert (repr(made), made.object_id) == ("<Volume named>", "vo-named")
    nb.Volume.objects.create("other", allow_existing=True)
    assert {"named", "other"} <= {each.name for each in nb.Volume.objects.list()}
    nb.Volume.rename("other", "new")
    assert nb.Volume.lookup("new").hydrate().name == "new"
    for name in ("named", "new"):
        nb.Volume.delete(name)
    with pytest.raises(NotFoundError):
        nb.Volume.delete("named")
    nb.Volume.objects.delete("named", allow_missing=True)


def test_files_come_in_whole_or_not_at_all(volume: nb.Volume, tmp_path: Path) -> None:
    (tmp_path / "d" / "below").mkdir(parents=True)
    for name in ("a.txt", "below/b.txt"):
        (tmp_path / "d" / name).write_text(name)
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "d" / "a.txt", "/one.txt")
        batch.put_file(io.BytesIO(b"open"), "dir/two.txt", mode=0o600)
        batch.put_file(str(tmp_path / "d" / "a.txt"), "dir/")
        batch.put_directory(tmp_path / "d", "/tree")
        batch.put_directory(tmp_path / "d", "/flat", recursive=False)
    assert [entry.path for entry in volume.listdir("/", recursive=True)] == [
        "dir", "dir/a.txt", "dir/two.txt", "flat", "flat/a.txt", "one.txt",
        "tree", "tree/a.txt", "tree/below", "tree/below/b.txt",
    ]  # fmt: skip
    assert (volume.path / "dir/two.txt").stat().st_mode & 0o777 == 0o600
    with (
        pytest.raises(FileExistsError, match="txt is there already"),
        volume.batch_upload() as batch,
    ):
        batch.put_file(io.BytesIO(b"new"), "new.txt")
        batch.put_file(io.BytesIO(b"again"), "one.txt")
    with pytest.raises(ZeroDivisionError), volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"again"), "one.txt")
        raise ZeroDivisionError
    assert (volume.path / "one.txt").read_text() == "a.txt"
    assert not (volume.path / "new.txt").exists()
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"again"), "one.txt")
        with pytest.raises(FileNotFoundError):
            batch.put_file(tmp_path / "none", "x")
        with pytest.raises(FileNotFoundError):
            batch.put_directory(tmp_path / "none", "x")
    assert (volume.path / "one.txt").read_text() == "again"


def test_files_are_read_listed_copied_and_removed(volume: nb.Volume) -> None:
    large = bytes(2**20) + b"end"
    (volume.path / "f").write_bytes(large)
    (volume.path / "link").symlink_to("f")
    assert b"".join(volume.read_file("/f")) == large
    assert [len(chunk) for chunk in volume.read_file("f")] == [2**20, 3]
    into = io.BytesIO()
    assert volume.read_file_into_fileobj("f", into) == len(into.getvalue()) == len(large)
    (entry,) = volume.listdir("f")
    assert (entry.path, entry.type, entry.size) == ("f", FileEntryType.FILE, len(large))
    volume.copy_files(["f"], "g")
    (volume.path / "d").mkdir()
    volume.copy_files(["f", "g"], "d")
    volume.copy_files(["d"], "e", recursive=True)
    found = {entry.path: entry.type.name for entry in volume.iterdir("/")}
    assert found == {
        "d": "DIRECTORY", "d/f": "FILE", "d/g": "FILE", "e": "DIRECTORY", "e/f": "FILE",
        "e/g": "FILE", "f": "FILE", "g": "FILE", "link": "SYMLINK",
    }  # fmt: skip
    volume.remove_file("f")
    volume.remove_file("d", recursive=True)
    assert [entry.path for entry in volume.listdir()] == ["e", "g", "link"]
    for gone in (lambda: volume.remove_file("f"), lambda: list(volume.read_file("f"))):
        with pytest.raises(FileNotFoundError):
            gone()
    volume.commit()
    volume.reload()


def test_in_a_task(loop: asyncio.Runner) -> None:
    async def inside() -> tuple[bytes, list[str], nb.Volume]:
        async with nb.Volume.ephemeral() as made:
            async with made.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"a"), "a")
            await made.commit.aio()
            await made.copy_files.aio(["a"], "b")
            chunks = [chunk async for chunk in made.read_file.aio("b")]
            names = [entry.path async for entry in made.iterdir.aio("/")]
            with pytest.raises(FileNotFoundError):
                await made.remove_file.aio("c")
            return b"".join(chunks), names, made

    read, names, made = loop.run(inside())
    assert (read, names) == (b"a", ["a", "b"])
    with pytest.raises(NotFoundError):
        made.path  # noqa: B018  looks


def test_what_a_killed_process_left_goes(volume: nb.Volume) -> None:
    left = volume.path.with_name("~99999999-abc")
    left.mkdir()
    with nb.Volume.ephemeral():
        assert not left.exists()
    assert volume.path.exists()


def test_a_worker_on_another_machine_has_no_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make one of its own, and nobody would see what it writes there."""
    path = tmp_path / "connection.json"
    there = rendezvous.Connection("ipc://x", 1, "i", "m", str(path), is_outpost=True)
    path.write_bytes(msgspec.json.encode(there))
    identity = context.WorkerIdentity(WorkerId("ta-1"), str(path), {})
    monkeypatch.setattr(context, "worker_identity", identity)
    with pytest.raises(InvalidError, match="this process is on another"):
        nb.Volume.lookup("elsewhere", create_if_missing=True)


def test_a_function_that_captures_one_writes_into_it(live: nb.App, tmp_path: Path) -> None:
    shared = nb.Volume.from_name("shared", create_if_missing=True)
    mount = tmp_path / "data"
    mount.symlink_to(shared.path)

    @live.function(volumes={str(mount): shared})
    def writes(text: str) -> str:
        (shared.path / "out.txt").write_text(text)
        shared.commit()
        return (mount / "out.txt").read_text()

    assert writes.remote("hello") == "hello"
    shared.reload()
    assert b"".join(shared.read_file("out.txt")) == b"hello"
    nb.Volume.delete("shared")
