"""What dicts hold, in the journal's file: a row for each key; see `shelves.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import shelf as words
from kernel_worker.journal.acts import Refused, grow, page, too_much
from kernel_worker.shelf import Answer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from kernel_worker.shelf import Page, Put

Frame = bytes | memoryview


class Entries:
    """The entries of all dicts of an open journal."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use `db`."""
        self._db = db

    def has(self, key: int, token: bytes) -> bool:
        """Return whether the dict `key` has an entry."""
        row = self._db.execute(
            "SELECT 1 FROM entries WHERE shelf = ? AND token = ?", (key, token)
        ).fetchone()
        return row is not None

    def put(self, key: int, act: Put, frames: Sequence[Frame]) -> Answer:
        """Set entries of the dict `key`.

        Raises:
            Refused: there is no room for them.
        """
        count = grown = 0
        for at, token in enumerate(act.tokens):
            name, value = frames[2 * at], frames[2 * at + 1]
            size = len(name) + len(value)
            row = self._db.execute(
                "SELECT id, length(key), length(value) FROM entries WHERE shelf = ? AND token = ?",
                (key, token),
            ).fetchone()
            if row is None:
                self._db.execute(
                    "INSERT INTO entries (shelf, token, key, value) VALUES (?, ?, ?, ?)",
                    (key, token, name, value),
                )
                count, grown = count + 1, grown + size
            elif not act.only_new:
                self._db.execute("UPDATE entries SET value = ? WHERE id = ?", (value, row[0]))
                grown += len(value) - row[2]
        held, size = self._db.execute(
            "SELECT count, size FROM shelves WHERE id = ?", (key,)
        ).fetchone()
        if held + count > words.DICT_ENTRIES or size + grown > words.SHELF_BYTES:
            raise Refused("RequestSizeError", too_much(act.shelf, held, size))
        grow(self._db, key, count, grown)
        return Answer(count)

    def get(self, key: int, token: bytes, *, pops: bool) -> Answer:
        """Return a value, and (`pops`) remove it."""
        row = self._db.execute(
            "SELECT id, length(key), value FROM entries WHERE shelf = ? AND token = ?", (key, token)
        ).fetchone()
        if row is None:
            return Answer(False)
        if pops:
            self._db.execute("DELETE FROM entries WHERE id = ?", (row[0],))
            grow(self._db, key, -1, -row[1] - len(row[2]))
        return Answer(True, (row[2],))

    def page(self, key: int, act: Page) -> Answer:
        """Return the entries behind a position."""
        columns = "id, key, value" if act.values else "id, key, x''"
        rows = self._db.execute(
            f"SELECT {columns} FROM entries WHERE shelf = ? AND id > ? ORDER BY id",  # noqa: S608  our own words
            (key, act.after),
        )
        return page(
            act.after,
            (
                (at, ((name,) if act.keys else ()) + ((value,) if act.values else ()))
                for at, name, value in rows
            ),
        )

    def empty(self, key: int) -> None:
        """Remove all entries of a dict."""
        self._db.execute("DELETE FROM entries WHERE shelf = ?", (key,))
