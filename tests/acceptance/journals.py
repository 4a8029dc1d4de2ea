"""What a broker's journal must be like when no call is open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from kernel_worker import records

_decoder: msgspec.msgpack.Decoder[records.Record] = msgspec.msgpack.Decoder(records.Record)


def check(directory: Path) -> None:
    """Look at the one journal below `directory`, which no broker has open."""
    (path,) = directory.rglob("journal*.db")
    db = sqlite3.connect(path)

    def one(query: str) -> object:
        return db.execute(query).fetchone()[0]

    assert one("PRAGMA integrity_check") == "ok"
    assert one("SELECT count(*) FROM calls WHERE finished_at IS NULL") == 0
    orphans = "SELECT count(*) FROM records WHERE call NOT IN (SELECT id FROM calls)"
    assert one(orphans) == 0
    assert one("SELECT count(*) FROM frames WHERE record NOT IN (SELECT id FROM records)") == 0
    assert one("SELECT count(*) FROM objects") == 0, "an object that no open call needs"
    for (call,) in db.execute("SELECT id FROM calls").fetchall():
        _check_outcomes(db, call)
    db.close()


def _check_outcomes(db: sqlite3.Connection, call: int) -> None:
    """Every input of a call has one outcome in the journal."""
    query = "SELECT body FROM records WHERE call = ? ORDER BY id"
    facts = [_decoder.decode(body) for (body,) in db.execute(query, (call,))]
    ended: list[int] = []
    for fact in facts:
        if isinstance(fact, records.RangeSucceeded):
            ended += range(fact.start, fact.stop)
        elif isinstance(fact, records.InputEnded):
            ended += range(fact.index, fact.index + fact.count)
    (total,) = {fact.total for fact in facts if isinstance(fact, records.InputsClosed)}
    assert sorted(ended) == list(range(total))
