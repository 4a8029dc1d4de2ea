"""Run groups of inputs: one call of a batched function takes the arguments of several as lists.

Theory. A group is some leases with one number; it runs on the main thread, like an ordinary input,
once all of them are here. The progress page names the group by its number, so that a time limit
and a death concern all of it; an interrupt names a lease, which is answered at once, since the
function runs on for the others. Where none is left it is interrupted.

Guarantees: every input is answered once, in the order of its lease; arguments that cannot be had,
or do not fit the function, and results that cannot travel, fail their own input; a group that runs
on after some of its inputs were answered says so when it has ended.
Not guaranteed: that what the function prints belongs to all callers: it goes to the first one.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kernel_worker.context import current_input
from kernel_worker.errors import FunctionTimeoutError, InvalidError
from kernel_worker.model import LeaseId, Outcome
from kernel_worker.wire import failures, messages, payload
from kernel_worker.wire import page as pages
from kernel_worker.worker import arriving
from kernel_worker.worker.run import end_fork
from kernel_worker.worker.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from kernel_worker.worker.binding import Binding
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.instance import Instance
    from kernel_worker.worker.interrupts import Interrupts, Kind
    from kernel_worker.worker.output import Output
    from kernel_worker.worker.run import Executor
    from kernel_worker.worker.streaming import Streamer

_REMEMBERED = 10_000
_NS = 1e-9
_NO_RESULT: Final = object()


class _Member:
    """One lease of a group."""

    def __init__(self, lease: messages.Lease, frames: list[bytes]) -> None:
        self.lease = lease
        self.frames = frames
        self.is_answered = False
        """It was cancelled, and has its answer."""
        self.lingers = False
        """The broker was told that it runs on."""
        self.results: list[Any] = [_NO_RESULT] * (lease.stop - lease.start)
        """Values, and `_Failed` in the place of one."""


class _Failed:
    """What an input raised, or what was raised in its place."""

    def __init__(self, error: BaseException, outcome: Outcome = Outcome.FAILED) -> None:
        self.error = error
        self.outcome = outcome


class _Group:
    """Leases that one call answers."""

    def __init__(self, number: int) -> None:
        self.number = LeaseId(number)
        self.members: dict[LeaseId, _Member] = {}
        self.work: Work | None = None
        """For interrupts: there while it runs."""

    @property
    def first(self) -> messages.Lease:
        """The lease whose input the group runs as: the first that is not answered, if any."""
        waiting = [each for each in self.members.values() if not each.is_answered]
        return (waiting or list(self.members.values()))[0].lease


class Batching:
    """Runs groups; what other threads ask about them comes in here too."""

    has_returns = False

    def __init__(
        self,
        executor: Executor,
        binding: Binding | Instance,
        page: pages.Page,
        channel: Channel,
        output: Output,
    ) -> None:
        """Run what `executor` would run input by input."""
        self._executor = executor
        self._binding = binding
        self._page = page
        self._channel = channel
        self._output = output
        self._lock = threading.Lock()
        self._groups: dict[int, _Group] = {}
        """Those that are not answered; not more than one of them runs."""
        self._finished: deque[LeaseId] = deque(maxlen=_REMEMBERED)
        self._wanted: set[LeaseId] = set()
        self._is_fork = False
        executor.interrupts.watch(Batching._called.__code__)

    # ---- the main thread --------------------------------------------------------------------

    def run(self, lease: messages.Lease, frames: list[bytes]) -> None:
        """Take a lease up; once its group is complete, run that and answer it."""
        with self._lock:
            group = self._groups.setdefault(lease.group, _Group(lease.group))
            group.members[lease.lease] = member = _Member(lease, frames)
            if lease.lease in self._wanted:
                self._wanted.discard(lease.lease)
                self._answer_cancelled(member, lingers=False)
        if len(group.members) == lease.group_size:
            self._run_group(group)

    def _run_group(self, group: _Group) -> None:
        first = group.first
        index = first.start
        # Interrupts look for the group by its number.
        work = Work(msgspec.structs.replace(first, lease=group.number), {})
        self._page.enter_lease(group.number, first.call, index)
        self._page.slots[pages.POSITION] = index
        with self._lock:
            group.work = work
        inputs: list[tuple[_Member, int]] = []
        began = time.monotonic_ns()
        try:
            function = self._executor.prepare(first)
            running = self._executor.running(first, index)
            current_input.set(running)
            if self._output.is_holding:
                self._output.release(running)
            self._output.runs = running
            self._page.slots[pages.STARTED] = began
            call = self._gathered(group, function, inputs)
            if call is not None:
                self._spread(inputs, self._called(function, call))
        except BaseException as error:  # noqa: BLE001  every input is answered with it
            self._fail(group, error)
        else:
            if work.hits.get(index) == "timeout":
                self._fail(group, FunctionTimeoutError("it returned after its time was over"))
        self._finish(group, began, len(inputs))

    def _gathered(
        self, group: _Group, function: Callable[..., Any], inputs: list[tuple[_Member, int]]
    ) -> inspect.BoundArguments | None:
        """Note which inputs can run, and return their arguments as lists; None if none can."""
        signature = inspect.signature(function)
        given: list[dict[str, Any]] = []
        for member in group.members.values():
            if member.is_answered:
                continue
            lease = member.lease
            try:
                reader = payload.BatchReader(
                    arriving.inputs(lease, member.frames, self._channel.seals)
                )
            except Exception as error:  # noqa: BLE001  its inputs are answered with it
                member.results = [_Failed(error)] * len(member.results)
                continue
            for at in range(len(member.results)):
                try:
                    args, kwargs = self._executor.arguments(lease, reader, lease.start + at)
                    given.append(signature.bind(*args, **kwargs).arguments)
                except Exception as error:  # noqa: BLE001  the input is answered with it
                    member.results[at] = _Failed(error)
                else:
                    inputs.append((member, at))
        if not given:
            return None
        call = signature.bind_partial()
        for name, parameter in signature.parameters.items():
            if any(name in one for one in given):
                call.arguments[name] = [one.get(name, parameter.default) for one in given]
        return call

    def _called(self, function: Callable[..., Any], call: inspect.BoundArguments) -> Any:
        """Run the function: the frame below which an interrupt may be raised."""
        value = function(*call.args, **call.kwargs)
        return self._executor.coroutines.run(value) if self._binding.is_async else value

    def _spread(self, inputs: list[tuple[_Member, int]], values: object) -> None:
        """Give each input its result."""
        if not isinstance(values, list) or len(values) != len(inputs):
            found = f"a list of {len(values)}" if isinstance(values, list) else repr(type(values))
            raise InvalidError(
                f"{self._binding.name} is batched: it has to return a list with a result for each "
                f"of its {len(inputs)} inputs, and returned {found}."
            )
        for (member, at), value in zip(inputs, values, strict=True):
            member.results[at] = _Failed(value) if isinstance(value, Exception) else value

    def _fail(self, group: _Group, error: BaseException) -> None:
        """End every input that has not failed by itself."""
        assert group.work is not None  # noqa: S101  it runs
        is_late = "timeout" in group.work.hits.values()
        failed = _Failed(error, Outcome.TIMED_OUT if is_late else Outcome.FAILED)
        for member in group.members.values():
            member.results = [
                each if isinstance(each, _Failed) else failed for each in member.results
            ]

    def _finish(self, group: _Group, began_ns: int, count: int) -> None:
        if self._is_fork:
            end_fork(next(self._errors(group), None))
        now = time.monotonic_ns()
        share = (now - began_ns) // max(count, 1)
        self._executor.drain()
        self._output.pause()
        with self._lock:
            del self._groups[int(group.number)]
            self._finished.extend((group.number, *group.members))
        with self._channel.sending():
            self._output.send_locked()
            for member in group.members.values():
                if not member.is_answered:
                    self._answer_locked(member, now, share)
                elif member.lingers:
                    self._channel.send_locked(messages.InputLeft(member.lease.lease))
        self._page.leave_lease()

    @staticmethod
    def _errors(group: _Group) -> Iterator[BaseException]:
        for member in group.members.values():
            yield from (each.error for each in member.results if isinstance(each, _Failed))

    def _answer_locked(self, member: _Member, now_ns: int, share_ns: int) -> None:
        lease = member.lease
        work = Work(lease, {})
        work.mark_ns = now_ns
        frames: dict[int, bytes] = {}
        for index, result in enumerate(member.results, lease.start):
            failed = result if isinstance(result, _Failed) else None
            if failed is None:
                try:
                    work.add(result)
                    work.mark_ns -= share_ns
                    continue
                except Exception as error:  # noqa: BLE001  the input is answered with it
                    failed = _Failed(error)
            work.send_locked(self._channel, now_ns)
            ended = messages.InputEnded(lease.lease, index, failed.outcome, share_ns * _NS)
            frame = []
            if failed.outcome is Outcome.FAILED:
                known = frames.get(id(failed.error))
                if known is None:
                    known = failures.capture(failed.error, self._binding.function)
                    frames[id(failed.error)] = known
                frame.append(known)
            work.end_locked(self._channel, ended, frame)
            work.mark_ns = now_ns
        work.send_locked(self._channel, now_ns)

    def say_last(self, patience_seconds: float) -> None:
        """Send what was written since the last input."""
        self._executor.say_last(patience_seconds)

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run what an `async` hook of an instance returned."""
        return self._executor.run_coroutine(coroutine)

    # ---- other threads ----------------------------------------------------------------------

    @property
    def interrupts(self) -> Interrupts:
        """Those of the group that runs."""
        return self._executor.interrupts

    @property
    def streamer(self) -> Streamer:
        """What runs generators: there are none."""
        return self._executor.streamer

    @property
    def is_busy(self) -> bool:
        """Whether a group runs or is about to."""
        return bool(self._groups)

    def take_back(self, lease: LeaseId) -> None:
        """A lease of a group cannot be given back: it runs, or is about to."""
        self._channel.post(messages.Returned(lease, 0, 0))

    def rejoin(self, hello: Callable[[int], messages.Hello | None], brokers_gone: int) -> None:
        """Dial the next broker (see `Executor.rejoin`). What runs ends with it."""
        if self.is_busy:
            os.killpg(0, signal.SIGKILL)
        self._executor.rejoin(hello, brokers_gone)

    def answer_waiting(self) -> None:
        """Nothing waits behind the group that runs."""

    def interrupt(self, lease: LeaseId, index: int, kind: Kind) -> None:
        """Answer one lease as cancelled, or let the time of the group be over."""
        with self._lock:
            group = self._groups.get(lease)
            if group is not None:
                if group.work is not None:
                    self.interrupts.request(group.work, index, kind)
                return
            group = next((g for g in self._groups.values() if lease in g.members), None)
            if group is None:
                if lease not in self._finished:
                    self._wanted.add(lease)
                return
            member = group.members[lease]
            if member.is_answered:
                return
            self._answer_cancelled(member, lingers=group.work is not None)
            is_left = any(not each.is_answered for each in group.members.values())
            if group.work is not None and not is_left:
                self.interrupts.request(group.work, group.work.lease.start, "cancel")

    def _answer_cancelled(self, member: _Member, *, lingers: bool) -> None:
        """Answer all of a lease; the lock is held, so that its group does not answer it too."""
        member.is_answered = True
        member.lingers = lingers
        lease = member.lease
        for index in range(lease.start, lease.stop):
            ended = messages.InputEnded(lease.lease, index, Outcome.CANCELLED, 0.0, lingers=lingers)
            self._channel.post(ended)

    def tick(self) -> None:
        """Send what was written while a group runs."""
        if not self._output.size:
            return
        if self._groups:
            self._output.flush(0, lines=True)
        else:
            self._output.post()

    def forked(self) -> None:
        """In a child that user code forked: it ends where the function does, and says nothing."""
        self._is_fork = True
