"""Run a generator: its items go out as they are made, and it waits when it is too far ahead.

Theory. The main thread iterates, between two items it keeps, sends or waits. The first item goes at
once; the next ones go together, once the last batch is a millisecond old or large. What lies there
while user code takes its time is sent by the control thread (`tick`). A generator that is as far
ahead of its reader as `StreamLimits` allow waits for `Credit` in the channel's `receive`.

Where the reader listens on this machine (`item_line`), what comes behind the first batch goes
there, and credit comes from there; the broker is told how many items these were, every `_TELL_NS`
and at the end. A generator that prints, or gives what is large, leaves its line for good: by the
broker all arrives in the order in which it was written and given.

Guarantees: items are sent in order and before the input's outcome; a generator that is left (a
cancel, a timeout, an item that cannot be pickled) is closed on the main thread: `GeneratorExit` at
its `yield`, or the interrupt's own exception where its code was running, and no second interrupt
while its `finally` runs. Time spent waiting for the reader does not count as running: the progress
page says meanwhile that nothing runs, and afterwards that it started that much later.
Not guaranteed: that tasks which an `async` generator left running go on while it waits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import (
    FunctionTimeoutError,
    InputCancellation,
    ProtocolError,
    RequestSizeError,
)
from kernel_worker.wire import messages, payload
from kernel_worker.wire import page as pages
from kernel_worker.wire.frames import plain_bytes
from kernel_worker.worker import arriving
from kernel_worker.worker.item_line import PATIENCE_MS, ItemLine
from kernel_worker.worker.work import Results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kernel_worker.model import StreamLimits
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.coroutines import Coroutines
    from kernel_worker.worker.output import Output
    from kernel_worker.worker.work import Work

BATCH_NS: Final = 1_000_000
"""Items wait no longer than this for others, or than the item that is being made."""
BATCH_BYTES: Final = 256 * 1024
STORED_BATCH_NS: Final = 4_000_000
STORED_BATCH_BYTES: Final = 4 * 1024 * 1024
"""The same of items that lie in a store, which take a while to make; their size is a quarter of
what a generator may be ahead."""
_SMALL_CHARACTERS: Final = 1024
"""Longer texts are counted, so that a batch of them does not grow without bound."""
_LIVELY_NS: Final = 20_000_000
_TELL_NS: Final = 100_000_000
_IDLE_NS: Final = 4_000_000
"""The broker hears sooner how many items went past it where so long none came."""
_PLAIN_TYPES = payload.PLAIN_TYPES


class Stream(Results):
    """The items of one generator that are made, and how far it may go."""

    def __init__(self, lease: messages.Lease, index: int, limits: StreamLimits) -> None:
        """Start with none."""
        super().__init__(arriving.store_of(lease))
        self.lease = lease.lease
        self.call = lease.call
        self.index = index
        self.limits = limits
        self.made = 0
        """Items that the generator gave; only the main thread counts."""
        self.taken = 0
        self._taken_bytes = 0
        self._sent = 0
        self._sent_bytes = 0
        self._sent_at_ns = 0
        self._patience_ns = BATCH_NS
        self.line: ItemLine | None = None
        """Where items go past the broker."""
        self._told = 0
        """So many of them the broker knows …"""
        self._told_at_ns = 0
        """… since then."""

    def keep(self, item: object) -> bool:
        """Take an item; return whether it is time to send, or to wait.

        Raises:
            SerializationError: it cannot be pickled.
        """
        kind = type(item)
        if kind in _PLAIN_TYPES and not (
            (kind is str or kind is bytes) and len(item) > _SMALL_CHARACTERS  # type: ignore[arg-type]
        ):
            self.values.append(item)
        else:
            self.add(item)
            self._patience_ns = STORED_BATCH_NS if self.lies_in_store else BATCH_NS
        self.made += 1
        return (
            self.made - self.taken >= self.limits.items
            or time.monotonic_ns() - self._sent_at_ns > self._patience_ns
            or self.pending_message_bytes > BATCH_BYTES
            or self.pending_bytes > STORED_BATCH_BYTES
            or (self.lies_in_store and self.is_full)
        )

    @property
    def is_full(self) -> bool:
        """Whether the generator is as far ahead as it may be."""
        limits = self.limits
        ahead_bytes = self._sent_bytes + self.pending_bytes - self._taken_bytes
        return self.made - self.taken >= limits.items or ahead_bytes >= limits.item_bytes

    @property
    def is_too_large(self) -> bool:
        """Whether it has given more than is kept of one generator."""
        return 0 < self.limits.total_bytes < self._sent_bytes

    def is_due(self, now_ns: int) -> bool:
        """Whether items have waited long enough."""
        return self.has_results and now_ns - self._sent_at_ns > self._patience_ns

    def is_lively(self, now_ns: int) -> bool:
        """Whether items wait, or were sent so recently that others will soon."""
        return self.has_results or now_ns - self._sent_at_ns < _LIVELY_NS

    def is_untold(self, now_ns: int) -> bool:
        """Whether the broker should hear of items that went past it, as no more come."""
        return self._told < self._sent and now_ns - self._sent_at_ns > _IDLE_NS

    def runs_on(self, now_ns: int) -> None:
        """Let the items that are made from now on wait for each other, as after a send."""
        self._sent_at_ns = now_ns

    @property
    def has_sent(self) -> bool:
        """Whether the first batch has gone."""
        return self._sent > 0

    def credit(self, items: int, item_bytes: int) -> None:
        """Note how much has been taken in all."""
        self.taken = max(self.taken, items)
        self._taken_bytes = max(self._taken_bytes, item_bytes)

    def send_locked(self, channel: Channel) -> None:
        """Send what waits, while the channel's lock is held."""
        count, frames = self.take()
        if not count:
            return
        self._sent_at_ns = now = time.monotonic_ns()
        first = self._sent
        is_given = self.line is not None and first > 0 and self.line.give(first, frames)
        if not is_given:
            if first:
                self.leave_line_locked(channel)
            message = messages.Yielded(self.lease, self.index, first, count)
            channel.send_locked(message, frames, self.call)
            self._told, self._told_at_ns = first + count, now
        self._sent += count
        self._sent_bytes += plain_bytes(frames)
        if is_given and now - self._told_at_ns > _TELL_NS:
            self.tell_locked(channel)

    def leave_line_locked(self, channel: Channel) -> None:
        """Give nothing more past the broker, which hears of what went there."""
        if self.line is not None:
            self.line.close()
            self.line = None
            self.tell_locked(channel)

    def tell_locked(self, channel: Channel) -> None:
        """Say how many items went past the broker since it heard of them last."""
        told, self._told, self._told_at_ns = self._told, self._sent, time.monotonic_ns()
        if told < self._told:
            count = self._told - told
            message = messages.Yielded(self.lease, self.index, told, count, self.call)
            channel.send_locked(message, (), self.call)


class Streamer:
    """Iterates the generators that a worker runs, one after the other."""

    def __init__(  # noqa: PLR0917  what it shares with the executor
        self,
        slots: memoryview,
        channel: Channel,
        output: Output,
        coroutines: Coroutines,
        drain: Callable[[], None],
        timeout_text: str,
    ) -> None:
        """Run on the main thread of the worker that has these parts.

        Args:
            slots: the progress page's.
            channel: where items go and credit comes from.
            output: what was printed goes before the items that came after it.
            coroutines: runs `async` generators.
            drain: takes in what was written below Python.
            timeout_text: the message of a timeout.
        """
        self.stream: Stream | None = None
        """The generator that runs."""
        self.is_paused = False
        """Whether it waits for its reader; whoever asks something of it wakes the channel."""
        self._written = 0
        """How often output had been sent when the first batch was."""
        self.is_watched = False
        """Whether the control thread looks every millisecond for items that wait."""
        self.hurry: Callable[[], None] = lambda: None
        """Lets it look now."""
        self._slots = slots
        self._channel = channel
        self._output = output
        self._coroutines = coroutines
        self._drain = drain
        self._timeout_text = timeout_text

    def run(self, work: Work, made: Any, position: int, limits: StreamLimits) -> None:
        """Give every item of `made`, what the function returned, or raise what ended it."""
        stream = Stream(work.lease, position, limits)
        if limits.line and not self._channel.seals.is_on:
            stream.line = ItemLine.dial(limits.line, work.lease.call)
        self.stream = stream
        try:
            if hasattr(made, "__aiter__"):
                self._coroutines.run(self._give_in_loop(stream, work, aiter(made)))
            else:
                self._give(stream, work, iter(made))
        finally:
            self._send(stream)
            self.stream = None
            if stream.line is not None:
                with self._channel.sending():
                    stream.leave_line_locked(self._channel)

    def leave_line(self) -> None:
        """Let further items go by the broker: whoever reads a line cannot look elsewhere."""
        stream = self.stream
        if stream is not None:
            with self._channel.sending():
                stream.leave_line_locked(self._channel)

    # ---- the main thread --------------------------------------------------------------------

    def _give(self, stream: Stream, work: Work, source: Iterator[Any]) -> None:
        wanted = work.wanted
        try:
            for item in source:
                if wanted:
                    self._heed(stream, work)
                if stream.keep(item):
                    self._attend(stream, work)
                elif not self.is_watched:
                    self._have_watched()
        finally:
            work.is_closing = True
            close = getattr(source, "close", None)
            if close is not None:
                close()

    async def _give_in_loop(self, stream: Stream, work: Work, source: AsyncIterator[Any]) -> None:
        import asyncio  # noqa: PLC0415  there is a loop

        wanted = work.wanted
        try:
            async for item in source:
                if wanted:
                    self._heed(stream, work)
                if stream.keep(item):
                    self._attend(stream, work)
                    await asyncio.sleep(0)  # tasks of the user's run too
                elif not self.is_watched:
                    self._have_watched()
        finally:
            work.is_closing = True
            try:
                await asyncio.sleep(0)  # a cancellation that is on its way ends here
            except asyncio.CancelledError:
                pass
            finally:
                close = getattr(source, "aclose", None)
                if close is not None:
                    await close()

    def _have_watched(self) -> None:
        """Let the control thread look for items that wait, which it did not until now."""
        self.is_watched = True  # asked once; its look says what is so
        self.hurry()

    def _heed(self, stream: Stream, work: Work) -> None:
        """Raise what was asked for while no user code ran."""
        kind = work.wanted.get(stream.index)
        if kind is None:
            return
        work.hits[stream.index] = kind
        if kind == "timeout":
            raise FunctionTimeoutError(self._timeout_text)
        raise InputCancellation("the call was cancelled")

    def _attend(self, stream: Stream, work: Work) -> None:
        """Send, and wait where the generator is too far ahead."""
        self._send(stream)
        if stream.is_too_large:
            limit = stream.limits.total_bytes >> 20
            raise RequestSizeError(
                f"a spawned generator gave more than the {limit} MiB that are kept of one; use "
                "remote_gen, or let it write its items to a file"
            )
        if stream.is_full:
            self._pause(stream, work)
            self._heed(stream, work)

    def _send(self, stream: Stream) -> None:
        self._drain()
        with self._channel.sending():
            self._output.send_locked()
            self._send_locked(stream)

    def _send_locked(self, stream: Stream) -> None:
        """Send items; by the broker, where something was written since the line began."""
        if not stream.has_sent:
            self._written = self._output.sent
        elif stream.line is not None and self._output.sent != self._written:
            stream.leave_line_locked(self._channel)
        stream.send_locked(self._channel)

    def _pause(self, stream: Stream, work: Work) -> None:
        """Wait until the reader has taken enough, or something is asked of the input."""
        slots = self._slots
        begun = time.monotonic_ns()
        used = begun - slots[pages.STARTED]
        slots[pages.STARTED] = 0
        aside: list[list[bytes]] = []
        told = was_woken = False
        self.is_paused = True
        try:
            while stream.is_full and stream.index not in work.wanted:
                line = stream.line  # a breakpoint in another thread may leave it
                if line is not None and self._hear_line(stream, line):
                    continue
                frames = None
                if told or stream.line is None:
                    frames = self._channel.receive(-1 if told else PATIENCE_MS, stream.line)
                if frames is None:
                    was_woken = True
                    if not told:
                        told = True
                        self._say_paused(stream)
                elif not self._is_credit(stream, frames):
                    aside.append(frames)
                else:
                    told = False
        finally:
            self.is_paused = False
            self._channel.put_back(aside)
            if was_woken:
                self._channel.wake()  # it may have been for somebody else
            now = time.monotonic_ns()
            work.mark_ns += now - begun
            slots[pages.STARTED] = now - used
            stream.runs_on(now)

    def _hear_line(self, stream: Stream, line: ItemLine) -> bool:
        """Take credit that comes by the line within `PATIENCE_MS`; say whether to look anew."""
        try:
            credit = line.credit()
        except (OSError, ProtocolError):
            with self._channel.sending():
                stream.leave_line_locked(self._channel)
            return True
        if credit is None:
            return False
        stream.credit(*credit)
        return True

    def _say_paused(self, stream: Stream) -> None:
        message = messages.Paused(stream.lease, stream.call, stream.index, stream.taken)
        with self._channel.sending():
            stream.tell_locked(self._channel)
            self._channel.send_locked(message)
        if (line := stream.line) is not None:
            line.say_paused(stream.taken)

    @staticmethod
    def _is_credit(stream: Stream, frames: list[bytes]) -> bool:
        try:
            message = messages.decode_at_worker(frames[0])
        except ProtocolError:
            return False  # whoever reads it next says so
        if not isinstance(message, messages.Credit):
            return False
        if message.lease == stream.lease:
            stream.credit(message.items, message.item_bytes)
        return True

    # ---- the control thread -----------------------------------------------------------------

    @property
    def is_urgent(self) -> bool:
        """Whether items wait that the main thread may be too busy to send."""
        stream = self.stream
        return stream is not None and (stream.has_results or stream.is_untold(time.monotonic_ns()))

    def look(self) -> bool:
        """Return whether the thread should look again in a millisecond."""
        self.is_watched = False  # before the look: whoever adds an item looks after that
        stream = self.stream
        if stream is None or self.is_paused or not stream.is_lively(time.monotonic_ns()):
            return False
        self.is_watched = True
        return True

    def tick_locked(self) -> None:
        """Send what has waited long enough, while the channel's lock is held."""
        stream, now = self.stream, time.monotonic_ns()
        if stream is not None and stream.is_due(now):
            self._send_locked(stream)
        elif stream is not None and stream.is_untold(now):
            stream.tell_locked(self._channel)
