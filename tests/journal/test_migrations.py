"""A journal that an older version wrote becomes one of this version's, with all that it held."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from kernel_worker import records
from kernel_worker.journal.migrations import SCHEMA_VERSION, STEPS, migrate
from kernel_worker.journal.seal import Sealer
from kernel_worker.journal.store import EndedCall, Store
from kernel_worker.model import CallContext, CallId, Outcome
from tests.journal.facts import SPEC, submitted

ONE, TWO = CallId("fc-1"), CallId("fc-2")
VERSION_1 = """
PRAGMA application_id = 0x4e42584a;
PRAGMA user_version = 1;
CREATE TABLE calls (
    id          INTEGER PRIMARY KEY,
    call        TEXT NOT NULL UNIQUE,
    finished_at REAL,
    expired     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX calls_by_end ON calls (expired, finished_at);
CREATE TABLE records (
    id      INTEGER PRIMARY KEY,
    call    INTEGER NOT NULL REFERENCES calls (id),
    kind    TEXT NOT NULL,
    body    BLOB NOT NULL,
    payload BLOB
);
CREATE INDEX records_by_call ON records (call, id);
CREATE TABLE frames (
    id       INTEGER PRIMARY KEY,
    record   INTEGER NOT NULL REFERENCES records (id),
    position INTEGER NOT NULL,
    piece    BLOB NOT NULL
);
CREATE INDEX frames_by_record ON frames (record, id);
CREATE TABLE objects (id INTEGER PRIMARY KEY, digest TEXT NOT NULL, piece BLOB NOT NULL);
CREATE INDEX objects_by_digest ON objects (digest, id);
CREATE TABLE call_objects (
    call   INTEGER NOT NULL REFERENCES calls (id),
    digest TEXT NOT NULL,
    PRIMARY KEY (call, digest)
) WITHOUT ROWID;
CREATE INDEX call_objects_by_digest ON call_objects (digest);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal of version 1 with a call that has ended and one that is open."""
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO calls VALUES (1, 'fc-1', 100.0, 0), (2, 'fc-2', NULL, 0)")
        facts: list[tuple[int, records.Record]] = [
            (1, submitted(ONE).record),
            (2, submitted(TWO).record),
            (1, records.AttemptFailed(ONE, 0, 1)),
            (1, records.InputsClosed(ONE, 4)),
            (1, records.RangeSucceeded(ONE, 0, 3, 0)),
            (1, records.InputEnded(ONE, 3, 1, Outcome.TIMED_OUT, 1, "")),
        ]
        db.executemany(
            "INSERT INTO records (call, kind, body) VALUES (?, ?, ?)",
            [
                (call, type(each).__struct_config__.tag, msgspec.msgpack.encode(each))
                for call, each in facts
            ],
        )
    db.close()
    return path


def test_calls_of_version_1_are_described(path: Path) -> None:
    store = Store.open(path)
    assert list(store.recent_calls()) == [
        EndedCall(ONE, SPEC.name, "a", 1.5, 100.0, expired=False, tally=(3, 0, 0, 1, 0, 0))
    ]
    assert [each.record.call for each in store.open_facts()] == [TWO]
    store.write([submitted("fc-3")])
    store.close()
    again = Store.open(path)
    assert len(list(again.open_facts())) == 2
    again.close()


def test_an_old_file_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    def shape(name: Path) -> list[object]:
        Store.open(name).close()
        with sqlite3.connect(name) as db:
            found: list[object] = [db.execute("PRAGMA user_version").fetchone()]
            names = db.execute("SELECT type, name, tbl_name FROM sqlite_schema ORDER BY 1, 2")
            for kind, one, table in names.fetchall():
                about = db.execute(f"PRAGMA {kind}_xinfo({one})").fetchall()
                has_rowid = db.execute(f"PRAGMA table_list({table})").fetchall()
                keys = db.execute(f"PRAGMA foreign_key_list({table})").fetchall()
                # A column that was added lies behind those that were there.
                found.append((kind, one, table, sorted(row[1:] for row in about), has_rowid, keys))
        db.close()
        return found

    assert shape(path) == shape(tmp_path / "new.db")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in db.execute(f"PRAGMA table_info({table})")]


def test_a_step_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, SCHEMA_VERSION, (*STEPS[SCHEMA_VERSION], "no SQL"))
    db = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, 1, Sealer(b"k" * 32))
    assert "name" not in _columns(db, "calls")
    db.close()


def test_variables_that_lay_in_clear_are_sealed_and_arrive(path: Path) -> None:
    context = CallContext("/work", (("TOKEN", "hunter2" * 9), ("LANG", None)))
    told = msgspec.structs.replace(submitted("fc-3").record, context=context)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO calls VALUES (3, 'fc-3', NULL, 0)")
        db.execute(
            "INSERT INTO records (call, kind, body) VALUES (3, 'call_submitted', ?)",
            (msgspec.msgpack.encode(told),),
        )
    db.close()
    assert b"hunter2" in path.read_bytes()
    store = Store.open(path)
    assert [each.record for each in store.open_facts()][-1] == told
    on_disk = b"".join(file.read_bytes() for file in path.parent.glob("journal.db*"))
    assert b"fc-3" in on_disk
    assert b"hunter2" not in on_disk
    store.close()
