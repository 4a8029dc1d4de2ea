"""The cache of images: names, locks, what is complete, what is removed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from kernel_worker import images, settings
from kernel_worker.model import ImageFile, ImageSpec, ImageStep
from tests.waiting import wait_until

STEP = ImageStep("pip", "pip_install a", ("a",))


def made(folder: Path, name: str, age_seconds: float = 0) -> Path:
    path = folder / name
    path.mkdir()
    (path / "file").write_bytes(b"1234")
    images.complete(path, images.About(f"what is in {name}", seconds=1.5))
    then = time.time() - age_seconds
    os.utime(path / images.COMPLETE, (then, then))
    return path


def test_names_tell_what_is_built_from_what_lies_beside_it() -> None:
    python = sys.executable
    one = images.name_of(ImageSpec((STEP,)), python)
    assert one == images.name_of(ImageSpec((STEP,), (ImageFile("f", b"", 0o644),)), python)
    assert one != images.name_of(ImageSpec((ImageStep("pip", "pip_install a", ("b",)),)), python)
    assert one != images.name_of(ImageSpec((STEP,)), "/another/python")
    stamped = [ImageStep("function", "f", stamp="s", content=c) for c in (b"1", b"2")]
    assert len({images.name_of(ImageSpec((step,)), python) for step in stamped}) == 1
    assert images.name_of_files(ImageSpec((STEP,))) == ""
    assert images.name_of_files(ImageSpec(files=(ImageFile("f", b"", 0o644),))).startswith("fi-")
    assert ImageSpec().title == "nothing installed"


def test_what_is_half_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "im-half").mkdir()
    assert images.use(tmp_path, "im-half") is None
    path = made(tmp_path, "im-whole", age_seconds=1000)
    lock = images.use(tmp_path, "im-whole")
    assert lock is not None
    assert images.is_complete(path)
    assert images.kept(tmp_path)[0].used_at > time.time() - 100, "it is used now"
    with pytest.raises(BlockingIOError), images.alone(tmp_path, "im-whole", waits=False):
        pass
    os.close(lock)
    with images.alone(tmp_path, "im-whole"):
        assert images.use(tmp_path, "im-whole") is None, "somebody is alone with it"


def test_what_nobody_uses_is_removed(tmp_path: Path) -> None:
    made(tmp_path, "im-old", 5000)
    made(tmp_path, "im-young", 10)
    made(tmp_path, "im-used", 5000)
    (tmp_path / "im-half").mkdir()
    lock = images.use(tmp_path, "im-used")
    assert lock is not None
    os.utime(tmp_path / "im-used" / images.COMPLETE, (0, 0))
    assert [one.name for one in images.prune(tmp_path, 0, ["im-none"])] == []
    removed = images.prune(tmp_path, 1000)
    assert [(one.name, one.about.title) for one in removed] == [("im-old", "what is in im-old")]
    assert {one.name for one in images.kept(tmp_path)} == {"im-young", "im-used"}
    assert not (tmp_path / "im-half").exists()
    os.close(lock)
    assert {one.name for one in images.prune(tmp_path, 0)} == {"im-young", "im-used"}


def test_a_host_agent_removes_what_is_old_when_it_starts(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "NOTEBOOK_EXT_DATA_DIR": str(tmp_path / "data")}
    variables["NOTEBOOK_EXT_IMAGE_TTL"] = "3600"
    configured = settings.load(environ=variables, start=tmp_path)
    images.prune_at_start(configured)  # there is nothing yet, and nothing is made
    assert not configured.data_dir.exists()
    folder = images.folder_of(configured)
    old, young = made(folder, "im-old", 5000), made(folder, "im-young")
    images.prune_at_start(configured)
    wait_until(lambda: not old.exists(), what="the old one is removed")
    os.waitpid(-1, 0)
    assert young.exists()
