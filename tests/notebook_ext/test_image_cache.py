from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernel_worker import images
from notebook_ext.cli import main
from notebook_ext.config import afresh


def test_images_are_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_DATA_DIR", str(tmp_path / "data"))
    run = CliRunner()
    assert run.invoke(main, ["image", "list"]).output == "No image is kept.\n"
    folder = images.folder_of(afresh())
    for name in ("im-1", "im-2"):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(b"0" * 2**21)
        images.complete(folder / name, images.About(f"pip_install {name}", seconds=1.5))
    head, *rows = run.invoke(main, ["image", "list"]).output.splitlines()
    assert head.split() == ["image", "MiB", "built", "in", "last", "used", "what", "is", "in", "it"]
    assert sorted(row.split()[0] for row in rows) == ["im-1", "im-2"]
    assert all("2.0" in row and "1.5 s" in row and "pip_install im-" in row for row in rows)
    assert run.invoke(main, ["image", "prune", "--unused-days", "1"]).output.startswith("0 removed")
    assert run.invoke(main, ["image", "prune", "im-1"]).output.splitlines() == [
        "Removed: im-1 (pip_install im-1)",
        "1 removed, 2 MiB.",
    ]
    assert [one.name for one in images.kept(folder)] == ["im-2"]
    missing = run.invoke(main, ["image", "prune", "im-1"])
    assert (
        missing.exit_code,
        "no image im-1 here; `notebook-ext image list`" in missing.output,
    ) == (
        1,
        True,
    )
    used = images.use(folder, "im-2")
    assert used is not None
    left = run.invoke(main, ["image", "prune"]).output.splitlines()
    assert left[0] == "0 removed, 0 MiB."
    assert left[1].startswith("In use, and left: im-2; ")
    os.close(used)
