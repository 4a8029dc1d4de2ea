"""A broker that is killed at one point of its loop, the first time that it comes there.

Usage: `python crashing_broker.py POINT MARK [the broker's own arguments]`; MARK is made when it
dies. A point is `before` or `after`, and the name of an effect that is performed or of an entry
that is written to the journal. The points are the kinds of effects and entries that the code has.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from kernel_worker import records
from kernel_worker.broker import __main__ as broker
from kernel_worker.broker.perform import Performer
from kernel_worker.core import effects
from kernel_worker.journal import store
from kernel_worker.journal.store import Store

PERFORMED = sorted({kind.__name__ for kind in get_args(effects.Effect)} - {"Record"})
WRITTEN = sorted(
    {kind.__name__ for kind in get_args(store.Entry)} - {"Fact"}
    | {f"Fact {kind.__name__}" for kind in get_args(records.Record)}
)
POINTS = [f"{side} {name}" for name in PERFORMED + WRITTEN for side in ("before", "after")]


def main() -> int:
    """Be the broker, until that point."""
    point, mark = sys.argv[1:3]
    assert point in POINTS
    sys.argv[1:3] = []

    def passes(side: str, name: str) -> None:
        if f"{side} {name}" == point:
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    perform, write = Performer.perform, Store.write

    def performed(
        self: Performer, effect: effects.Effect, frames: Sequence[bytes | memoryview]
    ) -> None:
        name = type(effect).__name__
        passes("before", name)
        perform(self, effect, frames)
        passes("after", name)

    def written(self: Store, entries: Iterable[store.Entry]) -> None:
        kept = list(entries)
        names = [_name(entry) for entry in kept]
        for name in names:
            passes("before", name)
        write(self, kept)
        for name in names:
            passes("after", name)

    Performer.perform = performed  # type: ignore[method-assign]
    Store.write = written  # type: ignore[method-assign]
    return broker.main()


def _name(entry: store.Entry) -> str:
    if isinstance(entry, store.Fact):
        return f"Fact {type(entry.record).__name__}"
    return type(entry).__name__


if __name__ == "__main__":
    sys.exit(main())
