"""The journal's file: who may read it, what is refused, and what is set aside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kernel_worker.errors import ConnectionError, VersionError  # noqa: A004  ours
from kernel_worker.journal.migrations import SCHEMA_VERSION
from kernel_worker.journal.store import Store
from kernel_worker.model import CallId
from tests.journal.facts import submitted

ONE = CallId("fc-1")


def test_nobody_else_can_read_a_journal(store: Store, path: Path) -> None:
    store.write([submitted(ONE, code=b"c")])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_a_journal_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionError, match=r"journal .*file/deep/journal\.db cannot be opened"):
        Store.open(tmp_path / "file" / "deep" / "journal.db")


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store.open(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(VersionError, match=f"schema {SCHEMA_VERSION + 1}.*{SCHEMA_VERSION}"):
        Store.open(path)


def test_a_damaged_file_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)
    Store.open(path).close()
    aside = next(path.parent.glob("journal.damaged-*"))
    assert aside.read_bytes() == b"this is no database" * 1000
    assert str(aside) in caplog.text


def test_another_programs_file_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    Store.open(path).close()
    assert len(list(path.parent.glob("journal.damaged-*"))) == 1


def test_one_process_at_a_time(store: Store, path: Path) -> None:
    store.write([submitted(ONE)])
    with pytest.raises(ConnectionError, match="locked"):
        Store.open(path)
