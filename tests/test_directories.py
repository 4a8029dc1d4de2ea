"""Directories that are not this user's alone, or cannot be used, are refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel_worker import directories, rendezvous, settings
from kernel_worker.directories import DATA, RUNTIME, filesystem_of, prepare
from kernel_worker.errors import InvalidError
from tests.broker.speaking import read
from tests.locks import WITHOUT_LOCKS

NOBODY = 65534


def a_link(root: Path) -> None:
    (root.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(root.parent / "elsewhere")


def a_file(root: Path) -> None:
    root.write_text("")


def somebody_elses(root: Path) -> None:
    root.mkdir(mode=0o700)
    os.chown(root, NOBODY, NOBODY)


def below_a_file(root: Path) -> None:
    root.parent.rmdir()
    root.parent.write_text("")


ROOT_ALONE = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")


@pytest.mark.parametrize("variable", [RUNTIME, DATA])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (a_link, "is a symbolic link, which is not accepted; remove it, or set"),
        (a_file, "is not a directory; remove it, or set"),
        (below_a_file, "cannot be used: File exists ("),
        pytest.param(somebody_elses, "belongs to user 65534, not to you (0)", marks=ROOT_ALONE),
    ],
)
def test_what_is_no_directory_of_ours_is_refused(
    tmp_path: Path, make: Callable[[Path], None], problem: str, variable: str
) -> None:
    root = tmp_path / "below" / "root"
    root.parent.mkdir()
    make(root)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidError) as raised:
        prepare(root, "mine", variable)
    said = str(raised.value)
    assert said.startswith(f"{root} {problem}")
    assert variable in said
    assert "\n" not in said
    assert sorted(tmp_path.rglob("*")) == before, "nothing was made"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(InvalidError, match=f"written by others \\(mode {mode:04o}\\); `chmod go-w"):
        prepare(root, "mine", DATA)
    root.chmod(0o1777)
    assert prepare(root, "mine", DATA).is_dir(), "there nobody can take another's entries away"


def test_what_is_made_is_its_users_alone_and_stays_so(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        mine = prepare(tmp_path / "deep" / "root", "mine", RUNTIME)
    finally:
        os.umask(before)
    assert [each.stat().st_mode & 0o777 for each in (mine, mine.parent)] == [0o700, 0o700]
    assert prepare(tmp_path / "deep" / "root", "mine", RUNTIME) == mine
    mine.chmod(0o750)
    with pytest.raises(InvalidError, match=r"entered by others .mode 0750, not 0700.; `chmod 700"):
        prepare(mine.parent, "mine", RUNTIME)
    mine.rmdir()
    mine.symlink_to(tmp_path)
    with pytest.raises(InvalidError, match="mine is a symbolic link"):
        prepare(mine.parent, "mine", RUNTIME)


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="cannot be used: File name too long; set NOTEBOOK_EXT"):
        prepare(tmp_path / ("x" * 300), "mine", RUNTIME)


@pytest.mark.parametrize(
    ("act", "variable"), [("find(found)", RUNTIME), ("prepare_journal(found)", DATA)]
)
def test_a_file_system_without_locks_is_refused(tmp_path: Path, act: str, variable: str) -> None:
    roots = {"runtime_dir": str(tmp_path / "r"), "data_dir": str(tmp_path / "d")}
    text = (
        "from kernel_worker import errors, rendezvous, settings\n"
        f"found = settings.load({roots}, {{'HOME': '/'}}, '/')\n"
        "(rendezvous.prepare_directory(found) / 'lock').touch()\n"
        f"{WITHOUT_LOCKS}\n"
        f"try:\n    rendezvous.{act}\nexcept errors.InvalidError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", text]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be used: No locks available; set" in said
    assert variable in said
    assert said.count("\n") == 1


MOUNTS = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:30 / {home} rw - tmpfs none rw
23 21 0:31 / {home} rw - nfs4 homes:/home rw,vers=4.2
24 21 0:32 / {home}/a\040b rw - xfs /dev/b rw
"""


@pytest.fixture
def network_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home directory that the system seems to have from another machine."""
    home = tmp_path / "home"
    (home / "a b").mkdir(parents=True)
    (tmp_path / "mounts").write_text(MOUNTS.format(home=home).lstrip())
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(directories, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(directories, "LOCAL", tmp_path / "local")
    return home


def test_the_file_system_of_a_path_is_that_of_the_mount_seen_last(network_home: Path) -> None:
    assert filesystem_of(network_home / "not" / "there") == "nfs4"
    assert filesystem_of(network_home / "a b" / "c") == "xfs"
    assert filesystem_of(network_home.parent) == "ext4"
    directories.MOUNTS.unlink()
    assert not filesystem_of(network_home)


def test_the_real_mounts_are_understood() -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/")) not in {"", "proc"}


def test_with_a_home_on_the_network_the_journal_is_on_this_machine(
    network_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = rendezvous.prepare_directory(settings.load(start="/")).parent
    environ = {"HOME": str(network_home), "NOTEBOOK_EXT_RUNTIME_DIR": str(base / "net")}
    found = settings.load({"idle_exit": 0.1}, environ, "/")
    broker = rendezvous.find_or_start(found)
    process = os.pidfd_open(broker.pid)
    local = tmp_path / "local" / f"notebook-ext-{os.getuid()}"
    assert [path.name for path in local.rglob("*.db")] == ["journal.db"]
    assert list(network_home.rglob("*.db")) == []
    (record,) = caplog.records
    said = record.getMessage()
    for part in (str(found.data_dir), "network file system (nfs4)", str(local), DATA):
        assert part in said
    assert read(process), "it is idle"
    os.close(process)
    chosen = settings.load({"data_dir": network_home / "chosen"}, environ, "/")
    assert directories.on_this_machine(chosen) is chosen, "who has chosen one has it"
