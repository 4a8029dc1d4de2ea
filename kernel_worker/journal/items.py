"""What queues hold, in the journal's file: partitions, a row for each item; see `shelves.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import shelf as words
from kernel_worker.journal.acts import Refused, grow, page, too_much
from kernel_worker.shelf import Answer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from kernel_worker.shelf import Add, Take

Frame = bytes | memoryview

_LEAVING = 100
"""So many partitions whose time is over are removed at a time."""


class Items:
    """The items of all queues of an open journal."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use `db`."""
        self._db = db

    def taken(self, client: str, request: int) -> Answer | None:
        """Return what a request has taken already, if it has."""
        rows = self._db.execute(
            "SELECT item FROM items WHERE client = ? AND request = ? ORDER BY id",
            (client, request),
        ).fetchall()
        return Answer(len(rows), tuple(item for (item,) in rows)) if rows else None

    def partition(self, shelf: int, name: bytes, now: float) -> int:
        """Return the key of a partition; 0 where there is none. What has expired is emptied."""
        row = self._db.execute(
            "SELECT id, expires_at FROM partitions WHERE shelf = ? AND name = ?",
            (shelf, name),
        ).fetchone()
        if row is None:
            return 0
        if row[1] is not None and row[1] <= now:
            self.drop(row[0])
            return 0
        return int(row[0])

    def drop(self, partition: int) -> int:
        """Remove a partition with what nobody has taken of it; return how many items those were."""
        shelf, count = self._db.execute(
            "SELECT shelf, count FROM partitions WHERE id = ?", (partition,)
        ).fetchone()
        (size,) = self._db.execute(
            "SELECT coalesce(sum(length(item)), 0) FROM items"
            " WHERE partition = ? AND client IS NULL",
            (partition,),
        ).fetchone()
        self._db.execute("DELETE FROM items WHERE partition = ? AND client IS NULL", (partition,))
        self._db.execute("DELETE FROM partitions WHERE id = ?", (partition,))
        grow(self._db, shelf, -count, -size)
        return int(count)

    def drop_late(self, shelf: int, now: float) -> None:
        """Remove all partitions of a shelf whose time is over."""
        for (partition,) in self._db.execute(
            "SELECT id FROM partitions WHERE shelf = ? AND expires_at <= ?", (shelf, now)
        ).fetchall():
            self.drop(partition)

    def _new_partition(self, shelf: int, name: bytes, now: float) -> int:
        late = self._db.execute(
            "SELECT id FROM partitions WHERE expires_at <= ? LIMIT ?", (now, _LEAVING)
        ).fetchall()
        for (partition,) in late:
            self.drop(partition)
        (count,) = self._db.execute(
            "SELECT count(*) FROM partitions WHERE shelf = ?", (shelf,)
        ).fetchone()
        if count >= words.PARTITIONS:
            why = f"a queue has {words.PARTITIONS:,} partitions at most; clear some of these"
            raise Refused("RequestSizeError", why)
        cursor = self._db.execute(
            "INSERT INTO partitions (shelf, name) VALUES (?, ?)", (shelf, name)
        )
        return int(cursor.lastrowid or 0)

    def add(self, shelf: int, act: Add, frames: Sequence[Frame], now: float) -> Answer:
        """Put items into a partition of the queue `shelf`.

        Raises:
            Refused: there is no room for them.
        """
        size = sum(map(len, frames))
        key = self.partition(shelf, act.partition, now)
        held, held_bytes = self._held(key, shelf)
        if held_bytes + size > words.SHELF_BYTES:
            self.drop_late(shelf, now)
            held, held_bytes = self._held(key, shelf)
        if held + len(frames) > words.PARTITION_ITEMS or held_bytes + size > words.SHELF_BYTES:
            raise Refused(words.FULL, too_much(act.shelf, held, held_bytes))
        if not key:
            key = self._new_partition(shelf, act.partition, now)
        self._db.executemany(
            "INSERT INTO items (partition, item) VALUES (?, ?)", ((key, each) for each in frames)
        )
        until = None if act.ttl_seconds is None else now + act.ttl_seconds
        self._db.execute(
            "UPDATE partitions SET count = count + ?, expires_at = ? WHERE id = ?",
            (len(frames), until, key),
        )
        grow(self._db, shelf, len(frames), size)
        return Answer(len(frames))

    def _held(self, partition: int, shelf: int) -> tuple[int, int]:
        """Return how many items a partition holds, and how many bytes all of its queue."""
        found: tuple[int, int] = self._db.execute(
            "SELECT coalesce((SELECT count FROM partitions WHERE id = ?), 0), size FROM shelves"
            " WHERE id = ?",
            (partition, shelf),
        ).fetchone()
        return found

    def take(self, key: int, act: Take, client: str, request: int) -> Answer:
        """Take items out of the partition `key`: `client` has them by `request`.

        Raises:
            Refused: there are none.
        """
        rows = self._db.execute(
            "SELECT id, item FROM items WHERE partition = ? AND client IS NULL ORDER BY id LIMIT ?",
            (key, act.count),
        )
        taken: list[tuple[int, bytes]] = []
        size = 0
        for at, item in rows:
            if taken and size + len(item) > words.ACT_BYTES:
                break
            taken.append((at, item))
            size += len(item)
        if not taken:
            raise Refused(words.EMPTY, "there is nothing in the queue")
        self._db.executemany(
            "UPDATE items SET client = ?, request = ? WHERE id = ?",
            ((client, request, at) for at, _ in taken),
        )
        self._count_items(key, -len(taken), -size)
        return Answer(len(taken), tuple(item for _, item in taken))

    def _count_items(self, partition: int, count: int, size: int) -> None:
        row = self._db.execute(
            "UPDATE partitions SET count = count + ? WHERE id = ? RETURNING shelf",
            (count, partition),
        ).fetchone()
        if row is not None:
            grow(self._db, row[0], count, size)

    def comes(self, key: int, after: int) -> Answer:
        """Return whether the partition `key` has items behind a position."""
        row = self._db.execute(
            "SELECT 1 FROM items WHERE partition = ? AND client IS NULL AND id > ? LIMIT 1",
            (key, after),
        ).fetchone()
        return Answer(True) if row else Answer(False, error=words.EMPTY)

    def page(self, key: int, after: int) -> Answer:
        """Return the items of the partition `key` behind a position; they stay."""
        rows = self._db.execute(
            "SELECT id, item FROM items WHERE partition = ? AND client IS NULL AND id > ?"
            " ORDER BY id",
            (key, after),
        )
        return page(after, ((at, (item,)) for at, item in rows))

    def count(self, key: int) -> int:
        """Return how many items the partition `key` has."""
        row = self._db.execute("SELECT count FROM partitions WHERE id = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def empty(self, shelf: int) -> None:
        """Remove all partitions of a queue, with what was taken of them too."""
        self._db.execute(
            "DELETE FROM items WHERE partition IN (SELECT id FROM partitions WHERE shelf = ?)",
            (shelf,),
        )
        self._db.execute("DELETE FROM partitions WHERE shelf = ?", (shelf,))

    def put_back(
        self, which: str, values: tuple[object, ...], found: dict[tuple[str, bytes], int]
    ) -> None:
        """Put back what was taken; note in `found` how many items a queue's partition has again."""
        rows = self._db.execute(
            f"UPDATE items SET client = NULL, request = NULL WHERE {which}"  # noqa: S608  our own words
            " RETURNING partition, length(item), id",
            values,
        ).fetchall()
        for partition, size, at in rows:
            row = self._db.execute(
                "SELECT shelves.name, partitions.name FROM partitions"
                " JOIN shelves ON shelves.id = partitions.shelf WHERE partitions.id = ?",
                (partition,),
            ).fetchone()
            if row is None:  # it was cleared, or removed, meanwhile
                self._db.execute("DELETE FROM items WHERE id = ?", (at,))
                continue
            self._count_items(partition, 1, size)
            found[row] = found.get(row, 0) + 1
