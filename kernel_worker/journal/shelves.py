"""Dicts and queues in the journal's file: acts become rows, inside the transaction of a turn.

Theory. Every act is a few statements; none reads a whole table. How many entries and bytes a shelf
holds is counted along. An item that is taken is marked with the client and the request that took
it, and goes when the client has said that it has it; until then the same request, said again to a
broker that was started anew, gets the same items, and when the client is gone without that word
they are where they were. What other acts answered is kept beside, as long.

Guarantees: an act that was answered is not done again. What is refused changes nothing.
Not guaranteed: that partitions whose time is over leave the disk before somebody looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import msgspec

from kernel_worker import shelf as words
from kernel_worker.shelf import (
    Add,
    Answer,
    Await,
    Clear,
    Count,
    Get,
    Has,
    List,
    Open,
    Page,
    Pop,
    Put,
    Remove,
    Shelf,
    ShelfInfo,
    Take,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from kernel_worker.shelf import Act

Frame = bytes | memoryview

_LEAVING = 100
"""So many partitions whose time is over are removed at a time."""
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class _Refused(Exception):  # noqa: N818  an answer
    """The act cannot be."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(why)
        self.answer = Answer(why, error=error)


class Shelves:
    """The shelves of an open journal; used inside its transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Make the tables where they are not there."""
        self._db = db
        schema = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
        for statement in _statements(schema):
            db.execute(statement)

    # ---- acts ---------------------------------------------------------------------------------

    def do(
        self, act: Act, frames: Sequence[Frame], client: str, request: int, now: float
    ) -> Answer:
        """Do `act`, or say again what was answered to it.

        Args:
            act: What to do.
            frames: What goes with it.
            client: Who asks.
            request: The client's number for it.
            now: Unix seconds.
        """
        changes = isinstance(act, words.CHANGES)
        if changes:
            known = self._known(act, client, request)
            if known is not None:
                return known
        if changes:
            if not isinstance(act, Open | Remove | List) and act.shelf.creates:
                self._make_if_missing(act.shelf, client, now)  # it stays, whatever comes of the act
            self._db.execute("SAVEPOINT act")
        try:
            answer = self._done(act, frames, client, request, now)
        except _Refused as refused:
            if changes:
                self._db.execute("ROLLBACK TO act")
                self._db.execute("RELEASE act")
            return refused.answer
        if changes:
            self._db.execute("RELEASE act")
        if changes and not isinstance(act, Take):
            self._db.execute(
                "INSERT INTO answers VALUES (?, ?, ?)",
                (client, request, msgspec.msgpack.encode(answer)),
            )
        return answer

    def _known(self, act: Act, client: str, request: int) -> Answer | None:
        if isinstance(act, Take):
            rows = self._db.execute(
                "SELECT item FROM items WHERE client = ? AND request = ? ORDER BY id",
                (client, request),
            ).fetchall()
            return Answer(len(rows), tuple(item for (item,) in rows)) if rows else None
        row = self._db.execute(
            "SELECT answer FROM answers WHERE client = ? AND request = ?", (client, request)
        ).fetchone()
        return None if row is None else _answers.decode(row[0])

    def _done(  # noqa: PLR0911  one case for each act
        self, act: Act, frames: Sequence[Frame], client: str, request: int, now: float
    ) -> Answer:
        match act:
            case Open():
                return self._open(act, client, now)
            case List(kind=kind):
                rows = self._db.execute(
                    "SELECT name, created_at, sealed, count, size FROM shelves"
                    " WHERE kind = ? AND owner = '' ORDER BY name",
                    (kind,),
                )
                return Answer([_info(row) for row in rows])
            case Remove(shelf=shelf):
                return Answer(self._remove(shelf))
            case Put():
                return self._put(act, frames, client, now)
            case Get(shelf=shelf, token=token) | Pop(shelf=shelf, token=token):
                return self._get(shelf, token, client, now, pops=isinstance(act, Pop))
            case Has(shelf=shelf, token=token):
                row = self._db.execute(
                    "SELECT 1 FROM entries WHERE shelf = ? AND token = ?",
                    (self._shelf(shelf, client, now), token),
                ).fetchone()
                return Answer(row is not None)
            case Count():
                return Answer(self._count(act, client, now))
            case Clear():
                return Answer(self._clear(act, client, now))
            case Page(shelf=Shelf(kind="dict")):
                return self._entries(act, client, now)
            case Page():
                return self._items(act, client, now)
            case Add():
                return self._add(act, frames, client, now)
            case Take():
                return self._take(act, client, request, now)
            case Await(after=after):
                key = self._partition(act, client, now)
                row = self._db.execute(
                    "SELECT 1 FROM items WHERE partition = ? AND client IS NULL AND id > ? LIMIT 1",
                    (key, after),
                ).fetchone()
                return Answer(True) if row else Answer(False, error=words.EMPTY)
            case _:
                assert_never(act)

    # ---- shelves --------------------------------------------------------------------------------

    def _shelf(self, shelf: Shelf, client: str, now: float) -> int:
        row = self._db.execute(
            "SELECT id, sealed FROM shelves WHERE kind = ? AND name = ?", (shelf.kind, shelf.name)
        ).fetchone()
        if row is None:
            return self._made(shelf, client, now)
        if bool(row[1]) is not shelf.sealed:
            how = "sealed" if row[1] else "in clear"
            raise _Refused(words.SEALED, f"the {shelf.kind} {shelf.name!r} holds what is {how}")
        return int(row[0])

    def _make_if_missing(self, shelf: Shelf, client: str, now: float) -> None:
        if self._row(shelf) is None:
            self._made(shelf, client, now)

    def _made(self, shelf: Shelf, client: str, now: float) -> int:
        is_ephemeral = shelf.name.startswith(words.EPHEMERAL)
        if not shelf.creates:
            what = f"the ephemeral {shelf.kind}" if is_ephemeral else f"{shelf.kind} {shelf.name!r}"
            why = (
                f"{what} has ended with its owner"
                if is_ephemeral
                else f"there is no {what}; create_if_missing=True makes it"
            )
            raise _Refused("NotFoundError", why)
        cursor = self._db.execute(
            "INSERT INTO shelves (kind, name, sealed, owner, created_at) VALUES (?, ?, ?, ?, ?)",
            (shelf.kind, shelf.name, shelf.sealed, client if is_ephemeral else "", now),
        )
        return int(cursor.lastrowid or 0)

    def _open(self, act: Open, client: str, now: float) -> Answer:
        shelf = act.shelf
        row = self._row(shelf)
        if row is not None and act.is_new:
            raise _Refused("InvalidError", f"there is a {shelf.kind} {shelf.name!r} already")
        if row is None:
            self._made(shelf, client, now)
            row = self._row(shelf)
        assert row is not None  # noqa: S101  just made
        return Answer(_info(row))

    def _row(self, shelf: Shelf) -> tuple[str, float, int, int, int] | None:
        found: tuple[str, float, int, int, int] | None = self._db.execute(
            "SELECT name, created_at, sealed, count, size FROM shelves WHERE kind = ? AND name = ?",
            (shelf.kind, shelf.name),
        ).fetchone()
        return found

    def _remove(self, shelf: Shelf) -> bool:
        row = self._db.execute(
            "DELETE FROM shelves WHERE kind = ? AND name = ? RETURNING id", (shelf.kind, shelf.name)
        ).fetchone()
        if row is None:
            return False
        self._empty(row[0])
        return True

    def _empty(self, key: int) -> None:
        self._db.execute("DELETE FROM entries WHERE shelf = ?", (key,))
        self._db.execute(
            "DELETE FROM items WHERE partition IN (SELECT id FROM partitions WHERE shelf = ?)",
            (key,),
        )
        self._db.execute("DELETE FROM partitions WHERE shelf = ?", (key,))

    def _grow(self, key: int, count: int, size: int) -> None:
        if count or size:
            self._db.execute(
                "UPDATE shelves SET count = count + ?, size = size + ? WHERE id = ?",
                (count, size, key),
            )

    # ---- dicts ----------------------------------------------------------------------------------

    def _put(self, act: Put, frames: Sequence[Frame], client: str, now: float) -> Answer:
        key = self._shelf(act.shelf, client, now)
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
            raise _Refused("RequestSizeError", _too_much(act.shelf, held, size))
        self._grow(key, count, grown)
        return Answer(count)

    def _get(self, shelf: Shelf, token: bytes, client: str, now: float, *, pops: bool) -> Answer:
        key = self._shelf(shelf, client, now)
        row = self._db.execute(
            "SELECT id, length(key), value FROM entries WHERE shelf = ? AND token = ?", (key, token)
        ).fetchone()
        if row is None:
            return Answer(False)
        if pops:
            self._db.execute("DELETE FROM entries WHERE id = ?", (row[0],))
            self._grow(key, -1, -row[1] - len(row[2]))
        return Answer(True, (row[2],))

    def _entries(self, act: Page, client: str, now: float) -> Answer:
        key = self._shelf(act.shelf, client, now)
        columns = "id, key, value" if act.values else "id, key, x''"
        rows = self._db.execute(
            f"SELECT {columns} FROM entries WHERE shelf = ? AND id > ? ORDER BY id",  # noqa: S608  our own words
            (key, act.after),
        )
        return _page(
            act.after,
            (
                (at, ((name,) if act.keys else ()) + ((value,) if act.values else ()))
                for at, name, value in rows
            ),
        )

    # ---- queues ---------------------------------------------------------------------------------

    def _partition(
        self, act: Add | Take | Await | Page | Clear | Count, client: str, now: float
    ) -> int:
        """Return the key of a partition; 0 where there is none. What has expired is emptied."""
        shelf = self._shelf(act.shelf, client, now)
        row = self._db.execute(
            "SELECT id, expires_at FROM partitions WHERE shelf = ? AND name = ?",
            (shelf, act.partition),
        ).fetchone()
        if row is None:
            return 0
        if row[1] is not None and row[1] <= now:
            self._drop(row[0])
            return 0
        return int(row[0])

    def _drop(self, partition: int) -> int:
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
        self._grow(shelf, -count, -size)
        return int(count)

    def _drop_late(self, shelf: int, now: float) -> None:
        """Remove all partitions of a shelf whose time is over."""
        for (partition,) in self._db.execute(
            "SELECT id FROM partitions WHERE shelf = ? AND expires_at <= ?", (shelf, now)
        ).fetchall():
            self._drop(partition)

    def _new_partition(self, shelf: int, name: bytes, now: float) -> int:
        late = self._db.execute(
            "SELECT id FROM partitions WHERE expires_at <= ? LIMIT ?", (now, _LEAVING)
        ).fetchall()
        for (partition,) in late:
            self._drop(partition)
        (count,) = self._db.execute(
            "SELECT count(*) FROM partitions WHERE shelf = ?", (shelf,)
        ).fetchone()
        if count >= words.PARTITIONS:
            why = f"a queue has {words.PARTITIONS:,} partitions at most; clear some of these"
            raise _Refused("RequestSizeError", why)
        cursor = self._db.execute(
            "INSERT INTO partitions (shelf, name) VALUES (?, ?)", (shelf, name)
        )
        return int(cursor.lastrowid or 0)

    def _add(self, act: Add, frames: Sequence[Frame], client: str, now: float) -> Answer:
        shelf, size = self._shelf(act.shelf, client, now), sum(map(len, frames))
        key = self._partition(act, client, now)
        held, held_bytes = self._held(key, shelf)
        if held_bytes + size > words.SHELF_BYTES:
            self._drop_late(shelf, now)
            held, held_bytes = self._held(key, shelf)
        if held + len(frames) > words.PARTITION_ITEMS or held_bytes + size > words.SHELF_BYTES:
            raise _Refused(words.FULL, _too_much(act.shelf, held, held_bytes))
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
        self._grow(shelf, len(frames), size)
        return Answer(len(frames))

    def _held(self, partition: int, shelf: int) -> tuple[int, int]:
        """Return how many items a partition holds, and how many bytes all of its queue."""
        found: tuple[int, int] = self._db.execute(
            "SELECT coalesce((SELECT count FROM partitions WHERE id = ?), 0), size FROM shelves"
            " WHERE id = ?",
            (partition, shelf),
        ).fetchone()
        return found

    def _take(self, act: Take, client: str, request: int, now: float) -> Answer:
        key = self._partition(act, client, now)
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
            raise _Refused(words.EMPTY, "there is nothing in the queue")
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
            self._grow(row[0], count, size)

    def _items(self, act: Page, client: str, now: float) -> Answer:
        rows = self._db.execute(
            "SELECT id, item FROM items WHERE partition = ? AND client IS NULL AND id > ?"
            " ORDER BY id",
            (self._partition(act, client, now), act.after),
        )
        return _page(act.after, ((at, (item,)) for at, item in rows))

    def _count(self, act: Count, client: str, now: float) -> int:
        if act.shelf.kind == "dict":
            key, table = self._shelf(act.shelf, client, now), "shelves"
        elif act.every:
            key, table = self._shelf(act.shelf, client, now), "shelves"
            self._drop_late(key, now)
        else:
            key, table = self._partition(act, client, now), "partitions"
        row = self._db.execute(f"SELECT count FROM {table} WHERE id = ?", (key,)).fetchone()  # noqa: S608  our own words
        return 0 if row is None else int(row[0])

    def _clear(self, act: Clear, client: str, now: float) -> int:
        if act.shelf.kind == "queue" and not act.every:
            partition = self._partition(act, client, now)
            return self._drop(partition) if partition else 0
        key = self._shelf(act.shelf, client, now)
        (count,) = self._db.execute("SELECT count FROM shelves WHERE id = ?", (key,)).fetchone()
        self._empty(key)
        self._db.execute("UPDATE shelves SET count = 0, size = 0 WHERE id = ?", (key,))
        return int(count)

    # ---- clients --------------------------------------------------------------------------------

    def received(self, client: str, requests: Iterable[int]) -> None:
        """Forget what was answered to a client that has it."""
        pairs = [(client, request) for request in requests]
        self._db.executemany("DELETE FROM answers WHERE client = ? AND request = ?", pairs)
        self._db.executemany("DELETE FROM items WHERE client = ? AND request = ?", pairs)

    def returned(self, client: str, requests: Iterable[int]) -> list[tuple[str, bytes, int]]:
        """Put back what a client was answered and does not want.

        Returns:
            Which partitions have items again: (the queue's name, the partition's, how many).
        """
        found: dict[tuple[str, bytes], int] = {}
        for request in requests:
            self._put_back("client = ? AND request = ?", (client, request), found)
        return [(*place, count) for place, count in found.items()]

    def still_asks(self, client: str, requests: Iterable[int]) -> None:
        """Forget all that a client was answered, but to what it still asks."""
        asked = set(requests)
        rows = self._db.execute(
            "SELECT request FROM answers WHERE client = ?"
            " UNION SELECT request FROM items WHERE client = ?",
            (client, client),
        ).fetchall()
        self.received(client, [request for (request,) in rows if request not in asked])

    def clients(self) -> set[str]:
        """Return the clients that have something here that ends with them."""
        rows = self._db.execute(
            "SELECT owner FROM shelves WHERE owner != '' UNION SELECT client FROM answers"
            " UNION SELECT client FROM items WHERE client IS NOT NULL"
        )
        return {client for (client,) in rows}

    def gone(self, client: str) -> tuple[list[tuple[str, bytes, int]], list[str]]:
        """Put back what a client never said that it has, and end what ends with it.

        Returns:
            As `returned`; and the names of what has ended.
        """
        self._db.execute("DELETE FROM answers WHERE client = ?", (client,))
        found: dict[tuple[str, bytes], int] = {}
        self._put_back("client = ?", (client,), found)
        rows = self._db.execute(
            "DELETE FROM shelves WHERE owner = ? RETURNING id, name", (client,)
        ).fetchall()
        for key, _ in rows:
            self._empty(key)
        return [(*place, count) for place, count in found.items()], [name for _, name in rows]

    def _put_back(
        self, which: str, values: tuple[object, ...], found: dict[tuple[str, bytes], int]
    ) -> None:
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


def _page(after: int, rows: Iterable[tuple[int, tuple[bytes, ...]]]) -> Answer:
    """Return as many rows as one answer may hold."""
    found: list[bytes] = []
    size = 0
    for count, (at, frames) in enumerate(rows):
        if count == words.PAGE_ROWS or size > words.PAGE_BYTES:
            return Answer((after, True), tuple(found))
        after = at
        found += frames
        size += sum(map(len, frames))
    return Answer((after, False), tuple(found))


def _info(row: tuple[str, float, int, int, int]) -> ShelfInfo:
    name, created_at, sealed, count, size = row
    return ShelfInfo(name, created_at, bool(sealed), count, size)


def _too_much(shelf: Shelf, count: int, size: int) -> str:
    if shelf.kind == "dict":
        most = f"{words.DICT_ENTRIES:,} entries"
    else:
        most = f"{words.PARTITION_ITEMS:,} items in a partition"
    return (
        f"the {shelf.kind} {shelf.name!r} holds {count:,} of them, {size / 2**20:,.0f} MiB in all; "
        f"it may hold {most}, and {words.SHELF_BYTES >> 20:,} MiB"
    )


def _statements(schema: str) -> list[str]:
    lines = [line.partition("--")[0] for line in schema.splitlines()]
    return [one for one in (part.strip() for part in "\n".join(lines).split(";")) if one]
