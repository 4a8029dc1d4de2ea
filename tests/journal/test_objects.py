"""Objects in the journal: each once, and as long as anything needs it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kernel_worker.journal import file
from kernel_worker.journal.objects import Objects
from kernel_worker.journal.seal import Sealer
from kernel_worker.journal.store import Finished, Store
from kernel_worker.model import CallId, Digest
from tests.journal.facts import submitted

ONE, TWO = CallId("fc-1"), CallId("fc-2")


def test_an_object_is_kept_while_a_call_needs_it(store: Store) -> None:
    store.write([submitted(ONE, code=b"c", own=b"1"), submitted(TWO, code=b"c")])
    assert dict(store.objects.needed()) == {"code": b"c", "own": b"1"}
    store.write([Finished(ONE, 100.0)])
    assert dict(store.objects.needed()) == {"code": b"c"}
    store.write([Finished(TWO, 100.0)])
    assert dict(store.objects.needed()) == {}
    store.write([submitted(CallId("fc-3"), code=b"c")])
    assert dict(store.objects.needed()) == {"code": b"c"}, "it is written again"


def test_one_that_is_longer_than_a_row_may_be_is_there_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, sealer = file.opened(path)
    monkeypatch.setattr(file, "PIECE_BYTES", 7_000)
    large, digest = bytes(range(256)) * 100, Digest("large")
    objects = Objects(db, sealer)
    for owner in (1, 2):
        objects.keep("call", owner, {digest: large}, set())
    objects.keep("deployment", 1, {digest: large}, set())
    assert db.execute("SELECT count(*) FROM objects").fetchone() == (4,)
    assert dict(Objects(db, sealer).needed()) == {digest: large}
    for owner in (1, 2):
        objects.release("call", owner)
    assert dict(objects.needed()) == {digest: large}
    objects.release("deployment", 1)
    assert db.execute("SELECT count(*) FROM objects").fetchone() == (0,)
    db.close()


def test_a_secret_lies_there_sealed_and_is_left_out_where_the_key_is_another_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db, sealer = file.opened(path)
    secret, plain = Digest("secret"), Digest("plain")
    Objects(db, sealer).keep("call", 1, {secret: b"token", plain: b"code"}, {secret})
    assert dict(Objects(db, sealer).needed()) == {secret: b"token", plain: b"code"}
    assert dict(Objects(db, Sealer(b"o" * 32)).needed()) == {plain: b"code"}
    assert "does not open secret" in caplog.text
    db.close()
    raw = sqlite3.connect(path)
    found = dict(raw.execute("SELECT digest, piece FROM objects").fetchall())
    raw.close()
    assert b"token" not in found[secret]
    assert found[plain] == b"code"
