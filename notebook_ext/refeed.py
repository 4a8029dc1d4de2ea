"""The inputs of a map that resumes another: what that one had sent in vain, then what is left.

Theory. Inputs keep the numbers that the user knows, whatever number the new call has for them:
`Places` translates. First come the inputs that failed or were cut short, as they were encoded,
once the old call has answered for all of them, so that none runs twice at a time; then what the old
map had pulled and not sent; then the old iterables go on where they were.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InvalidError
from notebook_ext.cutting import picked
from notebook_ext.feed import Feed, Part
from notebook_ext.numbering import Renumbering, Spans
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kernel_worker.wire.frames import Frame
    from notebook_ext.map_run import MapRun
    from notebook_ext.submission import Ended


class Places:
    """How the inputs of the new call are numbered by the user."""

    def __init__(self) -> None:
        """Start with none."""
        self._known = Renumbering()
        self._rest: int | None = None

    @property
    def count(self) -> int:
        """How many inputs of the old call have a place."""
        return self._known.count

    def append(self, start: int, count: int) -> None:
        """The next `count` inputs are those from `start` on."""
        self._known.append(start, count)

    def go_on(self, start: int) -> None:
        """All further inputs are those from `start` on."""
        self._rest = start

    def pieces(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Translate the call's `[start, start + count)`: `(offset, index, count)` per run."""
        known = max(0, min(count, self.count - start))
        yield from self._known.pieces(start, known)
        if known < count and self._rest is not None:
            yield known, self._rest + start + known - self.count, count - known

    def total(self, sent: int) -> int | None:
        """Return how many inputs there are, after so many were sent; None: nobody knows."""
        return None if self._rest is None else self._rest + sent - self.count


class Refeed(Feed):
    """Pulls the inputs of a map that resumes `old`."""

    def __init__(self, old: MapRun, inherit: Callable[[], object], **given: Any) -> None:
        """Prepare to pull.

        Args:
            old: the map that is resumed.
            inherit: called, in the thread that pulls, when all that `old` had is known.
            given: as for `Feed`.
        """
        super().__init__(old.feed.sources, **given)
        self.begun: Waiting[None] = Waiting()
        self._old = old
        self._inherit = inherit
        self._unfed: deque[Part] = deque()
        self.places = Places()

    @property
    def next_index(self) -> int:
        """The number of the input that would be pulled next."""
        return self.places.total(self._gate.pulled) or 0

    def leftover(
        self, sent: int, ours: Callable[[int, int], Iterable[tuple[int, int, int]]]
    ) -> list[Part]:
        """Return what was pulled and not sent; see `Feed.leftover`."""
        unfed, self._unfed = self._unfed, deque()
        return [*super().leftover(sent, ours), *unfed]

    def _pull(self) -> None:
        __tracebackhide__ = True
        if not self.is_async:
            for waiting in self._steps():
                waiting.wait()
        super()._pull()

    async def _pull_async(self) -> None:
        __tracebackhide__ = True
        for waiting in self._steps():
            await waiting.settled()
        await super()._pull_async()

    def _steps(self) -> Iterator[Waiting[None]]:
        """Put what the old map leaves into batches; yield what is to be waited for."""
        old = self._old
        if not old.session.is_usable:
            old.settle()
        yield old.settled
        yield old.feed.begun
        self._inherit()
        self._unfed.extend(parts_of(old))
        self.begun.complete(lambda: None)
        yield from self._feed_known()
        yield old.feed.over
        if old.feed.error is not None:
            raise cannot_go_on(old)
        self._unfed.extend(old.feed.leftover(old.sent, old.ours))
        self.places.go_on(old.feed.next_index)
        self.take_up(old.feed)
        yield from self._feed_known()

    def _feed_known(self) -> Iterator[Waiting[None]]:
        while self._unfed and not self._gate.closed:
            waiting = self._gate.wait_for()
            if waiting is not None:
                yield waiting
                continue
            part = self._unfed.popleft()
            for start, count in part.runs:
                self.places.append(start, count)
            self._gate.note_size(part.size, sum(map(len, part.frames)))
            self._gate.pulled += part.size
            self._batches.append((part.size, list(part.frames)))
            self._ready()


def cannot_go_on(old: MapRun) -> InvalidError:
    """Return what is said where the iterables of a map cannot be taken up again."""
    error = old.feed.error
    return InvalidError(
        f"{old.facts.title} cannot be resumed: its inputs ended with {type(error).__name__}: "
        f"{error}. Its .results are there; call {old.facts.title} for the inputs from "
        f"{old.feed.next_index} on, and for those of .remaining."
    )


def parts_of(run: MapRun) -> list[Part]:
    """Return the inputs that a map, all of which is answered, had sent in vain."""
    covered = Spans()
    parts = [_without_success(run, *batch, covered) for batch in run.unanswered]
    parts += _failed_before(run.kept.failures, covered)
    return sorted((part for part in parts if part.runs), key=lambda part: part.runs[0])


def _without_success(
    run: MapRun, start: int, count: int, frames: Sequence[Frame], covered: Spans
) -> Part:
    positions: list[int] = []
    runs: list[tuple[int, int]] = []
    for offset, ours, size in run.ours(start, count):
        covered.add(ours, ours + size)
        for low, high in run.kept.missing(ours, ours + size):
            positions += range(offset + low - ours, offset + high - ours)
            runs.append((low, high - low))
    if 0 < len(positions) < count:
        frames = picked(frames, positions)
    return Part(runs, frames)


def _failed_before(failures: dict[int, Ended], covered: Spans) -> Iterator[Part]:
    """Yield the batches of failed inputs that are not `covered`."""
    batches: dict[int, list[Ended]] = {}
    for index, end in failures.items():
        if covered.missing(index, index + 1):
            batches.setdefault(id(end.inputs), []).append(end)
    for ends in batches.values():
        ends.sort(key=lambda end: end.position)
        frames = picked(ends[0].inputs, [end.position for end in ends])
        yield Part([(end.index, 1) for end in ends], frames)
