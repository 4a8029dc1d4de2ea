"""Failed inputs of a map that still runs, run again because the user asked for it.

What can run again is what nobody has taken: the failures that wait behind a slow input of an
ordered map, and, of a map whose results nobody takes, all of them (`for_each` with
`ignore_exceptions`). A failure that the loop has had is the loop's. The inputs run again as a call
of their own, made as the map was, with the same version of the function; their outcomes take the
places of the old ones, so that the map ends when the last of them has.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec.structs import replace

from notebook_ext.cutting import cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.wire.messages import CallProgress
    from notebook_ext.map_run import MapRun
    from notebook_ext.submission import Ended, Submission


class Retries:
    """The failures of one map that can run again, and the calls in which others do."""

    def __init__(self, run: MapRun, said: Submission) -> None:
        """Start with none; `said` is how the map was submitted."""
        self._run = run
        self._said = said
        self._calls: list[Retry] = []
        self._paused = False

    @property
    def count(self) -> int:
        """How many inputs can run again."""
        run = self._run
        if run.settled.done:
            return 0
        if run.drain is None:
            return run.delivery.failures
        return max(run.facts.failed - run.kept.forgot_failures, 0) if run.drain.ignores else 0

    # ---- in the I/O thread ----------------------------------------------------------------------

    def begin(self) -> None:
        """Run what can run again."""
        run = self._run
        over = run.facts.finished_at is not None or run.gate.closed or run.settled.done
        failures = [] if over else self._taken_back()
        if not failures:
            return
        failures.sort(key=_index)
        for end in failures:
            run.take_back(end)
        retry = Retry(run, failures)
        self._calls.append(retry)
        said = replace(self._said, call=run.session.new_call(), receiver=retry)
        retry.submit(said, paused=self._paused)

    def _taken_back(self) -> list[Ended]:
        run = self._run
        if run.drain is not None:
            return list(run.kept.failures.values()) if run.drain.ignores else []
        failures = []
        for end in run.delivery.take_failures():
            if end.inputs:
                failures.append(end)
            else:
                run.delivery.put(end.index, end)
        return failures

    def pause(self, paused: bool) -> None:  # noqa: FBT001  posted
        """Pause the calls, or go on with them."""
        self._paused = paused
        for retry in self._calls:
            self._run.session.pause(retry.call, paused=paused)

    def cancel(self) -> None:
        """End the calls."""
        for retry in self._calls:
            self._run.session.cancel(retry.call)


class Retry:
    """Where the answers to one such call go: to the map, as its inputs are numbered."""

    def __init__(self, run: MapRun, failures: list[Ended]) -> None:
        """Run the inputs of `failures` again."""
        self._run = run
        self._failures = failures
        self._starts = [0, *accumulate(end.count for end in failures)]

    def submit(self, said: Submission, *, paused: bool) -> None:
        """Make the call; nothing of it starts while it is paused."""
        session = self._run.session
        self.call = said.call
        session.submit_now(said, 0, (), closed=False)
        if paused:
            session.pause_now(said.call)
        for end in self._failures:
            frames = cut(end.inputs, end.position, end.position + end.count)
            session.add(said.call, end.count, frames)
        session.close_inputs(said.call)

    def accepted(self) -> None:
        """Attached calls are not accepted."""

    def rejected(self, error: str, message: str) -> None:
        """The map cannot go on."""
        self._run.rejected(error, message)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        """Put the values where the failures were."""
        for at in range(count):
            self._run.succeeded_again(self._index(start + at), position + at, frames)

    def ended(self, end: Ended) -> None:
        """Put the new failures where the old ones were."""
        for at in range(end.count):
            index = self._index(end.index + at)
            self._run.ended_again(replace(end, index=index, count=1, position=end.position + at))

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """No map gives items."""

    def progressed(self, progress: CallProgress) -> None:
        """Show which of them run."""
        self._run.progressed_again(
            progress,
            [self._index(at) for start, stop in progress.started for at in range(start, stop)],
        )

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Let whoever takes the map's results do it."""
        return self._run.offered(act)

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """Show it, as output of the map."""
        self._run.wrote_again(self._index(index), stream, text, withheld)

    def _index(self, at: int) -> int:
        which = bisect_right(self._starts, at) - 1
        return self._failures[which].index + at - self._starts[which]


def _index(end: Ended) -> int:
    return end.index
