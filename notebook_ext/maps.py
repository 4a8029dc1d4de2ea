"""`f.map(...)`: many inputs out, their results in, in bounded memory.

Theory. `MapRun` is the map as the I/O thread knows it; what the user iterates knows the run and is
known by nobody, so that dropping it ends the run (`dropping` says how).

A map starts when it is first iterated. Its results come in order (or as they are done); the first
failure is raised behind the results before it. Whatever ends the iteration (the end, an exception,
`break`, an interrupt, garbage collection) cancels what has no outcome yet; `unfinished` says what
is left then.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import itertools
import sys
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError
from kernel_worker.wire import payload
from notebook_ext import dropping, exception, unfinished
from notebook_ext.controls import MapControls
from notebook_ext.drain import Drain
from notebook_ext.feed import check_sources
from notebook_ext.map_run import MapRun
from notebook_ext.outcome import exception_of, map_note
from notebook_ext.spill import Values
from notebook_ext.submission import Ended
from notebook_ext.twin import Waiting, stream
from notebook_ext.unfinished import Unfinished, UnfinishedDrain, leave_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from notebook_ext.callee import Callee
    from notebook_ext.delivery import Piece
    from notebook_ext.facts import State

    Reading = Callable[[int, Ended], Iterator[Any]]
    """Yields what stands for inputs that did not succeed, or raises it."""

R = TypeVar("R")


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
        resumes: MapRun | None = None,
        only_missing: bool = False,
    ) -> None:
        """See `Function.map` and, for `resumes`, `Unfinished.resume`."""
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
        self._title = title
        self._resumes = resumes
        self._only_missing = only_missing
        self.unfinished: Unfinished[R] | None = None
        """What it leaves where it does not come to its end; None before it is iterated."""
        self._iterator: _Results | None = None
        self._iterated = False
        self._unused = dropping.when_dropped(self, _unused_warning(self._name))

    def __iter__(self) -> Iterator[R]:
        begun = self._iterator
        if begun is not None and not begun.is_over:
            return begun  # what `next` began goes on
        return self._begun()

    def __next__(self) -> R:
        __tracebackhide__ = True
        if self._iterator is None:
            self._iterator = self._begun()
        found: R = next(self._iterator)
        return found

    def __aiter__(self) -> AsyncIterator[R]:
        self._begin()
        left = self._prepared()
        return _iterate_in_loop(left, self._reading(left.run))

    @property
    def results(self) -> unfinished.Results[R]:
        """The results that there are, by index; those of a map that came to its end are gone.

        Raises:
            InvalidError: it was not iterated yet. So do `failed`, `remaining` and `resume`.
        """
        return self.left().results

    @property
    def failed(self) -> unfinished.Failures:
        """The exceptions of the inputs that failed, by index."""
        return self.left().failed

    @property
    def remaining(self) -> unfinished.Remaining:
        """The indices of the inputs that neither succeeded nor failed."""
        return self.left().remaining

    @stream
    def resume(self, *, only_missing: bool = False) -> Map[R]:
        """Return a map that runs what failed and what remains; see `Unfinished.resume`."""
        return self.left().resume(only_missing=only_missing)

    def drained(self, *, ignore_exceptions: bool) -> Waiting[None]:
        """Run it for its side effects; the result is None or the first failure."""
        self._begin()
        left = self._prepared(UnfinishedDrain)
        run = left.run
        run.drain = Drain(left, ignore_exceptions=ignore_exceptions)
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

    def left(self) -> Unfinished[R]:
        """Return what it leaves, now or once it has ended.

        Raises:
            InvalidError: it was not iterated yet.
        """
        if self.unfinished is None:
            raise InvalidError(f"{self._name}(...) was not iterated yet: use list(...), or `for`.")
        return self.unfinished

    def _prepared(self, kind: type[Unfinished[Any]] = Unfinished) -> Unfinished[R]:
        run = MapRun(
            self._function,
            self._sources,
            self._shared,
            spread=self._spread,
            ordered=self._ordered,
            title=self._name,
            resumes=self._resumes,
            only_missing=self._only_missing,
        )
        self._resumes = None  # what that one kept goes when it is taken over
        again = partial(
            _again,
            self._function,
            self._sources,
            shared=self._shared,
            spread=self._spread,
            order_outputs=self._ordered,
            return_exceptions=self._returns,
            wrap_returned_exceptions=self._wraps,
            title=self._title,
        )
        self.unfinished = kind(run, again)
        return self.unfinished

    def _begun(self) -> _Results:
        self._begin()
        left = self._prepared()
        run = left.run
        results = _Results.of(left, self._reading(run))
        dropping.when_dropped(results, partial(_leave, left))
        _show(run)
        run.start()  # last: who is interrupted before has nothing to stop
        return results

    def _reading(self, run: MapRun) -> Reading:
        return partial(_ended, run, returns=self._returns, wraps=self._wraps)


_LIST_ITERATOR: type = type(iter([]))


# What iterates does not know the `Map`, so that dropping that ends the run at once.


class _Results(itertools.chain[Any]):
    """Gives the results, a piece of the delivery after the other, without a Python frame for each.

    Where it is dropped, `_leave` ends the run: nothing runs here then, see `dropping`.
    """

    pieces: Generator[Iterator[Any], None, None]
    run: MapRun

    @classmethod
    def of(cls, left: Unfinished[Any], ended: Reading) -> Self:
        """Return those of a run, which has not begun yet."""
        pieces = _iterate(left, ended)
        made = cast("Self", cls.from_iterable(_InTurn(pieces)))
        made.pieces, made.run = pieces, left.run
        return made

    @property
    def is_over(self) -> bool:
        """Whether no more come."""
        return self.run.has_raised or inspect.getgeneratorstate(self.pieces) == inspect.GEN_CLOSED

    def close(self) -> None:
        """Give no more but what is left of the piece that is at hand."""
        self.pieces.close()


class _InTurn:
    """Lets threads that share an iterator wait for each other, as a generator does not."""

    def __init__(self, pieces: Generator[Iterator[Any], None, None]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Iterator[Any]:
        __tracebackhide__ = True
        with self._lock:
            return next(self._pieces)


def _iterate(left: Unfinished[Any], ended: Reading) -> Generator[Iterator[Any], None, None]:
    """Yield the results, piece by piece."""
    __tracebackhide__ = True
    run = left.run
    try:
        while (found := run.delivery.take()) is not None:
            if isinstance(found, Waiting):
                run.gate.look()
                found.announce = run.announce if running_input() is not None else None
                found.wait()
                continue
            run.gate.look()
            results = _opened(*found, ended)
            yield results if type(results) is _LIST_ITERATOR else _caught(results, left)
            if run.has_raised:
                return
    except GeneratorExit:
        raise
    except BaseException as error:
        _finish(left, "failed" if isinstance(error, Exception) else "cancelled", error)
        raise
    _finish(left, "done")


def _caught(results: Iterator[Any], left: Unfinished[Any]) -> Iterator[Any]:
    """Yield the results of a piece in which something may be raised: that is the end of the run."""
    __tracebackhide__ = True
    try:
        yield from results
    except GeneratorExit:
        raise
    except BaseException as error:
        left.run.has_raised = True
        _finish(left, "failed" if isinstance(error, Exception) else "cancelled", error)
        raise


async def _iterate_in_loop(left: Unfinished[Any], ended: Reading) -> AsyncIterator[Any]:
    __tracebackhide__ = True
    run = left.run
    task = _start_in_loop(run)
    try:
        while (found := run.delivery.take()) is not None:
            if isinstance(found, Waiting):
                run.gate.look()
                found.announce = run.announce if running_input() is not None else None
                await found.settled()
                continue
            run.gate.look()
            for result in _opened(*found, ended):
                yield result
    except GeneratorExit:
        _finish(left, "cancelled")
        if task is not None:
            task.cancel()
        raise
    except BaseException as error:
        # What pulls an async iterable ends by itself at its next item, which is not lost then.
        _finish(left, "failed" if isinstance(error, Exception) else "cancelled", error)
        raise
    _finish(left, "done")
    if task is not None:
        task.cancel()


def _opened(start: int, piece: Piece, ended: Reading) -> Iterator[Any]:
    """Return what a piece of the delivery gives."""
    __tracebackhide__ = True
    if isinstance(piece, Values):
        return _values(piece)
    return ended(start, piece) if isinstance(piece, Ended) else iter(())


def _again(
    function: Callee[..., Any],
    sources: Sequence[Any],
    run: MapRun,
    only_missing: bool,  # noqa: FBT001  in a partial
    **given: Any,
) -> Map[Any]:
    newest = function.newest()
    return Map(newest, sources, resumes=run, only_missing=only_missing, **given)


def _ended(run: MapRun, start: int, end: Ended, *, returns: bool, wraps: bool) -> Iterator[Any]:
    __tracebackhide__ = True
    for index in range(start, start + end.count):
        note = map_note(end, index, run.name, run.facts.title)
        error = exception_of(end, run.name, note=note, index=index)
        if not returns:
            run.has_raised = True  # here too: a GeneratorExit of users passes as that of a drop
            raise error
        wrap = wraps and isinstance(error, Exception)
        yield exception.UserCodeException(error) if wrap else error


def _leave(left: Unfinished[Any]) -> None:
    """End a run whose results nobody can take any more; harmless where it has ended."""
    run = left.run
    if run.facts.state == "running" and run.feed.is_plain:
        unfinished.remember(left)  # an interrupt in the loop's body looks like a `break`
    run.facts.finish("cancelled")
    run.abandon()


def _finish(left: Unfinished[Any], state: State, error: BaseException | None = None) -> None:
    run = left.run
    run.facts.finish(state)
    run.abandon()
    if error is not None:
        leave_with(error, left)
    elif not run.is_whole:
        unfinished.remember(left)
    else:
        unfinished.forget_whole()
    _settle()


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
    return run.pull_in_loop()


def _show(run: MapRun) -> None:
    """Let the progress be shown, where there is somebody to show it to."""
    from notebook_ext.config import current  # noqa: PLC0415  with the first map

    if current().progress == "off":
        return
    with contextlib.suppress(ImportError):
        from notebook_ext import widgets  # noqa: PLC0415  with the first map

        widgets.watch(run.facts, MapControls(run))
        run.is_shown = widgets.has_view()


def _settle() -> None:
    """Let the progress show its last state before the user's next line prints."""
    widgets = sys.modules.get("notebook_ext.widgets")
    if widgets is not None:
        widgets.settle()
