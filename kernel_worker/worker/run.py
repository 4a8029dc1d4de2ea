"""Run the inputs of leases: the hot path.

Theory. A lease is a range of a batch. Its inputs run one after the other on the main thread, in one
of two loops: `_run_plain` for whole batches of a plain function, where an input costs less than a
tenth of a microsecond (`strides` has its innermost part), and `_run_each` for everything else. A
loop goes on until it is through or an input fails. The order of the writes matters (see
`Work.give_back` and `interrupts`): position, then look at what was asked for, then the start time,
then user code. Of a stride the start time is that of its first input, and is written before.

Guarantees: every input of a lease is answered exactly once, in order, unless it was given back; the
output of an input is sent before its outcome; what an input raises, `SystemExit` and
`KeyboardInterrupt` included, ends that input and nothing else.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections import deque
from itertools import islice
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NoReturn

from kernel_worker.context import RunningInput, RunningLease, current_input
from kernel_worker.errors import (
    CallCancelledError,
    DeserializationError,
    FunctionTimeoutError,
    InputCancellation,
    ProtocolError,
)
from kernel_worker.model import LeaseId, NoValue, Outcome
from kernel_worker.wire import failures, messages, payload
from kernel_worker.wire import line as lines
from kernel_worker.wire import page as pages
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL, ONE_HEADERS
from kernel_worker.worker import arriving, memory, strides
from kernel_worker.worker import interrupts as interrupting
from kernel_worker.worker.coroutines import Coroutines
from kernel_worker.worker.streaming import Streamer
from kernel_worker.worker.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from kernel_worker.model import FunctionSpec, WorkerId
    from kernel_worker.wire.frames import Frame
    from kernel_worker.worker.binding import Binding
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.consoles import Consoles
    from kernel_worker.worker.instance import Instance
    from kernel_worker.worker.lent import Lent
    from kernel_worker.worker.output import Output, Pipe
    from kernel_worker.worker.surroundings import Objects, Surroundings

    _Inputs = tuple[Iterator[Any], bool]
    """Tuples of arguments; or, where the second is true, the only argument of each."""

FLUSH_NS = 10_000_000
"""Results wait no longer than this, or than the input that runs."""
_SILENT_NS = 50_000
"""A look at the pipes costs a microsecond or two: after quicker inputs it waits for the flush.

What they write below Python may then be attributed to a later input of the same lease."""
_STRIDE_NS = 48_000
"""Between two looks at the clock as many inputs run as took so long before …"""
_STRIDE = 64
"""… but no more than these."""
_FLUSH_BYTES = 1 << 20
_MAX_READS = 16
_ONE_INPUT = ONE_HEADERS[FORM_ARGS]
_NS = 1e-9
_REMEMBERED = 1000
_RECENT = 3
"""As many leases may be over that the host agent said were held."""
_EVERYTHING = 1 << 62
_PLAIN_TYPES = payload.PLAIN_TYPES
_WRITTEN_IN_PYTHON = frozenset({FunctionType, MethodType})
"""A bound method of an instance has a function of its class behind it."""


class Executor:
    """Runs leases; what other threads ask about them comes in here too."""

    def __init__(  # noqa: PLR0917  the parts of a worker meet here
        self,
        worker: WorkerId,
        spec: FunctionSpec,
        binding: Binding | Instance,
        page: pages.Page,
        channel: Channel,
        output: Output,
        pipes: tuple[Pipe, ...],
        objects: Objects,
        surroundings: Surroundings,
    ) -> None:
        """Run the function of `binding` in the name of `worker`."""
        self.work: Work | None = None
        """The lease that runs."""
        self.consoles: Consoles | None = None
        """Where the frames of what failed are kept, in a worker that can do that."""
        self._worker = worker
        self._spec = spec
        self._binding = binding
        self._bound = ""
        self._page = page
        self._slots = page.slots
        self._channel = channel
        self._output = output
        self._pipes = {pipe.file: pipe for pipe in pipes}
        self._poll = select.poll()
        for file in self._pipes:
            self._poll.register(file, select.POLLIN)
        self._objects = objects
        self._surroundings = surroundings
        self.is_stopping: Callable[[], bool] = bool
        """Whether the worker is to end; set by whoever has the control thread."""
        self._lock = threading.Lock()
        self._finished: deque[LeaseId] = deque(maxlen=_REMEMBERED)
        self._returned: dict[LeaseId, bool] = {}
        self._wanted: dict[LeaseId, dict[int, interrupting.Kind]] = {}
        self._last: Work | None = None
        """The lease that ran last."""
        self.brokers_gone = 0
        """As many as the page said when this worker dialled."""
        self._is_fork = False
        self._is_in_stride = False
        """Whether STARTED on the page may be older than the input that runs."""
        self._seen = 0
        """The position that the control thread saw last."""
        self._timeout_text = (
            f"{spec.name} ran longer than its timeout of {spec.timeout_seconds:g} s"
        )
        loops = frozenset(
            {
                Executor._run_plain.__code__,
                strides.run_tuples.__code__,
                strides.run_column.__code__,
                Executor._run_each.__code__,
                Streamer._give.__code__,  # noqa: SLF001  a loop around user code as these are
            }
        )
        transparent = frozenset({_framed.__code__, _FRAME_CODE})
        self.interrupts = interrupting.Interrupts(page, loops, transparent, self._timeout_text)
        self.coroutines = Coroutines(self.interrupts, nested=spec.nested_loops)
        self.streamer = Streamer(
            page.slots, channel, output, self.coroutines, self.drain, self._timeout_text
        )

    # ---- the main thread --------------------------------------------------------------------

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run what an `async` hook of an instance returned, in the loop of its methods."""
        return self.coroutines.run(coroutine)

    def say_last(self, patience_seconds: float) -> None:
        """Send what was written since the last input."""
        self.drain()
        self._output.flush(patience_seconds)

    def run(self, lease: messages.Lease, frames: list[bytes]) -> None:
        """Run and answer a lease."""
        work = self._begin(lease)
        if work is None:
            return
        if lease.line:
            self._lend(work, lease)
        sent, function = self._output.sent, None
        try:
            function = self.prepare(lease)
            parts: Sequence[Frame] = frames
            if self._channel.seals.is_on or len(frames) > 2:  # noqa: PLR2004  header and pickles
                parts = arriving.inputs(lease, frames, self._channel.seals)
            reader = payload.BatchReader(parts)
            if reader.header.whole:
                reader[lease.start - lease.first]  # unpickle now: this may fail
        except Exception as error:  # noqa: BLE001  every input is answered with it
            self._fail_all(work, error)
        else:
            self._run_all(work, function, reader)
        if work.lent is not None:
            self._serve_line(work, work.lent, function, sent)
        self._finish(work)
        if lease.line and work.lent is None:
            self._channel.send(messages.Returned(work.id, lease.stop, lease.stop))
        if self.consoles is not None and self.consoles.keeps:
            self.consoles.park()

    def _lend(self, work: Work, lease: messages.Lease) -> None:
        end = lines.dial(lease.line, lease.call)
        if end is not None:
            from kernel_worker.worker.lent import Lent  # noqa: PLC0415  only where one is lent

            work.lent = Lent(end, self, work)

    def _serve_line(
        self, work: Work, lent: Lent, function: Callable[..., Any] | None, sent: int
    ) -> None:
        self._flush(work, time.monotonic_ns())
        if function is not None and self._output.sent == sent:
            try:
                lent.serve(self._channel, function)
            except (OSError, ProtocolError) as error:
                sys.stderr.write(f"the line of {work.lease.call} broke: {error}\n")
            self._flush(work, time.monotonic_ns())
        lent.close(self._channel)

    def run_lent(
        self, work: Work, function: Callable[..., Any], frames: Sequence[bytes]
    ) -> list[Frame] | None:
        """Run the input that `work` is at; return its value's batch, None: it was answered."""
        lease, sent = work.lease, self._output.sent
        try:
            self._surroundings.enter(lease.context)
            is_one = len(frames) == 2 and frames[0] == _ONE_INPUT and not self._is_special(lease)  # noqa: PLR2004  header and pickle
            asked: Any = (
                payload.loads(frames)
                if is_one
                else payload.BatchReader(arriving.at_hand(lease, frames))
            )
        except Exception as error:  # noqa: BLE001  the input is answered with it
            self._fail_all(work, error)
        else:
            if isinstance(asked, payload.BatchReader):
                self._run_all(work, function, asked)
            else:
                position, failure = self._run_plain(
                    work, function, (iter((asked,)), False), lease.start
                )
                if failure is not None:
                    self._end(work, position, failure)
        self._slots[pages.STARTED] = 0
        self.drain()
        self._output.pause()
        if self._output.size or self._output.sent != sent:
            self._flush(work, time.monotonic_ns())
            assert work.lent is not None  # noqa: S101  who calls this
            work.lent.is_recalled = True
            return None
        count, values = work.take()
        return values if count else None

    def hand_over(self) -> None:
        """Let what runs be answered by the broker, if it came, or gives items, by a line."""
        work = self.work
        if work is not None and work.lent is not None:
            with self._channel.sending():
                work.lent.hand_over(self._channel)
        self.streamer.leave_line()

    def _begin(self, lease: messages.Lease) -> Work | None:
        """Take a lease up, or answer that all of it is returned."""
        with self._lock:
            was_answered = self._returned.pop(lease.lease, None)
            if was_answered is None:
                wanted = self._wanted.pop(lease.lease, {})
                work = Work(lease, wanted)
                if not self._enter_lease(work):
                    return None
                self.work = work
                if self._output.is_holding:
                    self._output.release(self.running(lease, lease.start))
                return work
            self._finished.append(lease.lease)
        self._objects.take(lease)
        if not was_answered:
            self._channel.send(messages.Returned(lease.lease, lease.start, lease.stop))
        return None

    def _enter_lease(self, work: Work) -> bool:
        """Say on the page that a lease runs; False: whoever gave it is gone, and others know.

        What counts is who gave it: it may have been received before another broker was dialled.
        """
        slots, lease, number = self._slots, work.lease, self._channel.heard
        if slots[pages.GONE] == number:
            stop = 0 if work.forgot else lease.stop
            self._page.enter_lease(lease.lease, lease.call, lease.start, stop, lease.attempt)
            if slots[pages.GONE] == number:
                return True
            self._page.leave_lease()
        self._finished.append(lease.lease)
        return False

    def prepare(self, lease: messages.Lease) -> Callable[..., Any]:
        """Bind what a lease brings, and return the function to call."""
        self._objects.take(lease)
        if lease.snapshot and lease.snapshot != self._bound:
            self._bound = ""
            self._binding.bind(self._objects.snapshot)
            self._bound = lease.snapshot
        self._surroundings.enter(lease.context)
        self._binding.select(lease.context.method)
        function = self._binding.function
        if type(function) not in _WRITTEN_IN_PYTHON:
            function = _framed(function)
        if lease.context.traceparent:
            function = self._traced(function, lease)
        return function

    def _traced(self, function: Callable[..., Any], lease: messages.Lease) -> Callable[..., Any]:
        from kernel_worker.worker import spans  # noqa: PLC0415  only where a caller traces

        name = ".".join(filter(None, (self._binding.name, lease.context.method)))
        parent, streams = lease.context.traceparent, lease.streams is not None
        return spans.traced(
            function, name, parent, is_async=self._binding.is_async, streams=streams
        )

    def _run_all(
        self, work: Work, function: Callable[..., Any], reader: payload.BatchReader
    ) -> None:
        lease, header = work.lease, reader.header
        is_plain = header.whole and header.form != FORM_CALL
        if is_plain and not self._is_special(lease):
            outcomes = self._plain_outcomes(work, function, _inputs(reader, lease))
        else:
            outcomes = self._each_outcome(work, function, reader)
        for position, error in outcomes:
            self._end(work, position, error)

    def _is_special(self, lease: messages.Lease) -> bool:
        """Whether more is to be done with an input than to call the function with it."""
        return bool(lease.shared) or lease.streams is not None or self._binding.is_async

    def _plain_outcomes(
        self, work: Work, function: Callable[..., Any], inputs: _Inputs
    ) -> Iterable[tuple[int, BaseException]]:
        position, error = self._run_plain(work, function, inputs, work.lease.start)
        while error is not None:
            yield position, error
            position, error = self._run_plain(work, function, inputs, position + 1)

    def _each_outcome(
        self, work: Work, function: Callable[..., Any], reader: payload.BatchReader
    ) -> Iterable[tuple[int, BaseException]]:
        position, error = self._run_each(work, function, reader, work.lease.start)
        while error is not None:
            yield position, error
            position, error = self._run_each(work, function, reader, position + 1)

    def _run_plain(
        self, work: Work, function: Callable[..., Any], inputs: _Inputs, position: int
    ) -> tuple[int, BaseException | None]:
        """Run plain arguments; return where it stopped, and why."""
        slots, stop, clock = self._slots, work.lease.stop, time.monotonic_ns
        asked, hits, at, since = work.asked, work.hits, pages.POSITION, pages.STARTED
        items, is_column = inputs
        here = RunningLease(self.running(work.lease, position), slots, at)
        now, count = clock(), 1
        flush_at, begins = work.mark_ns + FLUSH_NS, True
        try:
            while position < stop:
                is_stride = count > 1 and not asked
                item: Any = None if is_stride else next(items)
                value: Any = None
                slots[at] = position
                if asked and not is_stride and not work.heed(position):
                    break
                if begins:
                    current_input.set(here)
                    self._output.runs, begins = here, False
                slots[since] = began = now
                if is_stride:
                    if not self._stride(work, function, inputs, position, count):
                        position = slots[at]
                        break
                    position += count
                else:
                    count = 1
                    value = function(item) if is_column else function(*item)
                    if hits:
                        self._refuse_late(work, position)
                now = clock()
                took = now - began
                if took > _SILENT_NS:
                    self.drain()  # before the control thread can send the value
                    now = clock()
                if not is_stride:
                    if type(value) in _PLAIN_TYPES:
                        work.values.append(value)
                    else:
                        work.add(value)
                    position += 1
                count = min(_STRIDE, stop - position, _STRIDE_NS * count // (took + 1)) or 1
                if now > flush_at:
                    self._flush(work, now)
                    begins, now = True, clock()
                    flush_at = now + FLUSH_NS
        except BaseException as error:  # noqa: BLE001  it is the input's outcome
            here.ended = max(position, slots[at])
            return here.ended, error
        here.ended = position - 1
        return position, None

    def _stride(
        self, work: Work, function: Callable[..., Any], inputs: _Inputs, position: int, count: int
    ) -> bool:
        items, is_column = inputs
        run = strides.run_column if is_column else strides.run_tuples
        self._is_in_stride = True
        try:
            return run(
                function, islice(items, count), position, self._slots, work, self._refuse_late
            )
        finally:
            self._is_in_stride = False

    def _run_each(
        self, work: Work, function: Callable[..., Any], reader: payload.BatchReader, position: int
    ) -> tuple[int, BaseException | None]:
        """Run anything else; return where it stopped, and why."""
        lease, slots = work.lease, self._slots
        is_async, plain = self._binding.is_async, _PLAIN_TYPES
        flush_at = work.mark_ns + FLUSH_NS
        try:
            while position < lease.stop:
                slots[pages.POSITION] = position
                if work.asked and not work.heed(position):
                    break
                self._enter(lease, position)
                args, kwargs = self.arguments(lease, reader, position)
                value = function(*args, **kwargs)
                if is_async:
                    value = self.coroutines.run(value)
                del args, kwargs
                if lease.streams is not None:
                    self.streamer.run(work, value, position, lease.streams)
                    value = NoValue.ITEMS_GIVEN
                if work.hits:
                    self._refuse_late(work, position)
                if time.monotonic_ns() - slots[pages.STARTED] > _SILENT_NS:
                    self.drain()  # before the control thread can send the value
                if type(value) in plain:
                    work.values.append(value)
                else:
                    work.add(value)
                    del value
                position += 1
                now = time.monotonic_ns()
                if now > flush_at or work.pending_bytes > _FLUSH_BYTES:
                    self._flush(work, now)
                    flush_at = now + FLUSH_NS
        except BaseException as error:  # noqa: BLE001  it is the input's outcome
            return position, error
        return position, None

    def running(self, lease: messages.Lease, position: int) -> RunningInput:
        """Return what names the attempt at `position` of a lease."""
        return RunningInput(
            lease.call,
            position,
            lease.attempt,
            self._worker,
            lease.lease,
            lease.table,
            lease.context.directory,
            bool(lease.line),
        )

    def _enter(self, lease: messages.Lease, position: int) -> None:
        running = self.running(lease, position)
        current_input.set(running)
        self._output.runs = running
        self._slots[pages.STARTED] = time.monotonic_ns()

    def arguments(
        self, lease: messages.Lease, reader: payload.BatchReader, position: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Unpickle the arguments of one input, those that it shares with others too."""
        item: Any = reader[position - lease.first]
        args, kwargs = item if reader.header.form == FORM_CALL else (item, {})
        if lease.shared:
            try:
                kwargs = {**self._objects.shared_arguments(lease.context.store), **kwargs}
            except Exception as error:
                text = f"kwargs cannot be unpickled here: {type(error).__name__}: {error}"
                raise DeserializationError(text) from error
        return args, kwargs

    def _refuse_late(self, work: Work, position: int) -> None:
        """Do not let a function win that swallowed its timeout, nor go on in a child of a fork."""
        if self._is_fork:
            end_fork(None)
        if work.hits.get(position) == "timeout":
            raise FunctionTimeoutError(self._timeout_text)

    # ---- answers ----------------------------------------------------------------------------

    def _flush(self, work: Work, now_ns: int) -> None:
        """Send what has been made, between two inputs."""
        self._slots[pages.STARTED] = 0
        self.drain()
        self._output.pause()
        with self._channel.sending():
            self._output.send_locked()
            work.send_locked(self._channel, now_ns)

    def _finish(self, work: Work) -> None:
        self._flush(work, time.monotonic_ns())
        with self._lock:
            self.work, self._last = None, work
            self._finished.append(work.id)
            self._page.leave_lease()
        if work.is_adopted:
            self._channel.send(messages.Returned(work.id, 0, _EVERYTHING))

    def _fail_all(self, work: Work, error: BaseException) -> None:
        frame = failures.capture(error)
        for position in range(work.lease.start, work.lease.stop):
            self._slots[pages.POSITION] = position
            if not work.keeps(position):
                return
            self._end(work, position, error, frame)

    def _end(
        self, work: Work, position: int, error: BaseException, frame: bytes | None = None
    ) -> None:
        """Report an input that did not succeed, after everything before it."""
        if self._is_fork:
            end_fork(error)
        now = time.monotonic_ns()
        started = self._slots[pages.STARTED] or now
        self._slots[pages.STARTED] = 0
        outcome = _outcome(work, position, error)
        frames = []
        if outcome is Outcome.FAILED:
            memory.explain(error, self._spec)
            frames.append(frame or failures.capture(error, self._binding.function))
        parks = (
            outcome is Outcome.FAILED
            and work.lease.context.keep_failed_seconds > 0
            and self.consoles is not None
            and self.consoles.keep(work.lease, position, error)
        )
        error.__traceback__ = None  # it holds the arguments, and grows where it is raised again
        self.drain()
        self._output.pause()
        below = isinstance(error, CallCancelledError)
        ended = messages.InputEnded(
            work.id, position, outcome, (now - started) * _NS, below, parks=parks
        )
        with self._channel.sending():
            self._output.send_locked()
            work.send_locked(self._channel, started)
            work.end_locked(self._channel, ended, frames)

    def drain(self) -> None:
        """Take in what was written below Python, while it is known which input wrote it."""
        if self._output.input_ended is not None and self._output.current is not None:
            self._output.input_ended()
        for _ in range(_MAX_READS):
            ready = self._poll.poll(0)
            if not ready:
                break
            for file, _event in ready:
                self._pipes[file].read()
        for pipe in self._pipes.values():
            if pipe.is_read():
                pipe.settle()

    def forked(self) -> None:
        """In a child that user code forked: it ends where the function does, and says nothing.

        It shares the page and the socket with the worker, and must touch neither.
        """
        self._is_fork = True
        if self.work is not None:
            self.work.hits[-1] = "cancel"  # whatever runs: the page tells where the parent is

    # ---- other threads ----------------------------------------------------------------------

    def take_back(self, lease: LeaseId) -> None:
        """Give back what was not started of a lease: running, finished, waiting or on its way."""
        with self._lock:
            work = self.work
            if work is not None and work.id == lease and work.lent is not None:
                work.lent.recall()
                return  # acknowledged when what runs has ended
            if work is not None and work.id == lease:
                start, stop = work.give_back(self._page)
            elif lease in self._finished or self._returned.get(lease):
                start = stop = 0  # also where it was given back and waits to be dropped
            else:
                self._returned.setdefault(lease, False)
                return
        self._channel.post(messages.Returned(lease, start, stop))

    def answer_waiting(self) -> None:
        """Return the leases that wait behind the one that runs and were taken back."""
        if not self._channel.try_acquire():
            return
        try:
            for frames in self._channel.fetch_locked():
                message = messages.decode_at_worker(frames[0])
                if isinstance(message, messages.Lease) and self._claim(message.lease):
                    answer = messages.Returned(message.lease, message.start, message.stop)
                    self._channel.send_locked(answer)
        finally:
            self._channel.release()

    def _claim(self, lease: LeaseId) -> bool:
        with self._lock:
            if self._returned.get(lease) is not False:
                return False
            self._returned[lease] = True
            return True

    @property
    def is_busy(self) -> bool:
        """Whether a lease runs."""
        return self.work is not None

    @property
    def has_returns(self) -> bool:
        """Whether a lease was taken back that has not been answered."""
        return False in self._returned.values()

    def interrupt(self, lease: LeaseId, index: int, kind: interrupting.Kind) -> None:
        """Interrupt one input: the one that runs, or one that has not started."""
        with self._lock:
            work = self.work
            if work is not None and work.id == lease:
                if kind == "timeout" and not self._is_over_limit():
                    return
                if work.lent is not None and kind == "cancel":
                    index = work.lent.recall()  # the broker is told late
                self.interrupts.request(work, index, kind)
                if self.streamer.is_paused:
                    self._channel.wake()
            elif lease not in self._finished and lease not in self._returned:
                self._wanted.setdefault(lease, {})[index] = kind

    def rejoin(self, hello: Callable[[int], messages.Hello | None], brokers_gone: int) -> None:
        """Dial the broker that follows one that is gone, and repeat what that may not have kept.

        What ran last is given up, as far as it is not repeated: the broker waits for it. What runs
        is, when it has ended. Where that may run something twice that must not, it dies instead.

        Args:
            hello: returns what is said first; None: it is not ready, and will say it when it is.
            brokers_gone: how many are, by the page.
        """
        self._channel.acquire()
        try:
            with self._lock:  # what ends now is one of the two
                kept = [work for work in (self._last, self.work) if work is not None]
            # What ran before is nothing that the next broker goes on with: see `survival`.
            if kept and kept[-1].forgot and not self._spec.rerun_on_crash:
                os.killpg(0, signal.SIGKILL)
            self.brokers_gone = brokers_gone  # before a look whether it is ready: see `main`
            self._channel.redial_locked(hello(brokers_gone), brokers_gone)
            for work in kept:
                work.is_adopted = True
                work.repeat_locked(self._channel)
            with self._lock:
                self._wanted.clear()
                self._returned.clear()
                over = [self._finished[-1 - at] for at in range(min(_RECENT, len(self._finished)))]
            for lease in over:
                self._channel.send_locked(messages.Returned(lease, 0, _EVERYTHING))
        finally:
            self._channel.release()

    def tick(self) -> None:
        """Send what lies finished while an input runs."""
        work = self.work
        if work is None:
            if self._output.size:
                self._output.post()
            return
        is_due = self._output.size or work.has_results or self.streamer.is_urgent
        if not is_due and work.lent is None:
            return
        if not self._channel.try_acquire():
            return
        try:
            self._output.send_locked(lines=True)
            self.streamer.tick_locked()
            until = self._started(time.monotonic_ns())
            if work.lent is not None:
                work.lent.look(self._channel, until)
            if self.work is work and until:
                work.send_locked(self._channel, until)
        finally:
            self._channel.release()

    def _is_over_limit(self) -> bool:
        """Whether what runs has run for as long as it may, behind the first of a stride too."""
        now = time.monotonic_ns()
        started = self._started(now)
        return not started or (now - started) * _NS >= self._spec.timeout_seconds

    def _started(self, now_ns: int) -> int:
        """Return since when the input runs, 0: none does; in a stride, since it is seen to run.

        The first of a stride began when the page says. One behind it would be over its timeout too
        soon; the control thread looks while there is something that it could send, and behind the
        first there is.
        """
        slots = self._slots
        position, started = slots[pages.POSITION], slots[pages.STARTED]
        if self._is_in_stride and started and position != self._seen:
            slots[pages.STARTED] = started = now_ns  # at worst just after it has ended
        self._seen = position
        return started


def _inputs(reader: payload.BatchReader, lease: messages.Lease) -> _Inputs:
    """Return the arguments of a lease in a whole batch."""
    start = lease.start - lease.first
    stop = start + lease.stop - lease.start
    column = reader.column(start, stop)
    if column is not None:
        return iter(column), True
    return iter(reader.items(start, stop)), False


def end_fork(error: BaseException | None) -> NoReturn:
    """End a child that user code forked, where its function has ended, as Python ends a program."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = _exit_code(error.code)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    os._exit(code)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _outcome(work: Work, position: int, error: BaseException) -> Outcome:
    hit = work.hits.get(position)
    if hit == "timeout":
        return Outcome.TIMED_OUT
    if hit == "cancel" or isinstance(error, InputCancellation):
        return Outcome.CANCELLED
    return Outcome.FAILED


def _framed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a callable that is not written in Python a frame: interrupts look for one."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__wrapped__ = function  # type: ignore[attr-defined]  # where signatures are looked for
    return call


_FRAME_CODE = _framed(len).__code__
