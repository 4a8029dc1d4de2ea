"""Real faults: limits that are set, directories that others can enter, a tool that fails."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker import directories, rendezvous, settings
from kernel_worker.settings import Settings
from kernel_worker.store import owning, segments
from notebook_ext.doctor import machine
from notebook_ext.doctor.finding import Finding


@contextlib.contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process meanwhile."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Settings]:
    """Give settings with directories of their own, whose paths are short."""
    with tempfile.TemporaryDirectory(prefix="nx") as base:
        given = {"runtime_dir": f"{base}/r", "data_dir": f"{base}/d"}
        yield settings.load(given, {"HOME": str(tmp_path)}, "/")


def by_check(found: Iterator[Finding]) -> dict[str, Finding]:
    return {each.check: each for each in found}


def test_sound_directories_are_made_and_said_to_be(configured: Settings) -> None:
    found = by_check(machine.places(configured))
    assert {each.grade for each in found.values()} == {"ok"}
    assert list(found)[:3] == ["runtime directory", "socket path", "data directory"]
    assert found["data directory"].said.startswith(str(configured.data_dir))
    assert "because" not in found["socket path"].said


def test_what_others_can_enter_is_a_problem_with_its_remedy(configured: Settings) -> None:
    configured.data_dir.mkdir()
    configured.data_dir.chmod(0o777)
    configured.runtime_dir.symlink_to(configured.data_dir)
    found = by_check(machine.places(configured))
    assert found["runtime directory"].said.endswith("is a symbolic link, which is not accepted")
    data = found["data directory"]
    assert data.said.endswith("can be written by others (mode 0777)")
    assert data.remedy.startswith(f"`chmod go-w {configured.data_dir}`, or set NOTEBOOK_EXT_DATA")
    assert "socket path" not in found


def test_a_long_path_has_another_socket(configured: Settings) -> None:
    given = {"runtime_dir": configured.runtime_dir / ("x" * 100), "data_dir": configured.data_dir}
    found = by_check(machine.places(settings.load(given, {"HOME": "/"}, "/")))["socket path"]
    assert found.grade == "ok"
    assert "because that of the runtime directory is too long" in found.said
    Path(found.said.partition(": ")[2].partition("/broker.sock")[0]).rmdir()


def test_a_home_on_the_network_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text("1 0 0:1 / / rw - nfs4 homes:/ rw\n")
    monkeypatch.setattr(directories, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(directories, "LOCAL", tmp_path)
    environ = {"HOME": str(tmp_path), "NOTEBOOK_EXT_RUNTIME_DIR": str(tmp_path / "r")}
    warning, fine = [
        each
        for each in machine.places(settings.load(environ=environ, start="/"))
        if each.check == "data directory"
    ]
    assert warning.grade == "warning"
    assert "network file system (nfs4)" in warning.said
    assert warning.remedy == "set NOTEBOOK_EXT_DATA_DIR to choose a place"
    assert fine.said.startswith(str(tmp_path / "notebook-ext-"))


def test_a_disk_without_room_is_a_problem() -> None:
    found = machine.room("journal", Path("/proc"), "SOME_DIR")  # it never has any
    assert (found.grade, found.said) == ("problem", "0 MiB free in /proc (proc)")
    assert found.remedy == "make room there, or set SOME_DIR to another directory"


def test_few_open_files_and_small_ones_are_said(configured: Settings) -> None:
    with limited(resource.RLIMIT_NOFILE, 500), limited(resource.RLIMIT_FSIZE, 8 << 20):
        found = by_check(machine.findings(configured))
    assert found["open files"].grade == "warning"
    assert found["open files"].said.startswith("500 a process")
    assert found["open files"].remedy.startswith("`ulimit -n ")
    assert found["file size"].said.startswith("at most 8 MiB")
    with limited(resource.RLIMIT_NOFILE, 100):
        assert machine.open_files().grade == "problem"
    assert list(machine.file_size()) == []


def test_few_processes_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    with limited(resource.RLIMIT_NPROC, 10_000):
        (fine,) = machine.processes()
    assert fine.grade == "ok"
    assert "more, by `ulimit -u`" in fine.said
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("90\n")
    *_, found = machine.processes()
    assert found.grade == "warning"
    assert found.said.startswith("only 10 more, by pids.max of the cgroup")
    (tmp_path / "pids.max").write_text("max\n")
    assert all(each.grade == "ok" for each in machine.processes())


LISTS = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H200 (UUID: GPU-2)'"
FAILS = "echo 'NVIDIA-SMI has failed' ; exit 9"


@pytest.mark.parametrize(
    ("script", "grade", "said"),
    [
        (LISTS, "ok", "GPU 0: NVIDIA H200, GPU 1: NVIDIA H200"),
        (FAILS, "warning", "finds none: NVIDIA-SMI has failed"),
        (None, "ok", "none: nvidia-smi is not installed"),
    ],
)
def test_gpus_are_what_the_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, grade: str, said: str
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.gpus(settings.load(environ={"HOME": "/"}, start="/"))
    assert (found.grade, said in found.said) == (grade, True), found
    none = settings.load({"gpus": "none"}, {"HOME": "/"}, "/")
    assert "setting gpus" in machine.gpus(none).said


def test_what_large_values_take_is_said_and_where_they_have_little_room(
    configured: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broker = rendezvous.prepare_directory(configured)
    store = owning.Store(broker, "cl-doctor", 1 << 30)
    try:
        assert segments.write(str(store.directory), [memoryview(bytes(400_000))])
        assert owning.held_by_client(store.directory.parent)["cl-doctor"] >= 400_000
        found = machine.shared_memory()
        assert found.grade == "ok"
        assert "free in /dev/shm; values of " in found.said
        monkeypatch.setattr(machine, "ENOUGH_BYTES", 1 << 60)
        assert machine.shared_memory().remedy.endswith("--shm-size=2g")
        assert machine.shared_memory(tmp_path).grade == "warning"
    finally:
        store.close()
