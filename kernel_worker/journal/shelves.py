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
from kernel_worker.journal.acts import Refused
from kernel_worker.journal.entries import Entries
from kernel_worker.journal.items import Items
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

_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class Shelves:
    """The shelves of an open journal; used inside its transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Make the tables where they are not there."""
        self._db = db
        self._entries, self._items = Entries(db), Items(db)
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
        except Refused as refused:
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
            return self._items.taken(client, request)
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
                return self._entries.put(self._shelf(act.shelf, client, now), act, frames)
            case Get(shelf=shelf, token=token) | Pop(shelf=shelf, token=token):
                key = self._shelf(shelf, client, now)
                return self._entries.get(key, token, pops=isinstance(act, Pop))
            case Has(shelf=shelf, token=token):
                return Answer(self._entries.has(self._shelf(shelf, client, now), token))
            case Count():
                return Answer(self._count(act, client, now))
            case Clear():
                return Answer(self._clear(act, client, now))
            case Page(shelf=Shelf(kind="dict")):
                return self._entries.page(self._shelf(act.shelf, client, now), act)
            case Page(after=after):
                return self._items.page(self._partition(act, client, now), after)
            case Add():
                return self._items.add(self._shelf(act.shelf, client, now), act, frames, now)
            case Take():
                return self._items.take(self._partition(act, client, now), act, client, request)
            case Await(after=after):
                return self._items.comes(self._partition(act, client, now), after)
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
            raise Refused(words.SEALED, f"the {shelf.kind} {shelf.name!r} holds what is {how}")
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
            raise Refused("NotFoundError", why)
        cursor = self._db.execute(
            "INSERT INTO shelves (kind, name, sealed, owner, created_at) VALUES (?, ?, ?, ?, ?)",
            (shelf.kind, shelf.name, shelf.sealed, client if is_ephemeral else "", now),
        )
        return int(cursor.lastrowid or 0)

    def _open(self, act: Open, client: str, now: float) -> Answer:
        shelf = act.shelf
        row = self._row(shelf)
        if row is not None and act.is_new:
            raise Refused("InvalidError", f"there is a {shelf.kind} {shelf.name!r} already")
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
        self._entries.empty(key)
        self._items.empty(key)

    def _partition(self, act: Take | Await | Page | Clear | Count, client: str, now: float) -> int:
        return self._items.partition(self._shelf(act.shelf, client, now), act.partition, now)

    def _count(self, act: Count, client: str, now: float) -> int:
        if act.shelf.kind == "queue" and not act.every:
            return self._items.count(self._partition(act, client, now))
        key = self._shelf(act.shelf, client, now)
        self._items.drop_late(key, now)
        return self._held(key)

    def _clear(self, act: Clear, client: str, now: float) -> int:
        if act.shelf.kind == "queue" and not act.every:
            partition = self._partition(act, client, now)
            return self._items.drop(partition) if partition else 0
        key = self._shelf(act.shelf, client, now)
        count = self._held(key)
        self._empty(key)
        self._db.execute("UPDATE shelves SET count = 0, size = 0 WHERE id = ?", (key,))
        return count

    def _held(self, key: int) -> int:
        (count,) = self._db.execute("SELECT count FROM shelves WHERE id = ?", (key,)).fetchone()
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
            self._items.put_back("client = ? AND request = ?", (client, request), found)
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
        self._items.put_back("client = ?", (client,), found)
        rows = self._db.execute(
            "DELETE FROM shelves WHERE owner = ? RETURNING id, name", (client,)
        ).fetchall()
        for key, _ in rows:
            self._empty(key)
        return [(*place, count) for place, count in found.items()], [name for _, name in rows]


def _info(row: tuple[str, float, int, int, int]) -> ShelfInfo:
    name, created_at, sealed, count, size = row
    return ShelfInfo(name, created_at, bool(sealed), count, size)


def _statements(schema: str) -> list[str]:
    lines = [line.partition("--")[0] for line in schema.splitlines()]
    return [one for one in (part.strip() for part in "\n".join(lines).split(";")) if one]
