"""`Callee`: what can be called on workers: `remote`, `spawn`, `map` and the rest.

Theory. Each of them reads and packs the function, encodes its arguments on the calling thread, and
hands a submission to the session. They differ in who receives what comes back: one answer, the
acceptance of a durable call, an iterator.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from msgspec.structs import replace

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError
from kernel_worker.model import is_deployed
from notebook_ext import blobs, process, spans
from notebook_ext.arguments import copied, encoded, plain, shared_object, weighed
from notebook_ext.call import FunctionCall
from notebook_ext.companions import Companions, gathering
from notebook_ext.lines import NO_LINE, Refusal
from notebook_ext.looked_up import ask
from notebook_ext.receivers import Acceptance, Outcomes, SingleAnswer
from notebook_ext.source import Source
from notebook_ext.submission import Submission
from notebook_ext.twin import Waiting, blocks_thread, stream, twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.model import CallId, Digest
    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.payload import Keep
    from notebook_ext.generators import AttachedRun, RemoteGenerator
    from notebook_ext.maps import Map
    from notebook_ext.session import Session

P = ParamSpec("P")
R = TypeVar("R")


class Callee(Source, Generic[P, R]):
    """A function in the ways in which it is called on workers."""

    is_generator = False
    """Whether it gives items (`remote_gen`) instead of a value (`remote`)."""

    says_why_it_waits = True
    """Whether a `remote` that has waited for long says for what."""

    def newest(self) -> Callee[P, R]:
        """Return what it is called on now: itself, or its redefinition."""
        return self

    @twin
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Waiting[R]:
        """Run on a worker, wait, and return the value or raise the original exception.

        Raises:
            SerializationError: an argument, or something that the function captured, cannot
                travel; nothing was sent.
        """
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("remote")
        blocks = blocks_thread()
        session = process.current()
        running = running_input()
        package = self._package(running)
        companions: Companions = {}
        frames = plain(args, kwargs)
        if frames is None:
            keep = blobs.here.keep
            frames = weighed(self._name, gathering(companions, encoded, args, kwargs, keep))
        context, refusal = self._context(), NO_LINE
        is_plain = (
            running is None and not companions and not package.table and not spans.are_wanted()
        )
        if blocks and is_plain and (self._raw is not None or not is_deployed(self._key)):
            direct = session.lines.call(package, context, frames)
            if not isinstance(direct, Refusal):
                return direct
            refusal = direct
        call = session.new_call()
        answer = SingleAnswer(session.output(self._name), self._name, self.says_why_it_waits)
        waiting = answer.waiting
        waiting.abandoned = partial(session.cancel, call)
        parent = running.as_parent() if running is not None else None
        if running is not None:
            waiting.announce = partial(_announce, session, call)
        span, context = spans.begun(self._name, call, context)
        said = Submission(
            call,
            package,
            answer if span is None else span.watching(answer),
            context=context,
            parent=parent,
            deaths=refusal.deaths,
            raw=self._replayable,
            snapshot_now=self._snapshot_now,
            companions=companions,
        )
        if refusal.address:
            waiting.settled_here = session.lines.asked_by(said, refusal.address)
            waiting.abandoned = partial(_give_up, session, call)
        session.submit(said, 1, frames)
        return waiting

    @stream
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteGenerator[Any]:
        """Run a generator on a worker and yield its items as they are made.

        It starts when it is first iterated, with `for` or `async for`. It is at most 64 items or
        16 MiB ahead of the loop; leaving the loop closes it.

        Raises:
            InvalidError: the function is no generator.
            SerializationError: as `remote`.
        """
        __tracebackhide__ = True
        if is_deployed(self._key) and not self.is_generator:
            self.is_generator = self._ask_whether_generator()
        if not self.is_generator:
            raise InvalidError(
                f"{self._name} is no generator: call {self._name}.remote(...), or write it with "
                "`yield` (or is_generator=True, where it returns an iterator)."
            )
        companions: Companions = {}
        process.current()  # which has a place for large buffers
        given = gathering(companions, encoded, args, kwargs, blobs.here.keep)
        frames = copied(weighed(self._name, given))
        from notebook_ext.generators import RemoteGenerator  # noqa: PLC0415  imported when used

        begin = partial(self._streamed, frames, companions)
        return RemoteGenerator(f"{self._name}.remote_gen", begin)

    @twin
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> Waiting[FunctionCall[R]]:
        """Start on a worker and return a `FunctionCall`, which is durable from then on.

        Raises:
            SerializationError: as `remote`.
        """
        __tracebackhide__ = True
        companions: Companions = {}
        frames = copied(weighed(self._name, gathering(companions, encoded, args, kwargs)))
        return self._spawned(1, frames, {}, companions)

    @twin
    def spawn_map(
        self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] | None = None
    ) -> Waiting[FunctionCall[R]]:
        """Start one durable call of many inputs: the iterables zipped, to the shortest.

        Raises:
            SerializationError: as `remote`; a note says which input it was.
            RequestSizeError: they are more than ten million, or more than is sent at once.
        """
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("spawn_map")
        if not input_iterators:
            raise InvalidError(f"{self._name}.spawn_map needs at least one iterable.")
        from notebook_ext.spawned_inputs import batched  # noqa: PLC0415  imported when used

        companions: Companions = {}
        title = f"{self._name}.spawn_map"
        count, frames, parts = gathering(companions, batched, title, input_iterators)
        frames = copied(weighed(self._name, frames, count))
        return self._spawned(count, frames, kwargs or {}, companions, parts)

    @stream
    def map(
        self,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = True,
    ) -> Map[R]:
        """Run on workers for each item of the iterables zipped, and yield the results.

        It starts when it is first iterated, with `for` or `async for`, and can be iterated once.
        Where it fails or is stopped, the exception and the map have `results`, `failed`,
        `remaining` and `resume()`; see `unfinished.Unfinished`.

        Args:
            input_iterators: iterables, zipped to the shortest; they may be infinite, blocking or
                async.
            kwargs: keyword arguments that all inputs share; sent once.
            order_outputs: yield in the order of the inputs, or as they are done.
            return_exceptions: yield an exception in the place of its result instead of raising it.
            wrap_returned_exceptions: wrap these in `UserCodeException`.

        Raises:
            InvalidError: there are no iterables, or one of them is none.
        """
        if self.is_generator:
            raise self._gives_items("map")
        from notebook_ext.maps import Map  # noqa: PLC0415  likewise

        return Map(
            self,
            input_iterators,
            shared=kwargs or {},
            order_outputs=order_outputs,
            return_exceptions=return_exceptions,
            wrap_returned_exceptions=wrap_returned_exceptions,
        )

    @stream
    def starmap(
        self,
        input_iterator: Any,
        *,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = True,
    ) -> Map[R]:
        """Do as `map` with one iterable whose items are tuples of arguments."""
        if self.is_generator:
            raise self._gives_items("starmap")
        from notebook_ext.maps import Map  # noqa: PLC0415  likewise

        return Map(
            self,
            (input_iterator,),
            spread=True,
            shared=kwargs or {},
            order_outputs=order_outputs,
            return_exceptions=return_exceptions,
            wrap_returned_exceptions=wrap_returned_exceptions,
        )

    @twin
    def for_each(
        self,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        ignore_exceptions: bool = False,
    ) -> Waiting[None]:
        """Run on workers for each item of the iterables zipped, and wait; results are not kept.

        Args:
            input_iterators: as for `map`.
            kwargs: as for `map`.
            ignore_exceptions: go on where an input fails, and raise nothing.
        """
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("for_each")
        from notebook_ext.maps import Map  # noqa: PLC0415  likewise

        run: Map[R] = Map(self, input_iterators, shared=kwargs or {}, title="for_each")
        return run.drained(ignore_exceptions=ignore_exceptions)

    def submission(
        self,
        session: Session,
        receiver: Any,
        shared: Mapping[str, Any],
        keep: Keep | None = None,
    ) -> Submission:
        """Return a call of this function, as made here and now, without inputs; for maps.

        Args:
            session: what it goes through.
            receiver: who hears of it.
            shared: arguments that all inputs share.
            keep: where large buffers of these may go instead.
        """
        running = running_input()
        package = self._package(running)
        companions: Companions = {}
        digest, objects = gathering(companions, shared_object, shared, keep)
        call = session.new_call()
        span, context = spans.begun(self._name, call, self._context())
        return Submission(
            call,
            package,
            receiver,
            shared=digest,
            context=context,
            parent=running.as_parent() if running is not None else None,
            objects=objects,
            raw=self._replayable,
            snapshot_now=self._snapshot_now,
            span=span,
            companions=companions,
        )

    @property
    def _replayable(self) -> Any:
        """What runs it here, as it is now, with the arguments of a remote call."""
        return None

    def _snapshot_now(self) -> Digest:
        return self.read().snapshot

    def _spawned(
        self,
        count: int,
        frames: Sequence[Frame],
        shared: Mapping[str, Any],
        companions: Companions,
        parts: tuple[int, ...] = (),
    ) -> Waiting[FunctionCall[R]]:
        session = process.current()
        said = self.submission(session, None, shared)
        output = session.output(self._name, said.call)
        call: FunctionCall[R] = FunctionCall(said.call, self._name, count, self.is_generator)
        waiting: Waiting[FunctionCall[R]] = Waiting()
        said.companions.update(companions)
        said.receiver = Acceptance(output, waiting, call)
        if said.span is not None:
            said.receiver = said.span.watching(said.receiver)
        said.attached = False
        said.context = replace(said.context, store="")  # what is there does not last
        said.streams = self.is_generator
        said.parts = parts
        session.submit(said, count, frames)
        outcomes = Outcomes(output, self._name, count)
        if not parts:
            outcomes = Outcomes(output, self._name, count, said, frames)
        call.follow(session, outcomes)
        return waiting

    def _streamed(self, frames: Sequence[Frame], companions: Companions) -> AttachedRun:
        from notebook_ext.generators import AttachedRun  # noqa: PLC0415  likewise

        session = process.current()
        said = self.submission(session, None, {})
        said.companions.update(companions)
        said.streams = True
        return AttachedRun(session, said, self._name, frames)

    def _ask_whether_generator(self) -> bool:
        """Ask what the version in force of a deployed function is."""
        return ask(self._key).join().is_generator

    def _gives_items(self, asked: str) -> InvalidError:
        name = self._name
        spawned = " (or .spawn(...).get_gen(), to keep what it gives)"
        return InvalidError(
            f"{name} is a generator: {name}.{asked} has no value to give back. Call "
            f"{name}.remote_gen(...) and iterate{spawned}."
        )


def _give_up(session: Session, call: CallId) -> None:
    session.cancel(call)
    session.lines.given_up(call)


def _announce(session: Session, call: Any, running: RunningInput, begins: bool) -> None:  # noqa: FBT001  a callback
    session.announce(running, begins, (call,))
