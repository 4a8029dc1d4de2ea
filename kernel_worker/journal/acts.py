"""What acts on shelves have in common: how one is refused, answered in pages, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import shelf as words
from kernel_worker.shelf import Answer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from kernel_worker.shelf import Shelf


class Refused(Exception):  # noqa: N818  an answer
    """The act cannot be."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(why)
        self.answer = Answer(why, error=error)


def grow(db: sqlite3.Connection, shelf: int, count: int, size: int) -> None:
    """Count what has come onto a shelf, or gone from it: how many, and how many bytes."""
    if count or size:
        db.execute(
            "UPDATE shelves SET count = count + ?, size = size + ? WHERE id = ?",
            (count, size, shelf),
        )


def page(after: int, rows: Iterable[tuple[int, tuple[bytes, ...]]]) -> Answer:
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


def too_much(shelf: Shelf, count: int, size: int) -> str:
    """Return why a shelf takes no more."""
    if shelf.kind == "dict":
        most = f"{words.DICT_ENTRIES:,} entries"
    else:
        most = f"{words.PARTITION_ITEMS:,} items in a partition"
    return (
        f"the {shelf.kind} {shelf.name!r} holds {count:,} of them, {size / 2**20:,.0f} MiB in all; "
        f"it may hold {most}, and {words.SHELF_BYTES >> 20:,} MiB"
    )
