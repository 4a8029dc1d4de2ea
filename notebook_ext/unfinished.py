"""What a map leaves that did not come to its end: results, failures, what remains, `resume()`.

The exception that a map raises (`KeyboardInterrupt` too) has them as attributes, the map object
has them, and `nb.last_map()` finds them where neither is at hand: in a notebook, the exception of
the last cell is `sys.last_value`.

Guarantees: an input that is resumed has been answered for before, so that it never runs twice at
the same time. The views are live: until the map has settled, which takes moments, what still ends
moves from `remaining` to `results`.
Not guaranteed: that results of maps are kept beyond `kept.FILE_BYTES`; see there.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from kernel_worker import context
from kernel_worker.errors import InvalidError, NotFoundError
from notebook_ext.kept import KeptValues
from notebook_ext.numbering import Spans
from notebook_ext.outcome import exception_of, map_note
from notebook_ext.refeed import cannot_go_on
from notebook_ext.twin import Waiting, stream, twin

if TYPE_CHECKING:
    from notebook_ext.map_run import MapRun
    from notebook_ext.maps import Map

R = TypeVar("R")
V = TypeVar("V")
_SHOWN = 6


class Unfinished(Generic[R]):
    """A map that ended before its end, or some of whose inputs failed."""

    def __init__(self, run: MapRun, again: Callable[..., Map[R]]) -> None:
        """Stand for what `run` leaves; `again` makes a map that resumes it."""
        self.run = run
        self._again = again
        self._heir: Map[R] | None = None

    @property
    def latest(self) -> Unfinished[R]:
        """What the map left that resumed this one, if one did; else this."""
        found = self
        while found._heir is not None and found._heir.unfinished is not None:
            found = found._heir.unfinished
        return found

    @property
    def results(self) -> Results[R]:
        """The results that there are, by index: a mapping. `for_each` keeps none."""
        return Results(self.run)

    @property
    def failed(self) -> Failures:
        """The exceptions of the inputs that failed, by index: a mapping."""
        return Failures(self.run)

    @property
    def remaining(self) -> Remaining:
        """The indices of the inputs that neither succeeded nor failed: a sequence.

        Of inputs that come from an iterator, those that it has given; `remaining.and_more` says
        whether it may have more.
        """
        return Remaining(self.run)

    @stream
    def resume(self, *, only_missing: bool = False) -> Map[R]:
        """Return a map that runs the inputs that failed and those that remain, and only these.

        Iterated, it gives all results, in order: those that there were and those that come. Inputs
        that came from an iterator go on where that was left. The function is run as it is now.
        Where the map was resumed before, that one is resumed.

        Args:
            only_missing: give only the results of what is run now.

        Raises:
            InvalidError: it came to its end, its iterable raised or cannot be read on, or its
                results were too many to be kept and are not left out.
        """
        return self.continued(only_missing=only_missing)

    def continued(self, *, only_missing: bool) -> Map[R]:
        """Return the map that `resume` starts."""
        if self.latest is not self:
            return self.latest.continued(only_missing=only_missing)
        run = self.run
        title = run.facts.title
        if run.facts.state == "running":  # its iterator is there still, or somebody waits in it
            run.hand_on()
        if run.is_whole:
            raise InvalidError(
                f"{title} came to its end: there is nothing to resume. Call it again for its "
                "results."
            )
        if run.feed.error is not None:
            raise cannot_go_on(run)
        if run.kept.forgot_failures:
            raise InvalidError(
                f"{title} cannot be resumed: {run.kept.forgot_failures:,} more inputs failed than "
                "are kept. Call it again."
            )
        if run.kept.forgot_values and not only_missing:
            raise InvalidError(
                f"{title} gave more results than are kept. Use .resume(only_missing=True) for "
                "those of the inputs that failed or remain, or call it again."
            )
        self._heir = self._again(run, only_missing)
        return self._heir

    def __repr__(self) -> str:
        run, remaining = self.run, self.remaining
        counts = [f"{sum(high - low for low, high in run.kept.succeeded):,} succeeded"]
        if self.failed:
            counts.append(f"{len(self.failed):,} failed")
        more = " and more" if remaining.and_more else ""
        if remaining or more:
            counts.append(f"{len(remaining):,}{more} remain")
        advice = "" if run.is_whole else "; .resume() runs what is missing"
        return f"<{run.facts.title}: {', '.join(counts)}{advice}>"


class UnfinishedDrain(Unfinished[None]):
    """A `for_each` that ended before its end, or some of whose inputs failed."""

    @twin
    def resume(self) -> Waiting[None]:  # type: ignore[override]
        """Run the inputs that failed and those that remain, and wait, as `for_each` does.

        Raises:
            InvalidError: it came to its end, or its iterable raised or cannot be read on.
        """
        assert self.run.drain is not None  # noqa: S101  a `for_each`
        ignores = self.run.drain.ignores
        return self.continued(only_missing=True).drained(ignore_exceptions=ignores)


class _View:
    """What an exception carries of a map stays in this process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


class Results(_View, Mapping[int, R]):
    """Results by index; each is unpickled when it is asked for."""

    def __init__(self, run: MapRun) -> None:
        """Look at those of `run`."""
        self._run = run

    def __getitem__(self, index: int) -> R:
        return cast("R", self._values().value(index))

    def __iter__(self) -> Iterator[int]:
        return self._values().indices()

    def __len__(self) -> int:
        return len(self._values())

    def items(self) -> Any:
        """Return the pairs of index and result."""
        values = self._values()
        return [(index, values.value(index)) for index in values.indices()]

    def values(self) -> Any:
        """Return the results."""
        return [value for _, value in self.items()]

    def __repr__(self) -> str:
        values = self._values()
        shown = [
            f"{at}: {reprlib.repr(values.value(at))}" for at in islice(values.indices(), _SHOWN)
        ]
        return f"{{{', '.join(shown)}{_rest(len(values))}}}"

    def _values(self) -> KeptValues:
        return KeptValues(self._run.kept.pieces)


class Failures(_View, Mapping[int, BaseException]):
    """Exceptions by index, as the map would raise them."""

    def __init__(self, run: MapRun) -> None:
        """Look at those of `run`."""
        self._run = run

    def __getitem__(self, index: int) -> BaseException:
        end = self._run.kept.failures[index]
        title = self._run.facts.title
        note = map_note(end, index, self._run.name, title)
        return exception_of(end, self._run.name, note=note)

    def __iter__(self) -> Iterator[int]:
        return iter(self._run.kept.failures)

    def __len__(self) -> int:
        return len(self._run.kept.failures)

    def __repr__(self) -> str:
        shown = [f"{at}: {self[at]!r}" for at in islice(self, _SHOWN)]
        return f"{{{', '.join(shown)}{_rest(len(self))}}}"


class Remaining(_View, Sequence[int]):
    """Indices, kept as ranges."""

    def __init__(self, run: MapRun) -> None:
        """Look at those of `run`."""
        self._run = run

    @property
    def and_more(self) -> bool:
        """Whether the iterator that gives the inputs may have more."""
        return self._run.facts.total is None and not self._run.feed.exhausted

    @property
    def _ranges(self) -> list[range]:
        run = self._run
        known = Spans()
        for low, high in run.kept.succeeded:
            known.add(low, high)
        for index in run.kept.failures:
            known.add(index, index + 1)
        stop = run.facts.total if run.facts.total is not None else run.feed.next_index
        return [range(low, high) for low, high in known.missing(0, stop)] if stop else []

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __iter__(self) -> Iterator[int]:
        for indices in self._ranges:
            yield from indices

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return list(self)[at]
        at += len(self) if at < 0 else 0
        for indices in self._ranges:
            if 0 <= at < len(indices):
                return indices[at]
            at -= len(indices)
        raise IndexError("so few inputs remain")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, islice(self, _SHOWN)))
        more = " and what the iterator still gives" if self.and_more else ""
        return f"[{shown}{_rest(len(self))}]{more}"


class Resume(_View):
    """`error.resume(...)`, and `.aio`."""

    def __init__(self, unfinished: Unfinished[Any]) -> None:
        """Resume `unfinished`."""
        self._unfinished = unfinished

    def __call__(self, **given: Any) -> Any:
        """See `Unfinished.resume`."""
        return self._unfinished.resume(**given)

    def aio(self, **given: Any) -> Any:
        """Do the same in the running task."""
        return self._unfinished.resume.aio(**given)

    def __repr__(self) -> str:
        return f"<resume of {self._unfinished!r}>"


def leave_with(error: BaseException, unfinished: Unfinished[Any]) -> None:
    """Let an exception carry what the map leaves; attributes of its own it keeps."""
    remember(unfinished)
    carried = {
        "results": unfinished.results,
        "failed": unfinished.failed,
        "remaining": unfinished.remaining,
        "resume": Resume(unfinished),
    }
    for name, value in carried.items():
        # What a class of users does with its attributes must not cost the error itself.
        with contextlib.suppress(Exception):
            if isinstance(getattr(error, name, None), _View | None):
                setattr(error, name, value)


_last: Unfinished[Any] | None = None


def remember(unfinished: Unfinished[Any]) -> None:
    """Keep what a map leaves until another one does; workers keep nothing."""
    global _last  # noqa: PLW0603  one a process
    if context.worker_identity is None:
        _last = unfinished


def forget_whole() -> None:
    """Let go of what the last map left, if the rest of it has been run since."""
    global _last  # noqa: PLW0603  one a process
    if _last is not None and _last.latest.run.is_whole:
        _last = None


def last_map() -> Unfinished[Any]:
    """Return what the last map left of which an input failed, or that was stopped before its end.

    `nb.last_map().resume()` runs the rest, where neither the exception nor the map object is at
    hand. `.results`, `.failed` and `.remaining` say how it stands.

    Raises:
        NotFoundError: every map of this session came to its end.
    """
    if _last is None:
        raise NotFoundError(
            "no map of this session has failed or was stopped; those of earlier ones are not kept."
        )
    return _last.latest


def _nothing() -> None:
    """What a view is in another process."""


def _rest(count: int) -> str:
    return f", … {count:,} in all" if count > _SHOWN else ""
