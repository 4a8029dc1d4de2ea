"""The acts are ones that every side understands, and their limits fit each other."""

from __future__ import annotations

from typing import get_args

import msgspec

from kernel_worker import shelf
from kernel_worker.wire import messages


def test_every_act_travels_and_arrives_as_itself() -> None:
    where = shelf.Shelf("queue", "q", creates=True)
    for kind in get_args(shelf.Act):
        act = {shelf.List: shelf.List("dict")}.get(kind) or msgspec.convert(
            [kind.__struct_config__.tag, where]
            + [
                () if name == "tokens" else b"t"
                for name in kind.__struct_fields__[1:2]
                if name in {"tokens", "token"}
            ],
            kind,
            from_attributes=True,
        )
        said = messages.UseShelf(1, act)
        assert messages.decode_at_broker(messages.encode(said)) == said


def test_what_waits_changes_something_or_looks() -> None:
    assert set(get_args(shelf.Waits)) - set(shelf.CHANGES) == {shelf.Await}


def test_one_act_may_hold_the_largest_value() -> None:
    assert shelf.VALUE_BYTES + shelf.KEY_BYTES < shelf.ACT_BYTES < shelf.SHELF_BYTES
