"""A map that runs: what the session's I/O thread knows of it.

The *feed* pulls the user's iterables in a thread of its own, the I/O thread sends and receives, and
the results go to the *delivery*, or, of a map whose results nobody takes, to a *drain* that counts
them. What became of which input is *kept*, so that the rest can be run where the map does not end
well; a map that resumes another begins with what that one had.
"""

from __future__ import annotations

import contextvars
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kernel_worker.errors import CallCancelledError, RequestSizeError, SerializationError
from kernel_worker.model import Outcome
from kernel_worker.wire.frames import plain_bytes
from notebook_ext import blobs, dropping, facts, process
from notebook_ext.config import current
from notebook_ext.delivery import Delivery, Skipped
from notebook_ext.facts import MapFacts
from notebook_ext.feed import Feed, Gate, length_of
from notebook_ext.kept import Kept
from notebook_ext.outcome import exception_of, map_note
from notebook_ext.receivers import Answer, raise_rejection
from notebook_ext.refeed import Places, Refeed
from notebook_ext.retrying import Retries
from notebook_ext.spill import Values
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.messages import CallProgress
    from notebook_ext.callee import Callee
    from notebook_ext.drain import Drain
    from notebook_ext.open_call import OpenCall
    from notebook_ext.session import Session
    from notebook_ext.submission import Ended


class MapRun(Answer):
    """A map that has started: what the session's I/O thread knows of it."""

    def __init__(
        self,
        function: Callee[..., Any],
        sources: Sequence[Any],
        shared: Mapping[str, Any],
        *,
        spread: bool,
        ordered: bool,
        title: str,
        resumes: MapRun | None = None,
        only_missing: bool = False,
    ) -> None:
        """Prepare the call; nothing is pulled or sent yet.

        Args:
            function: what runs.
            sources: the iterables.
            shared: keyword arguments of all inputs.
            spread: whether the items are tuples of arguments.
            ordered: whether results come in the order of the inputs.
            title: what it is called, for people.
            resumes: the map whose rest this one runs; its `sources` are meant then.
            only_missing: give the results of that rest alone, not those that were there before.
        """
        self.session: Session = process.current()
        super().__init__(self.session.output(function.name))
        self.name = function.name
        self.has_raised = False
        """Whether who iterates was given an exception: nothing comes behind it."""
        self.facts = MapFacts(title, length_of(sources))
        self.kept = Kept()
        """What became of the inputs, as the user numbers them."""
        self.delivery = Delivery(ordered=ordered, keep=self.kept.keep)
        self.gate = Gate(lambda: self.delivery.is_full)
        self.settled: Waiting[None] = Waiting()
        """Done once every input that was sent has an outcome, and no more are."""
        self.unanswered: list[tuple[int, int, Sequence[Frame]]] = []
        """Of a map that did not come to its end: the batches that were not answered for then."""
        limit = current().max_request_mib << 20
        given: dict[str, Any] = {
            "spread": spread,
            "gate": self.gate,
            "ready": self._ready,
            "limit_bytes": limit,
        }
        self._places: Places | None = None
        if resumes is None:
            self.feed = Feed(sources, **given)
        else:
            refeed = Refeed(resumes, partial(self._inherit, resumes, only_missing), **given)
            self.feed, self._places = refeed, refeed.places
        self.drain: Drain | None = None
        """For a map whose results nobody takes."""
        self._said = function.submission(self.session, self, shared, blobs.here.keep)
        self.feed.companions = self._said.companions
        if resumes is not None:
            self._said.companions.update(resumes.feed.companions)
        self.call = self._said.call
        if self._said.span is not None:
            self.settled.add_callback(self._finish_span)
        self.retries = Retries(self, self._said)
        self.sent = 0
        """So many inputs were given to the session."""
        self._open: OpenCall | None = None
        self._started = False
        self._closed = False
        self._held: tuple[tuple[int, int], ...] = ()
        """What workers held of it when that was heard last."""
        self._stands: dict[bool, CallProgress] = {}
        """What was heard last of the call, and of its inputs that run again."""
        self.is_shown = False
        """Whether a display says how it stands; else a notice says what it waits for."""

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Let whoever iterates, or waits for the end, do it."""
        return self.delivery.offer(act) if self.drain is None else self.drain.waiting.offer(act)

    def start(self) -> None:
        """Begin to pull in a thread."""
        self._started = True
        # Not by this thread: a `Thread` that ends before `start` returns would die here, and the
        # threading module's code for that swallows an interrupt; see `dropping`.
        dropping.aside(partial(_start_thread, contextvars.copy_context(), self.feed, self.name))

    def abandon(self) -> None:
        """Pull no more, cancel what has no outcome, keep what is needed to run the rest."""
        if not self.gate.closed:
            self.gate.close()
            self.session.post(self._abandon)
        if not self._started:
            self.feed.skip()
        if self.is_whole:
            self.delivery.close()
            self.kept.forget()
        else:
            for start, piece in self.delivery.left():
                if isinstance(piece, Values):
                    self.kept.keep(start, piece)

    def hand_on(self) -> None:
        """End it, since another map takes the rest over; who still iterates this one is told so."""
        self.facts.finish("cancelled")
        error = CallCancelledError(f"{self.facts.title} was resumed: its results come there.")
        self._abort(partial(_raise, error))
        self.abandon()

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end and every input succeeded."""
        return self.facts.state == "done" and not self.facts.failed

    def pull_in_loop(self) -> Any:
        """Begin to pull in the running loop; return the task."""
        import asyncio  # noqa: PLC0415  there is a loop

        self._started = True
        return asyncio.get_running_loop().create_task(self.feed.pull_in_loop())

    @property
    def is_renumbered(self) -> bool:
        """Whether the user numbers the inputs otherwise than the call does."""
        return self._places is not None

    def ours(self, start: int, count: int) -> Iterable[tuple[int, int, int]]:
        """Translate the call's inputs to how the user numbers them: `(offset, index, count)`."""
        return ((0, start, count),) if self._places is None else self._places.pieces(start, count)

    def cancel(self) -> None:
        """End it because its user asked for that; in the I/O thread.

        What has no outcome ends as cancelled. Where inputs were still to be pulled, the iteration
        ends with a `CallCancelledError` behind them.
        """
        if self.gate.closed or self.facts.finished_at is not None:
            return
        self.gate.close()
        self._note_unanswered()
        if not self._closed:
            error = self.feed.error
            if not self.feed.finished:
                error = CallCancelledError(f"{self.facts.title} was cancelled.")
            self._close(error)
        self.session.cancel(self.call)
        self.retries.cancel()

    def announce(self, running: RunningInput, begins: bool) -> None:  # noqa: FBT001  a callback
        """Say that an input of this worker begins, or ends, to wait for this map."""
        self.session.announce(running, begins, (self.call,))

    # ---- in the I/O thread ----------------------------------------------------------------------

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        """Results."""
        self._output.after(self._succeed, start, count, position, frames)

    def ended(self, end: Ended) -> None:
        """Inputs that ended otherwise."""
        self._output.after(self._end, end)

    def rejected(self, error: str, message: str) -> None:
        """Nothing more comes."""
        self._closed = True
        self.facts.finish("failed")
        self.gate.close()
        self.settle()
        self._abort(partial(raise_rejection, error, message))

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """Show it."""
        for _, ours, _ in self.ours(index, 1):
            super().wrote(ours, stream, text, withheld)

    def wrote_again(self, index: int, stream: str, text: bytes, withheld: int) -> None:
        """Show what an input writes that runs again."""
        super().wrote(index, stream, text, withheld)

    def progressed(self, progress: CallProgress) -> None:
        """How it stands."""
        self._stand(progress, again=False)
        if not self.is_shown:
            super().progressed(progress)
        for start, stop in self._held:  # what was taken back from a worker waits again
            for low, high in self.session.missing(self.call, start, stop):
                self._note(low, high, facts.QUEUED)
        self._held = progress.started
        for start, stop in progress.started:
            self._note(start, stop, facts.RUNNING)

    def progressed_again(self, progress: CallProgress, started: Sequence[int]) -> None:
        """How inputs stand that run again in a call of their own."""
        self._stand(progress, again=True)
        for index in started:
            self.facts.note(index, index + 1, facts.RUNNING)

    def _stand(self, last: CallProgress, *, again: bool) -> None:
        self._stands[again] = last
        stands, all_told = self.facts, self._stands.values()
        unanswered = self.sent - self.gate.ended
        held = min(sum(each.running for each in all_told), unanswered)
        stands.retried = sum(each.retried for each in all_told)
        stands.workers = min(sum(each.workers for each in all_told), held)
        # A worker may hold more than it runs: a lease is several quick inputs.
        spec = self._said.package.spec
        stands.running = min(held, stands.workers * max(1, spec.max_inputs, spec.max_batch_size))
        stands.waiting_for = last.waiting_for

    def _note(self, start: int, stop: int, state: int) -> None:
        for _, ours, size in self.ours(start, stop - start):
            self.facts.note(ours, ours + size, state)

    def pump(self) -> None:
        """Send what should be sent now."""
        if self._closed or self.gate.closed:
            return
        while (batch := self.feed.take()) is not None:
            count, frames = batch
            self._send(count, frames)
        # One that has ended because the gate was closed meanwhile has not given all that it has.
        if self.feed.finished and self.feed.is_empty and not self.gate.closed:
            self._close(self.feed.error)

    def _send(self, count: int, frames: Any) -> None:
        self._note(self.sent, self.sent + count, facts.QUEUED)
        self.sent += count
        if self._open is not None:
            self.session.add(self.call, count, frames)
        else:
            self._open = self.session.submit_now(self._said, count, frames, closed=False)

    def _close(self, error: BaseException | None) -> None:
        self._closed = True
        if self._open is not None:
            self.session.close_inputs(self.call)
        total = self.sent if self._places is None else self._places.total(self.sent)
        self.facts.total = total
        if isinstance(error, SerializationError | RequestSizeError):
            error.add_note(f"in input {total} of {self.facts.title}")
        last = partial(_raise, error) if error is not None else None
        if total is None:  # what was to be resumed could not be taken over
            assert last is not None  # noqa: S101  why it could not
            self._abort(last)
        elif self.drain is not None:
            self.drain.close(total, last)
        else:
            self.delivery.finish(total, last)
        self._look_for_end()

    def _abort(self, raising: Callable[[], Any]) -> None:
        if self.drain is not None:
            self.drain.fail(raising)
        else:
            self.delivery.abort(raising)

    def _abandon(self) -> None:
        self._closed = True
        self._note_unanswered()
        if self._open is not None:
            self.session.cancel(self.call)
        self.retries.cancel()
        self._look_for_end()

    def settle(self) -> None:
        """Nothing will be answered any more."""
        if not self.unanswered:
            self._note_unanswered()
        self.settled.complete(_nothing)

    def _finish_span(self) -> None:
        """Say in the trace how it went."""
        first, state = self.facts.first_error, self.facts.state
        self._said.span.finish(first[1] if first is not None else state * (state == "failed"))

    def _note_unanswered(self) -> None:
        if self._open is not None and not self.is_whole:
            batches = self._open.batches
            self.unanswered = [(b.start, b.count, b.frames) for b in batches if b.frames]

    def _inherit(self, old: MapRun, only_missing: bool) -> None:  # noqa: FBT001  in a partial
        """Begin with what `old` had; in the thread that pulls."""
        succeeded = old.kept.succeeded
        for low, high in succeeded:
            self.kept.note(low, high - low)
        self.session.post(self._count_inherited, succeeded)
        if self.drain is not None:
            return
        if only_missing:
            for low, high in succeeded:
                self.delivery.put(low, Skipped(high - low))
        for start, piece in old.kept.pieces:
            if only_missing or not self.delivery.put(start, piece):
                self.kept.keep(start, piece.read())

    def _count_inherited(self, ranges: list[tuple[int, int]]) -> None:
        for low, high in ranges:
            self.facts.count(low, high - low, facts.DONE)
            if self.drain is not None:
                self.drain.add(high - low)

    def _ready(self) -> None:
        self.session.post(self.pump)

    # ---- in the I/O thread, or behind output in the printer's ------------------------------------

    def _succeed(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        for offset, ours, size in self.ours(start, count):
            self._succeed_here(ours, size, position + offset, frames)
        if self.drain is None:
            self.gate.note_size(count, plain_bytes(frames))
        self._answered(count)

    def _succeed_here(self, index: int, count: int, position: int, frames: list[bytes]) -> None:
        self.facts.count(index, count, facts.DONE)
        self.kept.note(index, count)
        if self.drain is not None:
            self.drain.add(count)
            return
        values = Values(count, frames, position)
        if not self.delivery.put(index, values):
            self.kept.keep(index, values)

    def succeeded_again(self, index: int, position: int, frames: list[bytes]) -> None:
        """An input that had failed succeeded; it is numbered as the user does."""
        self._output.after(self._succeed_here, index, 1, position, frames)
        self._output.after(self._answered, 1)

    def ended_again(self, end: Ended) -> None:
        """It failed again, or was cancelled."""
        self._output.after(self._end_here, end)
        self._output.after(self._answered, 1)

    def take_back(self, end: Ended) -> None:
        """Forget how an input ended: it runs again."""
        self.facts.retry(end.index, end.count)
        self.kept.drop_failure(end)
        self.gate.ended -= end.count
        if self.drain is not None:
            self.drain.add(-end.count)

    def _end(self, end: Ended) -> None:
        for offset, ours, size in self.ours(end.index, end.count):
            if (ours, size) == (end.index, end.count):
                self._end_here(end)
            else:
                position = end.position + offset
                self._end_here(replace(end, index=ours, count=size, position=position))
        self._answered(end.count)

    def _end_here(self, end: Ended) -> None:
        cancelled = end.outcome is Outcome.CANCELLED
        self.facts.count(end.index, end.count, facts.CANCELLED if cancelled else facts.FAILED)
        if not cancelled:
            self.kept.fail(end)
            if self.facts.first_error is None:
                self.facts.first_error = (end.index, facts.words_of(end))
        if self.drain is not None:
            self.drain.fail_at(partial(_raise_at, end, self.name, self.facts.title))
            self.drain.add(end.count)
        else:
            self.delivery.put(end.index, end)

    def _answered(self, count: int) -> None:
        self.gate.ended += count
        self._look_for_end()
        self._look()

    def _look_for_end(self) -> None:
        if self._closed and self.gate.ended == self.sent:
            self._output.finish()
            if self.facts.first_error is None:  # otherwise it may run again, here
                self._said.objects = {}  # what is shared may be large, and who is over may stay
            self.settled.complete(_nothing)

    def _look(self) -> None:
        self.gate.look()
        if not self.feed.is_empty:
            self.session.post(self.pump)


def _start_thread(context: contextvars.Context, feed: Feed, name: str) -> None:
    title = f"notebook-ext map {name}"
    threading.Thread(target=context.run, args=(feed.pull,), name=title, daemon=True).start()


def _raise(error: BaseException) -> None:
    __tracebackhide__ = True
    raise error


def _raise_at(end: Ended, name: str, title: str) -> Any:
    __tracebackhide__ = True
    raise exception_of(end, name, note=map_note(end, end.index, name, title))


def _nothing() -> None:
    """What a waiting gives that only says that something changed."""
