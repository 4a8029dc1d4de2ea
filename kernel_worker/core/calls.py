"""One call and what is known of its inputs; an input is a position until it needs a life.

A `Life` exists only for an input whose first attempt did not succeed, or that has given items, and
until it is over.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.core.backlog import Backlog, Range
from kernel_worker.core.states import InputStates
from kernel_worker.core.transitions import Cause, InputState
from kernel_worker.model import CallId

if TYPE_CHECKING:
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Pool
    from kernel_worker.model import ClientId, LeaseId, ParentInput, PoolId

_MANY_BATCHES = 256


class Life(msgspec.Struct):
    """What an input has been through."""

    attempt: int = 1
    retries: int = 0
    deaths: int = 0
    items: int = 0
    """How many items its generator has given: from the first one on it never runs again."""
    leased: int = 0
    """Of a restored input that must not run twice: the attempt that a worker got last."""


class Call(msgspec.Struct, eq=False):
    """A call that is open: not all of its inputs are known or over."""

    id: CallId
    client: ClientId
    pool: Pool
    attached: bool
    submitted_at: float
    parent: ParentInput | None = None
    depth: int = 0
    """How many calls it is nested in."""
    pools: tuple[PoolId, ...] = ()
    closed: bool = False
    cancelled: bool = False
    paused: bool = False
    """Nothing of it is granted: what waits is not counted in its pool's backlog."""
    states: InputStates = msgspec.field(default_factory=InputStates)
    backlog: Backlog = msgspec.field(default_factory=Backlog)
    lives: dict[int, Life] = {}
    delays: list[tuple[float, int]] = []
    """A heap of (due, index) of retries that wait for their time."""
    leases: dict[LeaseId, Lease] = {}
    children: dict[int, set[CallId]] = {}
    """Open calls that were made inside an input, by its index."""
    waiters: dict[LeaseId, Lease] = {}
    """Leases whose input is blocked until this call has an outcome."""
    seconds_per_input: float | None = None
    served_seconds: float = 0.0
    """The share that it has had of its pool, in seconds of work (virtual time)."""
    retried: int = 0
    in_turn: bool = False
    """Whether it stands in its pool's order of turns."""
    waiting_since: float | None = None
    """When it had inputs to run and none running, since then; None while something runs."""
    root: CallId = CallId("")
    """The topmost call of its tree; itself, mostly."""
    keeper: CallId = CallId("")
    """The nearest spawned call above it, or itself: where the journal keeps it. Empty: nowhere."""
    trace: bytearray = msgspec.field(default_factory=bytearray)
    """What its inputs went through that have ended (`kernel_worker.traces`); attached calls."""
    history: list[bytes] = []
    """Of a root: the encoded `CallTrace`s of attached calls in its tree that have ended."""
    history_bytes: int = 0
    kinship: object = None
    """What its inputs have in common with those beside which they may run in one worker."""
    is_queued: bool = False
    queued_at: float = 0.0
    """Since when the first of its inputs waits, in a batched pool …"""
    added_at: float = 0.0
    """… and when the last one came."""
    _batches: list[tuple[int, int, int]] = []
    """(start, stop, whole) of the batches of inputs, by position."""
    streams: bool = False
    """Its inputs give items before their outcomes."""
    keeps_failed: bool = False
    """A worker in which one of its inputs fails keeps the frames: it holds no other lease."""
    lends: bool = False
    """Its further inputs go to its worker past the broker (`lending`), while that is lent."""

    def add(self, start: int, count: int, *, indivisible: bool) -> bool:
        """Take new inputs in; return False (and do nothing) where some are known."""
        stop, states = start + count, self.states
        known_end = states.end
        if start < known_end and not states.are(InputState.ABSENT, start, min(stop, known_end)):
            return False
        whole = count if indivisible else 0
        batch = (start, stop, whole)
        if len(self._batches) > _MANY_BATCHES:
            self._forget_batches()
        if not self._batches or batch > self._batches[-1]:
            self._batches.append(batch)
        else:
            insort(self._batches, batch)
        states.extend_to(stop)
        states.move(start, stop, Cause.ARRIVED)
        attempt = self.attempt_of(start) if self.lives else 1
        self.backlog.append(Range(start, stop, attempt, start, whole))
        return True

    def life(self, index: int) -> Life:
        """Return the life of the input, which exists from now on."""
        return self.lives.setdefault(index, Life())

    def attempt_of(self, index: int) -> int:
        """Return the number of the input's present attempt."""
        life = self.lives.get(index)
        return 1 if life is None else life.attempt

    def has_given(self, index: int) -> int:
        """Return how many items the generator at `index` has given."""
        life = self.lives.get(index)
        return 0 if life is None else life.items

    def requeue(self, start: int, stop: int) -> None:
        """Put inputs that are PENDING (again) before all others, in order."""
        for waiting in reversed(self._ranges_of(start, stop)):
            self.backlog.push_front(waiting)

    def delay(self, index: int, due: float) -> None:
        """Remember that the retry of an input waits until `due`."""
        heapq.heappush(self.delays, (due, index))

    def due_retries(self, now: float) -> list[int]:
        """Remove and return the inputs whose delay is over."""
        due: list[int] = []
        while self.delays and self.delays[0][0] <= now:
            due.append(heapq.heappop(self.delays)[1])
        return due

    def forget_lives(self, start: int, stop: int) -> None:
        """Forget what inputs that are over have been through."""
        if stop - start < len(self.lives):
            over = [index for index in range(start, stop) if index in self.lives]
        else:
            over = [index for index in self.lives if start <= index < stop]
        for index in over:
            del self.lives[index]

    @property
    def is_over(self) -> bool:
        """Whether every input has an outcome and no more come."""
        return self.closed and self.states.live == 0 and not self.lends

    @property
    def eligible(self) -> int:
        """How many inputs may be granted now: those that wait, unless it is paused."""
        return 0 if self.paused else self.backlog.count

    @property
    def running(self) -> int:
        """How many inputs are leased."""
        counts = self.states.counts
        return counts[InputState.LEASED] + counts[InputState.CANCELLING]

    def _ranges_of(self, start: int, stop: int) -> list[Range]:
        """Cut `[start, stop)` at batches and around inputs with a life of their own."""
        ranges: list[Range] = []
        position = start
        while position < stop:
            low, high, whole = self._batch_at(position)
            end = min(stop, high)
            ranges += self._cut_at_lives(Range(position, end, 1, low, whole))
            position = end
        return ranges

    def _cut_at_lives(self, plain: Range) -> list[Range]:
        own = sorted(i for i in self.lives if plain.start <= i < plain.stop) if self.lives else []
        ranges: list[Range] = []
        position = plain.start
        for index in own:
            if position < index:
                ranges.append(plain._replace(start=position, stop=index))
            attempt = self.lives[index].attempt
            ranges.append(plain._replace(start=index, stop=index + 1, attempt=attempt))
            position = index + 1
        if position < plain.stop:
            ranges.append(plain._replace(start=position))
        return ranges

    def _forget_batches(self) -> None:
        begin = self.states.begin
        if self._batches[0][1] <= begin:
            self._batches = [batch for batch in self._batches if batch[1] > begin]

    def _batch_at(self, index: int) -> tuple[int, int, int]:
        key = (index, float("inf"), 0)
        return self._batches[bisect_right(self._batches, key) - 1]
