"""How far a generator may run ahead, and what was credited to it.

Theory. Of an attached call the client is the reader: what it has taken is forwarded to the worker.
Of a spawned one nobody need read: there the disk is, and the broker itself credits what it has
journalled. Counts are totals, so that a repeated or overtaken `Credit` does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.broker.calls import Producer
from kernel_worker.model import StreamLimits
from kernel_worker.wire import messages
from kernel_worker.wire.frames import plain_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.broker.calls import Frame, OpenCall
    from kernel_worker.core import effects
    from kernel_worker.model import CallId

ATTACHED: Final = StreamLimits(items=64, item_bytes=16 * 1024 * 1024)
"""What API.md promises to whoever reads slowly."""
SPAWNED: Final = StreamLimits(
    items=1_000_000, item_bytes=64 * 1024 * 1024, total_bytes=8 * 1024 * 1024 * 1024
)
"""Ahead of the disk; and how much the journal takes of one generator."""


def begin(call: OpenCall, lease: effects.GrantLease, *, is_far: bool) -> StreamLimits:
    """Note who gives the items of `call` from now on; return how far ahead it may be.

    Args:
        call: whose generator begins.
        lease: of its input.
        is_far: whether the worker is on another machine, and finds no line of ours.
    """
    call.producer = Producer(lease.worker, lease.lease)
    if not call.attached:
        return SPAWNED
    return ATTACHED if is_far else msgspec.structs.replace(ATTACHED, line=call.line)


def take(producer: Producer, items: int, item_bytes: int) -> bool:
    """Note what was taken in all; return whether that is news."""
    if items <= producer.taken and item_bytes <= producer.taken_bytes:
        return False
    producer.taken = max(producer.taken, items)
    producer.taken_bytes = max(producer.taken_bytes, item_bytes)
    return True


def credit(call: CallId, producer: Producer) -> messages.Credit:
    """Return what the worker is told."""
    return messages.Credit(call, 0, producer.taken, producer.taken_bytes, producer.lease)


def written(
    call: OpenCall, effect: effects.ReportItems, frames: Sequence[Frame]
) -> messages.Credit | None:
    """Note that items of a spawned call are on disk; return what to say to their worker, if due."""
    producer = call.producer
    if producer is None or call.attached:
        return None
    producer.written = effect.start + effect.count
    producer.written_bytes += plain_bytes(frames)
    due = producer.written_bytes - producer.taken_bytes > SPAWNED.item_bytes // 8
    if not due and producer.written - producer.taken <= SPAWNED.items // 8:
        return None
    take(producer, producer.written, producer.written_bytes)
    return credit(call.call, producer)
