"""A worker's right to a range of inputs, and how large that range should be.

A lease is about 5 ms of work, so that messages cost little beside it and a cancelled or skewed map
loses little: one input while nobody knows how long one takes, thousands where one takes nothing. As
long as much more waits than the workers have at hand, it is up to four times that (guided
self-scheduling: Polychronopoulos and Kuck, 1987): a quarter of the messages, and leases are small
again before the end comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.pools import Worker
    from kernel_worker.model import CallId, LeaseId

TARGET_SECONDS: Final = 0.005
"""How much work a lease holds …"""
MOST_SECONDS: Final = 0.02
"""… and how much where a backlog is long …"""
LEAST_PARTS: Final = 32
"""… which is so many leases for each worker."""
LEAST_SECONDS: Final = 0.001
"""Work that is not split further, however many workers could share it."""
PREFETCH_SECONDS: Final = 0.03
"""A worker holds a second lease only where one lasts less than this."""
MAX_INPUTS: Final = 5_000
FIRST_INPUTS: Final = 16
"""The largest lease of a call of which nothing is known but what its pool's others took."""
WHOLE_PARTS: Final = 64
"""Into how many leases an indivisible batch is cut at most: each carries all of its bytes."""
TAKE_BACK_AFTER_SECONDS: Final = 0.01
"""A lease is left alone at least so long, unless it is known to have more work than one should."""

_RISE = 0.5
_FALL = 0.25


class Lease(msgspec.Struct, eq=False):
    """Inputs `[next, stop)` of the lease `[start, stop)` have no answer yet."""

    id: LeaseId
    worker: Worker
    call: Call
    start: int
    stop: int
    attempt: int
    granted_at: float
    charge: float
    """Seconds per input that the fair shares were charged in advance."""
    next: int = 0
    asked_back: bool = False
    """Whether `TakeBack` was sent; once is enough, starting goes one way."""
    returned: bool = False
    """Whether the answer came: of what is outstanding, the last one is running."""
    interrupted: int = -1
    """The input for which `Interrupt` was sent last."""
    traced_at: int = 0
    """Where in its call's trace its last row lies …"""
    traced_to: int = -1
    """… and the input after the last that it tells of; -1: it has none."""
    cancelled_at: float = 0.0
    """When its worker was asked to end what it runs of it."""
    awaited: tuple[CallId, ...] = ()
    """The calls for which its input at `awaiting` waits; not empty: it is blocked."""
    awaiting: int = -1
    resumed: bool = False
    """Its input took its slot back without asking whether there was one: the handover."""
    group: int = 0
    """The first lease of those that one call of a batched function answers; 0: none."""

    @property
    def is_to_end(self) -> bool:
        """Whether what its worker runs of it is interrupted."""
        return self.call.cancelled or self.worker.evicted

    @property
    def outstanding(self) -> int:
        """How many inputs have no answer."""
        return self.stop - self.next


def smoothed(known: float | None, sample: float) -> float:
    """Return the moving average of seconds per input; it rises faster than it falls."""
    if known is None:
        return sample
    weight = _RISE if sample > known else _FALL
    return known + weight * (sample - known)


def lease_size(call: Call, workers: int) -> int:
    """Return how many inputs of `call` one of `workers` that share its backlog should get."""
    front = call.backlog.peek()
    if front.attempt > 1 or not call.pool.may_batch or call.keeps_failed:
        return 1
    seconds = call.seconds_per_input
    if seconds is None:
        seconds = call.pool.seconds_per_input
        if seconds is None:
            return 1
        limit = FIRST_INPUTS
    else:
        limit = MAX_INPUTS
    waiting = call.backlog.count
    share = -(-waiting // (2 * workers))
    many = min(_inputs_in(MOST_SECONDS, seconds), waiting // (LEAST_PARTS * workers))
    wanted = max(_inputs_in(TARGET_SECONDS, seconds), many)
    if front.whole and seconds < TARGET_SECONDS * WHOLE_PARTS:
        wanted = max(wanted, -(-front.whole // WHOLE_PARTS))
    wanted = min(wanted, max(share, _inputs_in(LEAST_SECONDS, seconds)))
    return max(1, min(wanted, limit))


def _inputs_in(span: float, seconds: float) -> int:
    """Return how many inputs of `seconds` each fit into a span of time."""
    return MAX_INPUTS if seconds * MAX_INPUTS <= span else int(span / seconds)
