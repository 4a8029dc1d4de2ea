"""`FunctionCall`: a spawned call, to wait for, to cancel, and to find again by its id."""

from __future__ import annotations

import threading
import time
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from kernel_worker.errors import Error, InvalidError, StillPendingError
from kernel_worker.model import CallId
from kernel_worker.wire import messages
from notebook_ext import dropping, process
from notebook_ext.gather import Gather
from notebook_ext.gather import gather as gather_calls
from notebook_ext.receivers import Outcomes
from notebook_ext.twin import Waiting, done, stream, twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from notebook_ext.call_graph import InputInfo
    from notebook_ext.call_status import CallStatus
    from notebook_ext.generators import RemoteGenerator, Replay
    from notebook_ext.logs import Logs
    from notebook_ext.session import Session

R = TypeVar("R")
T = TypeVar("T")


class FunctionCall(Generic[R]):
    """A call that runs whether or not anybody waits; `f.spawn(...)` returns it.

    Its results can be had repeatedly and from any process of the same user, by `object_id`.
    """

    def __init__(
        self,
        object_id: str,
        name: str = "",
        num_inputs: int | None = None,
        is_generator: bool = False,  # noqa: FBT001, FBT002  pickled
    ) -> None:
        """Refer to the call `object_id`; calls are made by `Function.spawn`."""
        self._id = CallId(object_id)
        self._name = name or object_id
        self._count = num_inputs
        self._is_generator = is_generator
        self._session: Session | None = None
        self._outcomes: Outcomes | None = None
        self._first_answer: Waiting[messages.CallInfo] | None = None

    @classmethod
    def from_id(
        cls,
        function_call_id: str,
        client: object = None,  # noqa: ARG003  Modal's
        is_generator: bool = False,  # noqa: FBT001, FBT002  Modal's
    ) -> FunctionCall[Any]:
        """Return the call with this id, whichever process of this user made it.

        Args:
            function_call_id: what `object_id` of the call was.
            client: accepted for Modal's sake.
            is_generator: whether the function is a generator; need not be said.

        Raises:
            InvalidError: it is no id of a call. Whether there is such a call is seen by `get`.
        """
        if not str(function_call_id).startswith("fc-"):
            raise InvalidError(
                f"{function_call_id!r} is no id of a call; allowed is one, which begins with fc-."
            )
        # One of many calls by a direct line has the line's id, and its number there.
        known, _, _ = function_call_id.partition(".")
        return FunctionCall(known, is_generator=is_generator)

    @property
    def object_id(self) -> str:
        """The id, by which any process of this user can find the call again."""
        return self._id

    @twin
    def get(self, timeout: float | None = None, *, index: int = 0) -> Waiting[R]:
        """Wait for the result and return it, or raise what the function raised. Repeatable.

        Args:
            timeout: seconds to wait at most; 0 asks and does not wait; None waits for ever.
            index: which input's result, where the call has several.

        Raises:
            StillPendingError: there is no result yet.
            InvalidError: the call has no input at `index`, or the arguments are none.
            NotFoundError: nobody knows the call.
        """
        if self._is_generator:
            raise self._gives_items()
        if timeout is not None and not isinstance(timeout, Real):
            raise InvalidError(f"timeout={timeout!r}: allowed is a number of seconds, or None.")
        if not isinstance(index, Integral):
            raise InvalidError(f"index={index!r}: allowed is a whole number from 0 on.")
        if index < 0 or (self._count is not None and index >= self._count):
            self._no_such_input(index, "its inputs" if self._count is None else self._count)
        session = self._attached()
        waiting: Waiting[R]
        if timeout is None:
            waiting = Waiting()
        else:
            late = partial(self._still_pending, timeout)
            waiting = _Patient(timeout, late, self._first_answer, _long(session))
        waiting.announce = partial(self._announce, session)
        assert self._outcomes is not None  # noqa: S101  attached
        self._outcomes.when(index, waiting, session.output(self._name))
        if self._count is None and self._first_answer is not None and index:
            first = self._first_answer
            first.add_callback(partial(self._check_index, first, index, waiting))
        return waiting

    @stream
    def get_gen(self) -> RemoteGenerator[Any]:
        """Yield what the spawned generator gives: from its first item on, then live.

        It can be had any number of times, while the generator runs and after, in any process of
        this user. Leaving the loop leaves the generator alone.

        Raises:
            InvalidError: the call is none of a generator. Where its id alone is known, iterating
                says so, once it has ended.
        """
        if not self._is_generator and self._count is not None:
            raise InvalidError(f"{self._name} ({self._id}) is no generator: call .get().")
        from notebook_ext.generators import RemoteGenerator  # noqa: PLC0415  imported when used

        return RemoteGenerator(f"{self._name}.get_gen", self._replay)

    @twin
    def cancel(self, terminate_containers: bool = False) -> Waiting[None]:  # noqa: FBT001, FBT002  Modal's
        """End the call: what has not started never starts, what runs is interrupted.

        A running function gets `InputCancellation` (no `Exception`) in its main thread, an async
        one `CancelledError`; `finally` blocks run, and what does not end in 5 s is killed. Calls
        that were made inside its inputs, attached or spawned, are cancelled with it. Whoever waits
        gets `CallCancelledError`; but what a function reported is its outcome: one that swallows
        the cancellation and returns has succeeded.

        Args:
            terminate_containers: kill the workers that run it instead of asking them; other inputs
                on them run again elsewhere.

        Nothing happens to a call that has ended, or that nobody knows.
        """
        session = process.current()
        session.cancel(self._id, terminate=terminate_containers)
        asked = session.ask("call", self._id, messages.CallInfo)
        return asked.dropping_result()  # one that has ended is not found

    @stream
    def iter(self, start: int = 0, end: int | None = None) -> CallResults[R]:
        """Yield the results of the inputs from `start` to before `end`, in order; raise a failure.

        With `for` or `async for`; each iteration begins anew. Each result is waited for.

        Args:
            start: the first input, from 0.
            end: the input to stop before; None, or one beyond the last: all there are.

        Raises:
            InvalidError: one of them is negative, or the call is a generator's.
        """
        if self._is_generator:
            raise self._gives_items()
        return CallResults(self, start, end, self._known_from)

    @twin
    def num_inputs(self) -> Waiting[int]:
        """Return how many inputs the call has, also once it has ended.

        Raises:
            NotFoundError: nobody knows the call.
        """
        if self._count is not None:
            return done(self._count)
        asked = process.current().ask("call", self._id, messages.CallInfo)
        return asked.then(lambda info: int(info.total))

    @twin
    def status(self) -> Waiting[CallStatus]:
        """Return how the call stands: its state in one word, and how many inputs are where.

        Also once it has ended, from any process of this user, and after its results have expired.

        Raises:
            NotFoundError: nobody knows the call.
        """
        from notebook_ext.call_status import CallStatus  # noqa: PLC0415  likewise

        asked = process.current().ask("call", self._id, messages.CallInfo)
        return asked.then(CallStatus.of)

    @twin
    def get_call_graph(self) -> Waiting[list[InputInfo]]:
        """Return the roots of the tree of inputs that this call belongs to.

        Of a spawned call it is exact also once it has ended, after a restart of the broker, and
        from any process of this user; of an attached one it is there while it runs, and for some
        time after.

        Raises:
            NotFoundError: nobody knows the call, or its tree is forgotten.
        """
        from notebook_ext.call_graph import read_graph  # noqa: PLC0415  likewise

        asked = process.current().graph(self._id)
        return asked.then(lambda told: read_graph(*told))

    @stream
    def logs(self) -> Logs:
        """Return what the call has written so far, to iterate: a `LogRecord` for each line.

        With `for` or `async for`; printing it shows everything. Up to 64 MiB of a call are kept,
        for as long as its results, and can be read from any process of this user.

        Raises (where it is iterated):
            NotFoundError: nobody knows the call.
            OutputExpiredError: what it wrote was kept for its time to live and is gone.
        """
        from notebook_ext.logs import Logs  # noqa: PLC0415  likewise

        return Logs(self._id)

    gather: ClassVar[Gather] = gather_calls
    """See `notebook_ext.gather`."""

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the result in the running task."""
        return self.get.aio().__await__()

    def __repr__(self) -> str:
        return f"FunctionCall({self._id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionCall, (self._id, self._name, self._count, self._is_generator)

    def follow(self, session: Session, outcomes: Outcomes) -> None:
        """Take the outcomes that `session` will bring; for whoever makes the call."""
        self._session = session
        self._outcomes = outcomes
        self._first_answer = None
        session.attach(self._id, outcomes)
        dropping.when_dropped(self, partial(_leave, session, self._id, outcomes))

    def _known_from(self, indices: range) -> Sequence[R]:
        """Return the first results of `indices` if they are here, plain, and came together."""
        return () if self._outcomes is None else self._outcomes.plain_values(indices)

    def _gives_items(self) -> InvalidError:
        return InvalidError(
            f"{self._name} ({self._id}) is a generator: its items are had with .get_gen()."
        )

    def _replay(self) -> Replay:
        from notebook_ext.generators import Replay  # noqa: PLC0415  likewise

        session = process.current()
        return Replay(session, self._id, self._name, session.output(self._name, self._id))

    def _attached(self) -> Session:
        """Return the session that brings the outcomes."""
        session = self._session
        heard = self._outcomes is not None and self._outcomes.rejection is None
        if session is None or not session.is_usable or not heard:
            session = process.current()
            self.follow(session, Outcomes(session.output(self._name, self._id), self._name))
            self._first_answer = session.ask("call", self._id, messages.CallInfo)
        return session

    def _check_index(
        self, first: Waiting[messages.CallInfo], index: int, waiting: Waiting[R]
    ) -> None:
        """Let nobody wait for an input that a call, of which only the id was known, never had."""
        try:
            info = first.result()
        except Error:  # then the call's outcomes say so too
            return
        if info.closed and index >= info.total:
            waiting.complete(partial(self._no_such_input, index, info.total), failed=True)

    def _no_such_input(self, index: int, count: int | str) -> Any:
        __tracebackhide__ = True
        has = count if isinstance(count, str) else f"{count} input{'s' * (count != 1)}"
        raise InvalidError(f"index={index}: {self._name} ({self._id}) has {has}, from 0 on.")

    def _announce(self, session: Session, running: Any, begins: bool) -> None:  # noqa: FBT001  a callback
        session.announce(running, begins, (self._id,))

    def _still_pending(self, timeout: float) -> Any:
        __tracebackhide__ = True
        raise StillPendingError(f"{self._name} ({self._id}) has no result after {timeout:g} s.")


class CallResults(Generic[R]):
    """The results of a call's inputs in order; iterate it with `for` or `async for`."""

    def __init__(
        self,
        call: FunctionCall[R],
        start: int,
        end: int | None,
        known: Callable[[range], Sequence[R]],
    ) -> None:
        """Stand for the results of `[start, end)`; `known` returns those that are here."""
        for name, value in (("start", start), ("end", end)):
            if value is not None and not (isinstance(value, Integral) and value >= 0):
                raise InvalidError(f"iter: {name}={value!r}: allowed is a whole number from 0 on.")
        self._call = call
        self._known = known
        self._start = start
        self._end = end

    def __iter__(self) -> Iterator[R]:
        """Wait for each in this thread."""
        indices = self._indices(self._call.num_inputs())
        while indices:
            known = self._known(indices)
            yield from known or (self._call.get(index=indices[0]),)
            indices = indices[len(known) or 1 :]

    async def __aiter__(self) -> AsyncIterator[R]:
        """Wait for each in the running task."""
        indices = self._indices(await self._call.num_inputs.aio())
        while indices:
            known = self._known(indices)
            for value in known or (await self._call.get.aio(index=indices[0]),):
                yield value
            indices = indices[len(known) or 1 :]

    def __repr__(self) -> str:
        return f"<results {self._start}:{'' if self._end is None else self._end} of {self._call!r}>"

    def _indices(self, count: int) -> range:
        return range(self._start, count if self._end is None else min(self._end, count))


class _Patient(Waiting[T]):
    """Waits for a limited time.

    A call that this process did not make is asked for first: where it has ended, its outcome is on
    the way, so that even a poll (0 s) waits for it.
    """

    __slots__ = ("_first", "_late", "_long_seconds", "_timeout_seconds")

    def __init__(
        self,
        timeout_seconds: float,
        late: Callable[[], T],
        first: Waiting[messages.CallInfo] | None,
        long_seconds: float,
    ) -> None:
        super().__init__()
        self._timeout_seconds = timeout_seconds
        self._late = late
        self._first = first
        self._long_seconds = long_seconds

    def join(self) -> T:
        """Wait in this thread; raise if it takes too long."""
        __tracebackhide__ = True
        until = time.monotonic() + self._timeout_seconds
        if self._first is not None and not self.done:
            self._first.wait()
        if not self.wait(self._left(until)):
            self.complete(self._late)
        return self.result()

    def __await__(self) -> Generator[Any, None, T]:
        return self._settle_in_time().__await__()

    async def _settle_in_time(self) -> T:
        __tracebackhide__ = True
        import asyncio  # noqa: PLC0415  as in `Waiting`

        until = time.monotonic() + self._timeout_seconds
        if self._first is not None and not self.done:
            await self._first.settled()
        try:
            async with asyncio.timeout(self._left(until)):
                await self.settled()
        except TimeoutError:
            self.complete(self._late)
        return self.result()

    def _left(self, until: float) -> float:
        left = min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
        return max(left, self._long_seconds) if self._has_ended() else left

    def _has_ended(self) -> bool:
        if self._first is None or not self._first.done:  # the outcome may be quicker
            return False
        try:
            info = self._first.result()
        except Error:  # nobody has it open: it has ended, or never was
            return True
        return info.closed and not info.pending and not info.running


def _long(session: Session) -> float:
    """Return how long an outcome that exists may take to arrive, in seconds."""
    return session.settings.connect_timeout_seconds


def _leave(session: Session, call: CallId, outcomes: Outcomes) -> None:
    """Stop hearing of a call that nobody can ask for any more, once it can write nothing more."""
    if session.is_usable:
        session.post(outcomes.let_go, partial(session.detach, call, outcomes))
