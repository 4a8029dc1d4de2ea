"""`f.map(...)`: many inputs out, their results in, in bounded memory.

Theory. Three parties: the *feed* pulls the user's iterables in a thread of its own, the session's
I/O thread sends and receives, and whoever iterates takes results from the *delivery*. `MapRun` is
what the I/O thread knows; what the user iterates knows the run and is known by nobody, so that
dropping it ends the run (`dropping` says how).

A map starts when it is first iterated. Its results come in order (or as they are done); the first
failure is raised behind the results before it. Whatever ends the iteration (the end, an exception,
`break`, an interrupt, garbage collection) cancels what has no outcome yet.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import sys
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError, RequestSizeError, SerializationError
from kernel_worker.model import Outcome
from kernel_worker.wire import payload
from notebook_ext import dropping, exception, facts, process
from notebook_ext.config import current
from notebook_ext.delivery import Delivery, Values
from notebook_ext.facts import MapFacts
from notebook_ext.feed import Feed, Gate, check_sources, length_of
from notebook_ext.outcome import exception_of, map_note
from notebook_ext.receivers import Answer, raise_rejection
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.wire.messages import CallProgress
    from notebook_ext.callee import Callee
    from notebook_ext.facts import State
    from notebook_ext.session import Session
    from notebook_ext.submission import Ended

    Reading = Callable[[int, Ended], Iterator[Any]]
    """Yields what stands for inputs that did not succeed, or raises it."""

R = TypeVar("R")


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
    ) -> None:
        """Prepare the call; nothing is pulled or sent yet."""
        self.session: Session = process.current()
        super().__init__(self.session.output(function.name))
        self.name = function.name
        self.facts = MapFacts(title, length_of(sources))
        self.delivery = Delivery(ordered=ordered)
        self.gate = Gate(lambda: self.delivery.is_full)
        limit = current().max_request_mib << 20
        self.feed = Feed(
            sources, spread=spread, gate=self.gate, ready=self._ready, limit_bytes=limit
        )
        self.drain: Drain | None = None
        """For a map whose results nobody takes."""
        self._said = function.submission(self.session, self, shared)
        self.feed.companions = self._said.companions
        self.call = self._said.call
        self._sent = 0
        self._submitted = False
        self._closed = False
        self.is_shown = False
        """Whether a display says how it stands; else a notice says what it waits for."""

    def start(self) -> None:
        """Begin to pull in a thread."""
        # Not by this thread: a `Thread` that ends before `start` returns would die here, and the
        # threading module's code for that swallows an interrupt; see `dropping`.
        dropping.aside(partial(_start_thread, contextvars.copy_context(), self.feed, self.name))

    def abandon(self) -> None:
        """Pull no more, cancel what has no outcome, let go of results."""
        if not self.gate.closed:
            self.gate.close()
            self.session.post(self._abandon)
        self.delivery.close()

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
        raising = partial(raise_rejection, error, message)
        if self.drain is not None:
            self.drain.fail(raising)
        else:
            self.delivery.abort(raising)

    def progressed(self, progress: CallProgress) -> None:
        """How it stands."""
        stands = self.facts
        stands.running = progress.running
        stands.retried = progress.retried
        stands.workers = progress.workers
        stands.waiting_for = progress.waiting_for
        if not self.is_shown:
            super().progressed(progress)
        for start, stop in progress.started:
            stands.note(start, stop, facts.RUNNING)

    def pump(self) -> None:
        """Send what should be sent now."""
        if self._closed or self.gate.closed:
            return
        while (batch := self.feed.take()) is not None:
            count, frames = batch
            self._send(count, frames)
        if self.feed.finished and self.feed.is_empty:
            self._close()

    def _send(self, count: int, frames: Any) -> None:
        self.facts.note(self._sent, self._sent + count, facts.QUEUED)
        self._sent += count
        if self._submitted:
            self.session.add(self.call, count, frames)
        else:
            self._submitted = True
            self.session.submit_now(self._said, count, frames, closed=False)

    def _close(self) -> None:
        self._closed = True
        if self._submitted:
            self.session.close_inputs(self.call)
        self.facts.total = self._sent
        error = self.feed.error
        if isinstance(error, SerializationError | RequestSizeError):
            error.add_note(f"in input {self._sent} of {self.facts.title}")
        last = partial(_raise, error) if error is not None else None
        if self.drain is not None:
            self.drain.close(self._sent, last)
        else:
            self.delivery.finish(self._sent, last)

    def _abandon(self) -> None:
        self._closed = True
        if self._submitted:
            self.session.cancel(self.call)

    def _ready(self) -> None:
        self.session.post(self.pump)

    # ---- in the I/O thread, or behind output in the printer's ------------------------------------

    def _succeed(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        self.facts.count(start, count, facts.DONE)
        self.gate.ended += count
        self._look_for_end()
        if self.drain is not None:
            self.drain.add(count)
        else:
            self.gate.note_size(count, sum(map(len, frames)))
            self.delivery.put(start, Values(count, frames, position))
        self._look()

    def _end(self, end: Ended) -> None:
        cancelled = end.outcome is Outcome.CANCELLED
        self.facts.count(end.index, end.count, facts.CANCELLED if cancelled else facts.FAILED)
        self.gate.ended += end.count
        self._look_for_end()
        if self.facts.first_error is None and not cancelled:
            self.facts.first_error = (end.index, _words(end))
        if self.drain is not None:
            self.drain.fail_at(partial(_raise_at, end, self.name, self.facts.title))
            self.drain.add(end.count)
        else:
            self.delivery.put(end.index, end)
        self._look()

    def _look_for_end(self) -> None:
        if self._closed and self.gate.ended == self._sent:
            self._output.finish()

    def _look(self) -> None:
        self.gate.look()
        if not self.feed.is_empty:
            self.session.post(self.pump)


class Drain:
    """Counts the outcomes of a map whose results nobody takes."""

    def __init__(self, run: MapRun, *, ignore_exceptions: bool) -> None:
        """Start with none."""
        self.waiting: Waiting[None] = Waiting()
        self.waiting.abandoned = partial(self._give_up, run)
        self.waiting.announce = run.announce
        self._run = run
        self._ignores = ignore_exceptions
        self._ended = 0
        self._total: int | None = None
        self._last: Callable[[], object] | None = None

    def add(self, count: int) -> None:
        """So many inputs ended."""
        self._ended += count
        self._look()

    def close(self, total: int, last: Callable[[], object] | None) -> None:
        """There are `total` inputs; `last`, which raises, comes behind them."""
        self._total, self._last = total, last
        self._look()

    def fail_at(self, raising: Callable[[], Any]) -> None:
        """An input failed."""
        if not self._ignores:
            self.fail(raising)

    def fail(self, raising: Callable[[], Any]) -> None:
        """The whole is over."""
        self._run.facts.finish("failed")
        self.waiting.complete(raising, failed=True)
        self._run.abandon()

    def _look(self) -> None:
        if self._ended != self._total:
            return
        if self._last is not None:
            self.fail(self._last)
        else:
            self._run.facts.finish("done")
            self.waiting.complete(lambda: None)

    @staticmethod
    def _give_up(run: MapRun) -> None:
        run.facts.finish("cancelled")
        run.abandon()


class Map(Generic[R]):
    """The results of `f.map(...)`, to iterate once, with `for` or `async for`."""

    def __init__(
        self,
        function: Callee[..., Any],
        sources: Sequence[Any],
        *,
        shared: Mapping[str, Any],
        spread: bool = False,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = True,
        title: str = "",
    ) -> None:
        """See `Function.map`."""
        self._name = f"{function.name}.{title or ('starmap' if spread else 'map')}"
        check_sources(self._name, sources)
        if not isinstance(shared, Mapping):
            raise InvalidError(f"{self._name}: kwargs={shared!r:.80}: allowed is a dict.")
        self._function = function
        self._sources = sources
        self._shared = shared
        self._spread = spread
        self._ordered = order_outputs
        self._returns = return_exceptions
        self._wraps = wrap_returned_exceptions
        self._iterator: Generator[R, None, None] | None = None
        self._iterated = False
        self._unused = dropping.when_dropped(self, _unused_warning(self._name))

    def __iter__(self) -> Iterator[R]:
        begun = self._iterator
        if begun is not None and inspect.getgeneratorstate(begun) != inspect.GEN_CLOSED:
            return begun  # what `next` began goes on
        return self._begun()

    def __next__(self) -> R:
        __tracebackhide__ = True
        if self._iterator is None:
            self._iterator = self._begun()
        return next(self._iterator)

    def __aiter__(self) -> AsyncIterator[R]:
        self._begin()
        run = self._prepared()
        return _iterate_in_loop(run, self._reading(run))

    def drained(self, *, ignore_exceptions: bool) -> Waiting[None]:
        """Run it for its side effects; the result is None or the first failure."""
        self._begin()
        run = self._prepared()
        run.drain = Drain(run, ignore_exceptions=ignore_exceptions)
        waiting = run.drain.waiting
        _show(run)
        try:
            run.start()
        except BaseException:  # an interrupt just now
            waiting.abandon()
            raise
        return waiting

    def __repr__(self) -> str:
        return f"<{self._name}, {'iterated' if self._iterated else 'not iterated yet'}>"

    def _begin(self) -> None:
        __tracebackhide__ = True
        if self._iterated:
            raise InvalidError(
                f"{self._name}(...) was iterated before; its results are gone. Keep them in a "
                "list, or call it again."
            )
        self._iterated = True
        dropping.release(self._unused)

    def _prepared(self) -> MapRun:
        return MapRun(
            self._function,
            self._sources,
            self._shared,
            spread=self._spread,
            ordered=self._ordered,
            title=self._name,
        )

    def _begun(self) -> Generator[R, None, None]:
        self._begin()
        run = self._prepared()
        results = _iterate(run, self._reading(run))
        dropping.when_dropped(results, partial(_leave, run))
        _show(run)
        run.start()  # last: who is interrupted before has nothing to stop
        return results

    def _reading(self, run: MapRun) -> Reading:
        return partial(_ended, run, returns=self._returns, wraps=self._wraps)


# What iterates does not know the `Map`, so that dropping that ends the run at once.


def _iterate(run: MapRun, ended: Reading) -> Generator[Any, None, None]:
    """Yield the results; where it is dropped, `_leave` ends the run.

    Nothing runs here then: see `dropping`. A `finally` would, and so would a `with`.
    """
    __tracebackhide__ = True
    try:
        while (found := run.delivery.take()) is not None:
            if isinstance(found, Waiting):
                run.gate.look()
                found.announce = run.announce if running_input() is not None else None
                found.wait()
                continue
            run.gate.look()
            start, piece = found
            yield from _values(piece) if isinstance(piece, Values) else ended(start, piece)
    except GeneratorExit:
        raise
    except BaseException as error:
        _finish(run, "failed" if isinstance(error, Exception) else "cancelled")
        raise
    _finish(run, "done")


async def _iterate_in_loop(run: MapRun, ended: Reading) -> AsyncIterator[Any]:
    __tracebackhide__ = True
    state: State = "cancelled"
    task = _start_in_loop(run)
    try:
        while (found := run.delivery.take()) is not None:
            if isinstance(found, Waiting):
                run.gate.look()
                found.announce = run.announce if running_input() is not None else None
                await found.settled()
                continue
            run.gate.look()
            start, piece = found
            for result in _values(piece) if isinstance(piece, Values) else ended(start, piece):
                yield result
        state = "done"
    except GeneratorExit:
        raise
    except Exception:
        state = "failed"
        raise
    finally:
        _finish(run, state)
        if task is not None:
            task.cancel()


def _ended(run: MapRun, start: int, end: Ended, *, returns: bool, wraps: bool) -> Iterator[Any]:
    __tracebackhide__ = True
    for index in range(start, start + end.count):
        error = exception_of(end, run.name, note=map_note(end, index, run.name, run.facts.title))
        if not returns:
            raise error
        wrap = wraps and isinstance(error, Exception)
        yield exception.UserCodeException(error) if wrap else error


def _leave(run: MapRun) -> None:
    """End a run whose results nobody can take any more; harmless where it has ended."""
    run.facts.finish("cancelled")
    run.abandon()


def _finish(run: MapRun, state: State) -> None:
    run.facts.finish(state)
    run.abandon()
    _settle()


def _start_thread(context: contextvars.Context, feed: Feed, name: str) -> None:
    title = f"notebook-ext map {name}"
    threading.Thread(target=context.run, args=(feed.pull,), name=title, daemon=True).start()


def _unused_warning(name: str) -> Callable[[], object]:
    """Return what warns, as if where this map is made, that it was never iterated."""
    frame = inspect.currentframe()
    package = __name__.partition(".")[0]
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
    file, line = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("<map>", 1)
    text = (
        f"{name}(...) was never iterated, so nothing ran. Use list(...) for the results, or "
        ".for_each(...)."
    )
    warn = partial(warnings.warn_explicit, text, RuntimeWarning, file, line)
    return partial(contextvars.copy_context().run, warn)


def _values(piece: Values) -> Iterator[Any]:
    """Return the values of a piece, each unpickled when it is asked for."""
    __tracebackhide__ = True
    reader = payload.BatchReader(piece.frames)
    return iter(reader.items(piece.position, piece.position + piece.count))


def _start_in_loop(run: MapRun) -> Any:
    """Begin to pull: async iterables in the running loop, others in a thread."""
    _show(run)
    if not run.feed.is_async:
        run.start()
        return None
    import asyncio  # noqa: PLC0415  there is a loop

    return asyncio.get_running_loop().create_task(run.feed.pull_in_loop())


def _words(end: Ended) -> str:
    """Return what went wrong; no code of users runs."""
    if end.exception is not None:
        from kernel_worker.wire import failures  # noqa: PLC0415  only where something failed

        return failures.summary(end.exception)
    return end.message or end.outcome.name.lower()


def _raise(error: BaseException) -> None:
    __tracebackhide__ = True
    raise error


def _raise_at(end: Ended, name: str, title: str) -> Any:
    __tracebackhide__ = True
    raise exception_of(end, name, note=map_note(end, end.index, name, title))


def _show(run: MapRun) -> None:
    """Let the progress be shown, where there is somebody to show it to."""
    from notebook_ext.config import current  # noqa: PLC0415  with the first map

    if current().progress == "off":
        return
    with contextlib.suppress(ImportError):
        from notebook_ext import widgets  # noqa: PLC0415  with the first map

        widgets.watch(run.facts)
        run.is_shown = widgets.has_view()


def _settle() -> None:
    """Let the progress show its last state before the user's next line prints."""
    widgets = sys.modules.get("notebook_ext.widgets")
    if widgets is not None:
        widgets.settle()
