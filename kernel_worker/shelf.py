"""Shelves: the dicts and queues that the broker keeps for all clients, and what can be done there.

A client says an *act*, the broker does it in one transaction of its journal and gives the *answer*,
which is on the disk by then if it changed anything. Keys, values and items are bytes that only
clients read. What is numbered with the client's request is done once, however often it is said:
the answer of the first time is kept until the client says that it has it.

Limits are checked where something is made (the client) and again at the broker's door.
"""

from __future__ import annotations

from typing import Final, Literal, dataclass_transform

import msgspec

Kind = Literal["dict", "queue"]

VALUE_BYTES: Final = 64 * 1024 * 1024
"""A value, or an item, pickled."""
SEAL_BYTES: Final = 64
"""What is sealed is longer by less than this."""
KEY_BYTES: Final = 64 * 1024
"""A key, pickled."""
TOKEN_BYTES: Final = 24
"""What stands for a key: equal keys have equal tokens."""
SHELF_BYTES: Final = 4 * 1024**3
"""All keys and values of a dict, or all items of a queue."""
DICT_ENTRIES: Final = 1_000_000
PARTITION_ITEMS: Final = 100_000
PARTITIONS: Final = 100_000
PARTITION_BYTES: Final = 64
"""The name of a partition, in UTF-8."""
ACT_FRAMES: Final = 20_000
"""Of one act: 10,000 entries of a dict, or items of a queue."""
ACT_BYTES: Final = 256 * 1024 * 1024
PAGE_BYTES: Final = 4 * 1024 * 1024
PAGE_ROWS: Final = 1_000
NAME_CHARACTERS: Final = 64
EPHEMERAL: Final = "~"
"""Begins the names of what ends with its owner."""
PARTITION_TTL_SECONDS: Final = 24 * 3600.0
LONGEST_TTL_SECONDS: Final = 7 * 24 * 3600.0

SEALED: Final = "Sealed"
"""The error of an act that says wrongly whether what is on the shelf is sealed."""
EMPTY: Final = "Empty"
FULL: Final = "Full"
WITHDRAWN: Final = "Withdrawn"


class Shelf(msgspec.Struct, frozen=True, array_like=True):
    """Which one is meant."""

    kind: Kind
    name: str
    creates: bool = False
    """Make it where it is not there."""
    sealed: bool = False
    """Who says this seals what it puts there."""


@dataclass_transform(frozen_default=True)
class _Act(msgspec.Struct, frozen=True, array_like=True):
    """What all acts are."""


class Open(_Act, tag="open"):
    """Find it, or make it -> ShelfInfo."""

    shelf: Shelf
    is_new: bool = False
    """It must not be there yet."""


class List(_Act, tag="list"):
    """-> list[ShelfInfo], by name, without ephemeral ones."""

    kind: Kind


class Remove(_Act, tag="remove"):
    """Remove it with all that it holds -> whether it was there."""

    shelf: Shelf


class Put(_Act, tag="put"):
    """Set entries of a dict; frames: key and value of each -> how many keys are new."""

    shelf: Shelf
    tokens: tuple[bytes, ...]
    only_new: bool = False
    """Entries that are there stay as they are."""


class Get(_Act, tag="get"):
    """-> whether it is there; frame: the value."""

    shelf: Shelf
    token: bytes


class Pop(_Act, tag="pop"):
    """Remove one entry -> whether it was there; frame: the value."""

    shelf: Shelf
    token: bytes


class Has(_Act, tag="has"):
    """-> whether it is there."""

    shelf: Shelf
    token: bytes


class Count(_Act, tag="count"):
    """-> how many entries a dict has, or items a partition, or (`every`) all of them."""

    shelf: Shelf
    partition: bytes = b""
    every: bool = False


class Clear(_Act, tag="clear"):
    """Remove what a dict holds, or a partition, or (`every`) all of them -> how many those were."""

    shelf: Shelf
    partition: bytes = b""
    every: bool = False


class Page(_Act, tag="page"):
    """-> (what to ask for the next page with, whether there may be one); frames, as they were put.

    Of a dict: each key, and its value (`values`); of a queue: the items of a partition, which stay.
    """

    shelf: Shelf
    partition: bytes = b""
    after: int = 0
    keys: bool = False
    values: bool = True


class Add(_Act, tag="add"):
    """Put items (the frames) into a partition, all or none -> how many."""

    shelf: Shelf
    partition: bytes = b""
    ttl_seconds: float | None = None
    """The partition is emptied when nothing was put into it for so long; None: never."""
    patience_seconds: float | None = 0.0
    """How long to wait where it is full; None: for ever."""


class Take(_Act, tag="take"):
    """Take up to `count` items out, at least one -> how many; frames: the items."""

    shelf: Shelf
    partition: bytes = b""
    count: int = 1
    patience_seconds: float | None = 0.0
    """How long to wait where it is empty; None: for ever."""


class Await(_Act, tag="await"):
    """Wait until a partition has items behind `after` -> whether it has."""

    shelf: Shelf
    partition: bytes = b""
    after: int = 0
    patience_seconds: float | None = 0.0


Act = Open | List | Remove | Put | Get | Pop | Has | Count | Clear | Page | Add | Take | Await
Waits = Add | Take | Await
CHANGES: Final = (Open, Remove, Put, Pop, Clear, Add, Take)
"""What is done once, however often it is said."""


class ShelfInfo(msgspec.Struct, frozen=True, array_like=True):
    """One dict or queue."""

    name: str
    created_at: float
    """Unix seconds."""
    sealed: bool
    count: int
    """Entries of a dict, items of a queue."""
    size_bytes: int


class Answer(msgspec.Struct, frozen=True):
    """What came of an act."""

    body: object = None
    frames: tuple[bytes, ...] = ()
    error: str = ""
    """A class name of `kernel_worker.errors`, or one of the words above; then `body` is why."""
