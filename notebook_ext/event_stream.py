"""What happens to the inputs of a call, as a stream of facts: `nb.events(call)`.

Theory. The broker keeps what became of inputs anyway, for the call graph; this reads it, from the
beginning and then as it grows. So whoever reads slowly costs no memory anywhere, and a call that
has ended is replayed. Neighbours that one worker ran and that ended alike are one event.

Guarantees: each input is told to have ended exactly once; the stream ends with the call, with an
event that says so. Not guaranteed: that an input which a worker holds together with others is told
to have started before it has ended; the times of a range are those of its first and last input.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from kernel_worker import records
from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import CallId, Outcome
from kernel_worker.traces import TICKS_PER_SECOND, CallTrace, rows_of
from notebook_ext import process
from notebook_ext.call import FunctionCall
from notebook_ext.maps import Map
from notebook_ext.numbering import Spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from kernel_worker.wire.messages import EventPage
    from notebook_ext.twin import Waiting

Kind = Literal[
    "submitted",
    "started",
    "retried",
    "succeeded",
    "failed",
    "timed_out",
    "lost",
    "init_failed",
    "cancelled",
    "ended",
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
"""What `CallEvent.kind` can be."""

SOON_SECONDS: Final = 0.05
LATE_SECONDS: Final = 0.5
"""How long until the broker is asked again: the longer, the longer nothing has happened."""
MANY: Final = 1_000
"""A page of more events than this is made smaller: neighbours are one, whoever ran them."""

_OUTCOMES: Final[dict[Outcome, Kind]] = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.TIMED_OUT: "timed_out",
    Outcome.LOST: "lost",
    Outcome.INIT_FAILED: "init_failed",
}
_traces = msgspec.msgpack.Decoder(list[CallTrace])
_facts = msgspec.msgpack.Decoder(list[records.Record])


@dataclass(frozen=True, slots=True)
class CallEvent:
    """Something that happened to the inputs `[start, stop)` of a call."""

    kind: Kind
    """submitted: they are known; started: a worker has begun them; retried: they will be tried
    again (`attempt` says for which time); succeeded, failed (raised), timed_out, lost (the workers
    that ran them died), init_failed, cancelled: how they ended; ended: the call has."""
    call: str
    """The call's id."""
    start: int
    """The first input …"""
    stop: int
    """… and the one behind the last. Of `ended`: all there were."""
    at: float | None
    """Unix seconds, of the last of them; None where nobody has noted it."""
    worker: str = ""
    """The worker that ran them; empty where none has, or several did."""
    attempt: int = 1
    """Which attempt, from 1."""
    seconds: float = 0.0
    """Of those that ended: how long the worker took for all of them."""

    @property
    def count(self) -> int:
        """How many inputs it is about."""
        return self.stop - self.start


class Events:
    """The events of one call: iterate it with `for` or `async for`; each time it begins anew."""

    def __init__(self, call: CallId, known: Callable[[], bool], ours: Any = None) -> None:
        """Read about `call`.

        Args:
            call: which one.
            known: whether the broker must have heard of it by now.
            ours: how the user numbers the inputs of the call, where that differs.
        """
        self._call = call
        self._known = known
        self._ours = ours

    def __iter__(self) -> Iterator[CallEvent]:
        reading = _Reading(self._call, self._ours)
        pause = threading.Event()
        while not reading.is_over:
            is_known = self._known()
            try:
                page, frames = self._ask(reading.after).join()
            except NotFoundError:
                if is_known:
                    raise
                pause.wait(SOON_SECONDS)
                continue
            yield from reading.take(page, frames)
            if reading.wait_seconds:
                pause.wait(reading.wait_seconds)

    async def __aiter__(self) -> AsyncIterator[CallEvent]:
        import asyncio  # noqa: PLC0415  there is a loop

        reading = _Reading(self._call, self._ours)
        while not reading.is_over:
            is_known = self._known()
            try:
                page, frames = await self._ask(reading.after)
            except NotFoundError:
                if is_known:
                    raise
                await asyncio.sleep(SOON_SECONDS)
                continue
            for event in reading.take(page, frames):
                yield event
            if reading.wait_seconds:
                await asyncio.sleep(reading.wait_seconds)

    def __repr__(self) -> str:
        return f"<events of {self._call}>"

    def _ask(self, after: int) -> Waiting[tuple[EventPage, list[bytes]]]:
        return process.current().events(self._call, after)


class _Reading:
    """Makes events of what the broker tells; knows what was told."""

    def __init__(self, call: CallId, ours: Any) -> None:
        self._call = call
        self._ours = ours
        self._total = 0
        self._started: dict[int, Spans] = {}
        self._ended = Spans()
        self._count = 0
        self._retried: set[tuple[int, int]] = set()
        self._reread = False
        self._quiet = SOON_SECONDS
        self.after = 0
        self.is_over = False
        self.wait_seconds = 0.0
        """How long to wait before the next page is asked for."""

    def take(self, page: EventPage, frames: list[bytes]) -> list[CallEvent]:
        """Return what is new in a page."""
        self.after = page.after
        new = list(self._of_page(page, frames))
        if len(new) > MANY:
            new = list(_joined(new))
        if page.more:
            self.wait_seconds = 0.0
        elif page.is_open:
            self._quiet = SOON_SECONDS if new else min(self._quiet * 1.5, LATE_SECONDS)
            self.wait_seconds = self._quiet
        elif self._count < self._total and not self._reread:
            self._reread, self.after = True, 0  # a row may have grown after it was read
            self.wait_seconds = 0.0
        else:
            self.is_over = True
            last = max((event.at or 0.0 for event in new), default=0.0) or None
            new.append(CallEvent("ended", self._call, 0, self._total, last))
        if self._ours is None:
            return new
        return [one for each in new for one in self._renumbered(each)]

    def _of_page(self, page: EventPage, frames: list[bytes]) -> Iterator[CallEvent]:
        for trace in _traces.decode(frames[0]):
            yield from self._grown(trace.total, page.submitted_at)
            for row in rows_of(trace.rows):
                at = page.submitted_at + row.ended_ticks / TICKS_PER_SECOND
                worker = f"{trace.workers}-{row.worker}" if row.worker else ""
                times = (at - row.elapsed_seconds, at)
                stop = row.start + row.size
                yield from self._end(row.start, stop, row.outcome, worker, row.attempt, times)
            for worker, first, _, attempt, since in trace.running:
                yield from self._start(first, first + 1, worker, attempt, since)
            for index, attempt in trace.attempts:
                if attempt > 1:
                    yield from self._retry(index, attempt)
        facts = _facts.decode(frames[1])
        yield from self._grown(max(map(_known_by, facts), default=0), page.submitted_at)
        for fact in facts:
            yield from self._of_fact(fact)

    def _of_fact(self, fact: records.Record) -> Iterator[CallEvent]:
        match fact:
            case records.RangeSucceeded(start=start, stop=stop):
                times = (fact.began_at, fact.ended_at)
                outcome = Outcome.SUCCEEDED
                yield from self._end(start, stop, outcome, fact.worker, fact.attempt, times)
            case records.InputEnded(index=start, count=count):
                times = (fact.began_at, fact.ended_at)
                stop = start + count
                yield from self._end(start, stop, fact.outcome, fact.worker, fact.attempt, times)
            case records.AttemptFailed(index=index, attempt=attempt):
                yield from self._retry(index, attempt + 1)
            case _:
                pass

    def _grown(self, total: int, submitted_at: float) -> Iterator[CallEvent]:
        if total > self._total:
            at = time.time() if self._total else submitted_at or None
            yield CallEvent("submitted", self._call, self._total, total, at)
            self._total = total

    def _start(
        self, start: int, stop: int, worker: str, attempt: int, at: float | None
    ) -> Iterator[CallEvent]:
        known = self._started.setdefault(attempt, Spans())
        for low, high in known.add(start, stop):
            yield CallEvent("started", self._call, low, high, at or None, worker, attempt)

    def _retry(self, index: int, attempt: int) -> Iterator[CallEvent]:
        if (index, attempt) not in self._retried:
            self._retried.add((index, attempt))
            yield CallEvent("retried", self._call, index, index + 1, None, "", attempt)

    def _end(  # noqa: PLR0917  a row
        self,
        start: int,
        stop: int,
        outcome: int,
        worker: str,
        attempt: int,
        times: tuple[float, float],
    ) -> Iterator[CallEvent]:
        began, ended = times
        if worker:
            yield from self._start(start, stop, worker, attempt, began)
        kind = _OUTCOMES[Outcome(outcome)]
        seconds = max(ended - began, 0.0) if worker else 0.0
        for low, high in self._ended.add(start, stop):
            self._count += high - low
            part = seconds * (high - low) / (stop - start)
            yield CallEvent(kind, self._call, low, high, ended or None, worker, attempt, part)

    def _renumbered(self, event: CallEvent) -> Iterable[CallEvent]:
        if event.kind == "ended":
            yield event
            return
        for _, start, count in self._ours(event.start, event.count):
            yield replace(event, start=start, stop=start + count)


def _known_by(fact: records.Record) -> int:
    """Return how many inputs there are at least."""
    match fact:
        case records.InputsAdded(start=start, count=count):
            return start + count
        case records.InputsClosed(total=total):
            return total
        case records.RangeSucceeded(stop=stop):
            return stop
        case records.InputEnded(index=start, count=count):
            return start + count
        case _:
            return 0


def _joined(events: list[CallEvent]) -> Iterator[CallEvent]:
    """Yield fewer events that say the same, but for who ran what exactly when."""
    kinds: dict[tuple[str, int], list[CallEvent]] = {}
    for event in events:
        kinds.setdefault((event.kind, event.attempt), []).append(event)
    for same in kinds.values():
        same.sort(key=lambda event: event.start)
        last = same[0]
        for event in same[1:]:
            if event.start != last.stop:
                yield last
                last = event
                continue
            at = max(last.at or 0.0, event.at or 0.0) or None
            worker = last.worker if last.worker == event.worker else ""
            seconds = last.seconds + event.seconds
            last = replace(last, stop=event.stop, at=at, worker=worker, seconds=seconds)
        yield last


class _Events:
    """`events(call)`, also as `events.aio(call)`."""

    def __call__(self, call: FunctionCall[Any] | Map[Any] | str) -> Events:
        """Return what happens to the inputs of a call, from its beginning on: `CallEvent`s.

        While the call runs, iterating waits for what comes; it ends with the call, by an event of
        the kind "ended". Of a call that has ended it gives everything at once: of a spawned one as
        long as its results are kept, of a map or a `remote` for some time.

        Args:
            call: a `FunctionCall`, the id of one, or a map that is being iterated (in another
                thread or task), or was.

        Raises:
            InvalidError: it is none of these, or a map that was not iterated yet.
            NotFoundError: (where it is iterated) nobody knows the call.
        """
        if isinstance(call, FunctionCall):
            return Events(CallId(call.object_id), lambda: True)
        if isinstance(call, Map):
            run = call.left().run
            ours = run.ours if run.is_renumbered else None
            return Events(run.call, lambda: run.settled.done or run.sent > 0, ours)
        if str(call).startswith("fc-"):
            return Events(CallId(call), lambda: True)
        raise InvalidError(
            f"events({call!r:.80}): allowed is a FunctionCall, its id, or a map that was iterated."
        )

    def aio(self, call: FunctionCall[Any] | Map[Any] | str) -> Events:
        """Do the same, to be iterated with `async for`."""
        return self(call)

    def __repr__(self) -> str:
        return "<notebook_ext.events, also as .aio>"


events = _Events()
