"""Run several inputs of a worker at once: async ones as tasks, sync ones on threads.

Theory. Each lease holds one input. A thread of the worker (the main one where the function is
sync; where it is async, the main thread runs the event loop, and one beside it) receives leases and
sends answers; it never runs user code but what binding a snapshot takes, so that a lease is taken
up, given back or answered whatever the inputs do. An input is WAITING until its thread or task has
taken it up, RUNNING until it is answered, and gone when its code has ended.

Guarantees: every lease is answered once, after the output of its input; an interrupt of one input
leaves the others alone. A coroutine is cancelled, and answered when it has ended or after
`PATIENCE_SECONDS`; an input on a thread is answered at once, since nothing can be raised in it.
What runs on after its answer is dropped when it ends, and the broker is told then: until then it
holds its slot.
Not guaranteed: that what is written below Python, or by threads that user code started and that
inherit no context, is attributed to the right one of the inputs that run.
"""

from __future__ import annotations

import contextvars
import os
import queue
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.context import RunningInput, current_input
from kernel_worker.errors import CallCancelledError
from kernel_worker.model import CallId, LeaseId, Outcome
from kernel_worker.store import blobs
from kernel_worker.wire import failures, messages, payload
from kernel_worker.wire.frames import FORM_VALUE
from kernel_worker.worker import arriving
from kernel_worker.worker.instance import Instance
from kernel_worker.worker.run import end_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.page import Page
    from kernel_worker.worker.binding import Binding
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.interrupts import Interrupts, Kind
    from kernel_worker.worker.output import Output
    from kernel_worker.worker.run import Executor
    from kernel_worker.worker.streaming import Streamer

PATIENCE_SECONDS: Final = 4.0
"""How long a cancelled coroutine may take to end; the host agent kills what was not answered."""
_REMEMBERED = 10_000
_NS = 1e-9
_NO_CALL: Final = CallId("")
_OUTCOMES: Final = {"cancel": Outcome.CANCELLED, "timeout": Outcome.TIMED_OUT}
_WAITING, _RUNNING, _ANSWERED = range(3)


class _Input:
    """One input, from its lease to the end of its code."""

    def __init__(
        self, lease: messages.Lease, running: RunningInput, function: Callable[..., Any]
    ) -> None:
        self.lease = lease
        self.running = running
        self.function = function
        self.reader: payload.BatchReader
        self.state = _WAITING
        self.hit: Kind | None = None
        """It was interrupted so."""
        self.given_up_at = 0.0
        """When it is answered though it has not heeded that."""
        self.row = -1
        self.began_ns = 0
        self.cancel: Callable[[], object] | None = None


class Concurrent:
    """Runs leases at once; what other threads ask about them comes in here too."""

    has_returns = False

    def __init__(
        self,
        executor: Executor,
        binding: Binding | Instance,
        page: Page,
        channel: Channel,
        output: Output,
    ) -> None:
        """Run what `executor` would run one after the other."""
        self._executor = executor
        self._binding = binding
        self._page = page
        self._channel = channel
        self._output = output
        self._lock = threading.Lock()
        self._inputs: dict[LeaseId, _Input] = {}
        """Those that are not answered, in the order in which they came."""
        self._finished: deque[LeaseId] = deque(maxlen=_REMEMBERED)
        self._returned: set[LeaseId] = set()
        self._wanted: dict[LeaseId, Kind] = {}
        self._threads = _Threads(self._run_in_thread)
        # Of a class nobody knows which method comes next.
        needs_loop = binding.is_async or isinstance(binding, Instance)
        self._loop = executor.coroutines.loop() if needs_loop else None
        self._is_fork = False
        output.is_shared = True

    @property
    def has_loop(self) -> bool:
        """Whether the main thread runs an event loop."""
        return self._loop is not None

    def say_last(self, patience_seconds: float) -> None:
        """Send what was written since the last input."""
        self._executor.say_last(patience_seconds)

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run what an `async` hook of an instance returned; not on the loop's own thread."""
        import asyncio  # noqa: PLC0415  only where there is a loop

        assert self._loop is not None  # noqa: S101  an instance has one
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def serve_beside_loop(self, serve: Callable[[], object]) -> None:
        """Run the event loop in this thread, and `serve`, which ends the process, in another."""
        assert self._loop is not None  # noqa: S101  an async function's
        threading.Thread(target=serve, name="notebook-ext-serve", daemon=True).start()
        while True:
            self._loop.run_forever()  # user code may stop it

    # ---- the thread that receives -----------------------------------------------------------

    def run(self, lease: messages.Lease, frames: list[bytes]) -> None:
        """Take a lease up; it is answered when its input has ended."""
        try:
            function = self._executor.prepare(lease)
            one = _Input(lease, self._executor.running(lease, lease.start), function)
            parts = arriving.inputs(lease, frames, self._channel.seals)
            one.reader = payload.BatchReader(parts)
            if self._output.is_holding:
                self._output.release(one.running)
        except Exception as error:  # noqa: BLE001  the input is answered with it
            ended = messages.InputEnded(lease.lease, lease.start, Outcome.FAILED, 0.0)
            self._answer(ended, [failures.capture(error)], call=lease.call)
            return
        with self._lock:
            wanted = self._wanted.pop(lease.lease, None)
            if is_returned := lease.lease in self._returned:
                self._returned.discard(lease.lease)
            elif wanted is None:
                self._inputs[lease.lease] = one
        if is_returned:
            self._answer(messages.Returned(lease.lease, lease.start, lease.stop))
        elif wanted is not None:
            self._answer(messages.InputEnded(lease.lease, lease.start, _OUTCOMES[wanted], 0.0))
        elif self._loop is None or not self._binding.is_async:
            self._threads.give(one)
        else:
            self._loop.call_soon_threadsafe(self._start_task, one)

    # ---- the threads and tasks that run inputs ----------------------------------------------

    def _run_in_thread(self, one: _Input) -> None:
        if self._take_up(one):
            contextvars.Context().run(self._run, one)

    def _run(self, one: _Input) -> None:
        current_input.set(one.running)
        try:
            args, kwargs = self._executor.arguments(one.lease, one.reader, one.lease.start)
            value = one.function(*args, **kwargs)
            del args, kwargs
            frames = _encoded(one, value)
            del value
        except BaseException as error:  # noqa: BLE001  it is the input's outcome
            self._end(one, error, [])
        else:
            self._end(one, None, frames)

    def _start_task(self, one: _Input) -> None:
        assert self._loop is not None  # noqa: S101  this runs in it
        context = contextvars.Context()
        context.run(current_input.set, one.running)
        task = self._loop.create_task(self._run_task(one), context=context)
        one.cancel = task.cancel

    async def _run_task(self, one: _Input) -> None:
        if not self._take_up(one):
            return
        try:
            args, kwargs = self._executor.arguments(one.lease, one.reader, one.lease.start)
            value = await one.function(*args, **kwargs)
            del args, kwargs
            frames = _encoded(one, value)
            del value
        except BaseException as error:  # noqa: BLE001  it is the input's outcome
            self._end(one, error, [])
        else:
            self._end(one, None, frames)

    def _take_up(self, one: _Input) -> bool:
        """Begin an input, unless it was answered while it waited."""
        with self._lock:
            if one.state != _WAITING:
                return False
            one.state = _RUNNING
            one.began_ns = time.monotonic_ns()
            lease = one.lease
            one.row = self._page.enter(lease.lease, lease.call, lease.start, one.began_ns)
            self._output.runs = one.running
            return True

    def _end(self, one: _Input, error: BaseException | None, frames: list[Frame]) -> None:
        """Answer an input whose code has ended, or say that its slot is free."""
        if self._is_fork:
            end_fork(error)
        lease = one.lease
        with self._lock:
            was_answered = one.state == _ANSWERED
            one.state = _ANSWERED
        if was_answered:
            self._channel.hand_over(messages.InputLeft(lease.lease))
            return
        if error is None and one.hit != "timeout":
            elapsed = (time.monotonic_ns() - one.began_ns) * _NS
            answer: messages.Done | messages.InputEnded
            answer = messages.Done(lease.lease, lease.start, 1, elapsed)
        else:
            outcome = Outcome.FAILED if one.hit is None else _OUTCOMES[one.hit]
            frames = []
            if error is not None:
                if outcome is Outcome.FAILED:
                    frames.append(failures.capture(error, self._binding.function))
                error.__traceback__ = None  # it holds the arguments
            answer = self._ended(one, outcome, is_below=isinstance(error, CallCancelledError))
        with self._output.handing:
            self._executor.drain()
            self._leave(one, answer, frames)

    # ---- answers ----------------------------------------------------------------------------

    @staticmethod
    def _ended(
        one: _Input, outcome: Outcome, *, is_below: bool = False, lingers: bool = False
    ) -> messages.InputEnded:
        elapsed = (time.monotonic_ns() - one.began_ns) * _NS if one.began_ns else 0.0
        lease = one.lease
        return messages.InputEnded(
            lease.lease, lease.start, outcome, elapsed, is_below, lingers=lingers
        )

    def _leave(self, one: _Input, answer: messages.ToBroker, frames: Sequence[Frame] = ()) -> None:
        """Answer an input, after its output."""
        with self._output.handing:
            with self._lock:
                self._inputs.pop(one.lease.lease, None)
                self._finished.append(one.lease.lease)
                if self._output.runs is one.running:
                    runs = [each for each in self._inputs.values() if each.state == _RUNNING]
                    if runs:
                        self._output.runs = runs[-1].running
                    else:
                        self._output.pause()
            self._answer(answer, frames, call=one.lease.call, ended=one.running)
        with self._lock:
            self._page.leave(one.row)

    def _answer(
        self,
        answer: messages.ToBroker,
        frames: Sequence[Frame] = (),
        *,
        call: CallId = _NO_CALL,
        ended: RunningInput | None = None,
    ) -> None:
        with self._output.handing:
            self._output.hand_over(lines=True, ended=ended)
            self._channel.hand_over(answer, frames, call)

    # ---- the control thread -----------------------------------------------------------------

    @property
    def interrupts(self) -> Interrupts:
        """Those of inputs on the main thread: there are none."""
        return self._executor.interrupts

    @property
    def streamer(self) -> Streamer:
        """What runs generators: there are none."""
        return self._executor.streamer

    @property
    def is_busy(self) -> bool:
        """Whether an input runs or is about to."""
        return bool(self._inputs)

    def take_back(self, lease: LeaseId) -> None:
        """Give a lease back unless it has been taken up."""
        start = stop = 0
        with self._lock:
            one = self._inputs.get(lease)
            if one is None and lease not in self._finished:
                self._returned.add(lease)
                return
            if one is not None and one.state == _WAITING:
                start, stop = one.lease.start, one.lease.stop
                one.state = _ANSWERED
        answer = messages.Returned(lease, start, stop)
        if one is not None and start < stop:
            self._leave(one, answer)
        else:
            self._answer(answer)

    def rejoin(self, hello: Callable[[int], messages.Hello | None], brokers_gone: int) -> None:
        """Dial the next broker (see `Executor.rejoin`). What runs ends with it."""
        if self.is_busy:
            os.killpg(0, signal.SIGKILL)
        self._executor.rejoin(hello, brokers_gone)

    def answer_waiting(self) -> None:
        """Nothing waits behind the inputs that run."""

    def interrupt(self, lease: LeaseId, index: int, kind: Kind) -> None:  # noqa: ARG002  a lease is one input
        """Interrupt one input, whether it runs, waits or has not arrived."""
        with self._lock:
            one = self._inputs.get(lease)
            if one is None:
                if lease not in self._finished and lease not in self._returned:
                    self._wanted[lease] = kind
                return
            if one.state == _ANSWERED or one.hit is not None:
                return
            one.hit = kind
            was_running = one.state == _RUNNING
            if was_running and self._loop is not None and one.cancel is not None:
                one.given_up_at = time.monotonic() + PATIENCE_SECONDS
                self._loop.call_soon_threadsafe(one.cancel)
                return
            one.state = _ANSWERED
        self._leave(one, self._ended(one, _OUTCOMES[kind], lingers=was_running))

    def tick(self) -> None:
        """Send what was written, and answer for coroutines that do not end."""
        if self._output.size:
            self._output.hand_over(lines=bool(self._inputs))
        now = time.monotonic()
        for one in [each for each in list(self._inputs.values()) if each.hit is not None]:
            with self._lock:
                if one.state != _RUNNING or now < one.given_up_at:
                    continue
                one.state = _ANSWERED
            assert one.hit is not None  # noqa: S101  just looked at
            self._leave(one, self._ended(one, _OUTCOMES[one.hit], lingers=True))

    def forked(self) -> None:
        """In a child that user code forked: it ends where the function does, and says nothing."""
        self._is_fork = True


class _Threads:
    """As many threads as inputs were ever there at once; each runs one after the other."""

    def __init__(self, run: Callable[[_Input], None]) -> None:
        self._run = run
        self._waiting: queue.SimpleQueue[_Input] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0

    def give(self, one: _Input) -> None:
        """Let a thread run an input, now."""
        with self._lock:
            is_free = self._free > 0
            self._free -= is_free
        self._waiting.put(one)
        if not is_free:
            threading.Thread(target=self._serve, name="notebook-ext-input", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._run(self._waiting.get())
            with self._lock:
                self._free += 1


def _encoded(one: _Input, value: object) -> list[Frame]:
    keep = blobs.keep_in(arriving.store_of(one.lease))
    return payload.encode_batch([value], FORM_VALUE, keep)
