"""What makes a journal of an older schema one of this version's, in the transaction that opens it.

A step is SQL, or a function of the open file where rows have to be read to be changed. Versions
follow each other: a file goes through all that are newer than it.

Not guaranteed: that what an older version dropped is no longer in free parts of its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel_worker import records
from kernel_worker.journal.seal import hidden
from kernel_worker.model import Outcome, app_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from kernel_worker.journal.seal import Sealer

    Step = str | Callable[[sqlite3.Connection, Sealer], None]

SCHEMA_VERSION = 4

_decoder: msgspec.msgpack.Decoder[records.Record] = msgspec.msgpack.Decoder(records.Record)


def migrate(db: sqlite3.Connection, version: int, sealer: Sealer) -> None:
    """Bring a file of schema `version` to `SCHEMA_VERSION`, all or nothing."""
    db.execute("PRAGMA secure_delete = ON")  # what is replaced is overwritten
    db.execute("BEGIN IMMEDIATE")
    try:
        for target in range(version + 1, SCHEMA_VERSION + 1):
            for step in STEPS[target]:
                if isinstance(step, str):
                    db.execute(step)
                else:
                    step(db, sealer)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # nor does it lie in the log of what was written
    db.execute("PRAGMA secure_delete = OFF")


def _describe_calls(db: sqlite3.Connection, _: Sealer) -> None:
    """Say of each call what its records say: function, app, when, and how its inputs ended."""
    tallies: dict[int, list[int]] = {}
    rows = db.execute(
        "SELECT call, body FROM records"
        " WHERE kind IN ('call_submitted', 'range_succeeded', 'input_ended') ORDER BY id"
    ).fetchall()
    for call, body in rows:
        tally = tallies.setdefault(call, [0] * len(Outcome))
        match _decoder.decode(body):
            case records.CallSubmitted(call=root, spec=spec, submitted_at=at):
                db.execute(
                    "UPDATE calls SET name = ?, app = ?, submitted_at = ?, module = ?, root = ?"
                    " WHERE id = ?",
                    (spec.name, app_of(spec.key), at, spec.module, root, call),
                )
            case records.RangeSucceeded(start=start, stop=stop):
                tally[Outcome.SUCCEEDED] += stop - start
            case records.InputEnded(count=count, outcome=outcome):
                tally[outcome] += count
            case _:
                pass
    db.executemany(
        "UPDATE calls SET tally = ? WHERE id = ? AND finished_at IS NOT NULL",
        [(msgspec.msgpack.encode(tally), call) for call, tally in tallies.items()],
    )


def _hide_variables(db: sqlite3.Connection, sealer: Sealer) -> None:
    """Take the environment variables of calls out of their records, and seal them."""
    rows = db.execute("SELECT id, body FROM records WHERE kind = 'call_submitted'").fetchall()
    for position, body in rows:
        record = _decoder.decode(body)
        assert isinstance(record, records.CallSubmitted)  # noqa: S101  that kind
        bare, frames = hidden(record, sealer)
        if frames:
            db.execute(
                "UPDATE records SET body = ?, payload = ? WHERE id = ?",
                (msgspec.msgpack.encode(bare), msgspec.msgpack.encode(frames), position),
            )


STEPS: dict[int, tuple[Step, ...]] = {
    2: (
        "ALTER TABLE calls ADD COLUMN name TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN app TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN submitted_at REAL NOT NULL DEFAULT 0",
        "ALTER TABLE calls ADD COLUMN module TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN root TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN parent TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE calls ADD COLUMN parent_index INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE calls ADD COLUMN tally BLOB",
        "CREATE INDEX calls_by_time ON calls (submitted_at)",
        "CREATE INDEX calls_by_root ON calls (root)",
        _describe_calls,
        (
            "CREATE TABLE deployments (id INTEGER PRIMARY KEY, app TEXT NOT NULL,"
            " version INTEGER NOT NULL, ended_at REAL, body BLOB NOT NULL, UNIQUE (app, version))"
        ),
        (
            "CREATE TABLE deployment_objects (deployment INTEGER NOT NULL"
            " REFERENCES deployments (id), digest TEXT NOT NULL,"
            " PRIMARY KEY (deployment, digest)) WITHOUT ROWID"
        ),
        "CREATE INDEX deployment_objects_by_digest ON deployment_objects (digest)",
        (
            "CREATE TABLE logs (id INTEGER PRIMARY KEY, call INTEGER NOT NULL"
            " REFERENCES calls (id), body BLOB NOT NULL)"
        ),
        "CREATE INDEX logs_by_call ON logs (call, id)",
    ),
    3: (),  # a kind of record that an older version does not know: `inputs_leased`
    4: (_hide_variables,),
}
