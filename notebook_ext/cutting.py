"""Parts of batches, made anew: what a broker is told again, and what a map runs again.

Batches that are whole hold plain values alone: that they are unpickled here runs no code of users.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from kernel_worker.wire import frames as wire_frames
from kernel_worker.wire import payload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kernel_worker.wire.frames import Frame


def cut(frames: Sequence[Frame], start: int, stop: int) -> list[Frame]:
    """Return the batch of the items `[start, stop)` of a batch, and of these alone."""
    head = wire_frames.header(frames)
    if not head.whole:
        return wire_frames.cut(frames, start, stop)[1]
    return _encoded(frames, range(start, stop))


def picked(frames: Sequence[Frame], positions: Sequence[int]) -> list[Frame]:
    """Return the batch of the items at `positions` (ascending) of a batch, in that order."""
    if positions[-1] - positions[0] + 1 == len(positions):
        return cut(frames, positions[0], positions[-1] + 1)
    head = wire_frames.header(frames)
    if head.whole:
        return _encoded(frames, positions)
    offsets, places = wire_frames.table(frames[0], head.count)
    data = memoryview(frames[1])
    items = [bytes(data[offsets[at] : offsets[at + 1]]) for at in positions]
    buffers = [frames[2 + places[at] : 2 + places[at + 1]] for at in positions]
    front = wire_frames.itemised_header(
        head.form,
        [0, *accumulate(map(len, items))],
        [0, *accumulate(map(len, buffers))],
        stored=head.stored,
    )
    return [front, b"".join(items), *(frame for each in buffers for frame in each)]


def _encoded(frames: Sequence[Frame], positions: Iterable[int]) -> list[Frame]:
    reader = payload.BatchReader(frames)
    form = reader.header.form
    if form == wire_frames.FORM_COLUMNS:
        form = wire_frames.FORM_ARGS
    return payload.encode_batch([reader[at] for at in positions], form)
