"""The inputs of a lease as they come: sealed, or with buffers in the store of their client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.model import is_sealed
from kernel_worker.store import blobs
from kernel_worker.wire.frames import is_stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.messages import Lease
    from kernel_worker.wire.seals import Seals


def inputs(lease: Lease, frames: Sequence[Frame], seals: Seals) -> Sequence[Frame]:
    """Return the inputs of a lease in clear, their buffers at hand.

    Raises:
        DeserializationError: they are sealed, and not for this call.
        AuthError: there is no key.
    """
    return at_hand(lease, seals.inputs(lease, frames))


def store_of(lease: Lease) -> str:
    """Return the store that results of a lease may go to; those of sealed calls go to none."""
    return "" if is_sealed(lease.call) else lease.context.store


def at_hand(lease: Lease, frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the inputs of a lease, their buffers at hand."""
    return blobs.found(lease.context.store, frames) if is_stored(frames) else frames
