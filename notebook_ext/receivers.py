"""Where the answers to a call that is no map go: one outcome, or all that become known.

Receivers run in the I/O thread. They keep frames as they came; whoever waits unpickles.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from kernel_worker.errors import InvalidError
from kernel_worker.model import NoValue, Outcome
from kernel_worker.wire.frames import header
from kernel_worker.wire.payload import BatchReader
from notebook_ext import exception
from notebook_ext.known_ranges import KnownRanges
from notebook_ext.numbering import Spans
from notebook_ext.outcome import exception_of, value_at
from notebook_ext.submission import Ended, Submission
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.messages import CallProgress
    from notebook_ext.output import CallOutput

REPLAYED_BYTES = 64 * 1024
"""Of a spawned call, so many bytes of arguments are kept, so that a failed one can be replayed."""
Result = tuple["Sequence[Frame]", int] | Ended
"""How one input ended: a batch and the value's position in it, or what went wrong."""


def open_result(result: Result, name: str) -> Any:
    """Return the value of an input that succeeded; raise what stands for one that did not."""
    __tracebackhide__ = True
    if isinstance(result, Ended):
        raise exception_of(result, name)
    return value_at(*result)


def _value_of(result: Result, name: str) -> Any:
    """Return the value of an input of a call that may be a generator's; else as `open_result`."""
    __tracebackhide__ = True
    value = open_result(result, name)
    if value is NoValue.ITEMS_GIVEN:
        raise InvalidError(f"{name} is a generator: its items are had with .get_gen().")
    return value


def raise_rejection(error: str, message: str) -> Any:
    """Raise the error that the broker, or the session, named."""
    __tracebackhide__ = True
    raise exception.named(error)(message)


class Answer:
    """What every receiver does with output and with bad news about the whole call."""

    def __init__(self, output: CallOutput) -> None:
        """Write to `output`."""
        self._says_why = True
        self._output = output
        self._reason = ""

    def accepted(self) -> None:
        """Attached calls are not accepted; nothing to do."""

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """Show it."""
        self._output.write(index, stream, text, withheld)

    def offered(self, act: Callable[[bool], object]) -> bool:  # noqa: ARG002
        """Nobody waits in a way that can be used."""
        return False

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """Items go to those who iterate."""

    def progressed(self, progress: CallProgress) -> None:
        """Say once what a call waits for that has waited for long."""
        if progress.waiting_for and not self._reason and self._says_why:
            self._reason = progress.waiting_for
            self._output.notice(f"notebook_ext: waits: {progress.waiting_for}")


class SingleAnswer(Answer):
    """The one outcome of `f.remote(...)`."""

    def __init__(self, output: CallOutput, name: str, says_why_it_waits: bool = True) -> None:  # noqa: FBT001, FBT002  the hot path
        """Start without it."""
        super().__init__(output)
        self._says_why = says_why_it_waits
        self._name = name
        self.waiting: Waiting[Any] = Waiting()

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Let the caller do it, once what was written before is shown."""
        self._output.after(self.waiting.offer, act)
        return not self.waiting.is_awaited

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:  # noqa: ARG002
        """Let the caller go on."""
        self._settle(partial(value_at, frames, position), failed=False)

    def ended(self, end: Ended) -> None:
        """Let the caller raise."""
        self._settle(partial(open_result, end, self._name), failed=True)

    def rejected(self, error: str, message: str) -> None:
        """Let the caller raise."""
        self._settle(partial(raise_rejection, error, message), failed=True)

    def _settle(self, result: Callable[[], Any], *, failed: bool) -> None:
        self._output.finish()
        self._output.after(partial(self.waiting.complete, result, failed=failed))


class Acceptance(Answer):
    """The answer to `f.spawn(...)`: durable or not. Outcomes go to `Outcomes`.

    Once it is there nothing here knows the caller's object: what made the call is kept for as long
    as that object lives (`Outcomes`), and this is a part of it.
    """

    def __init__(self, output: CallOutput, waiting: Waiting[Any], call: Any) -> None:
        """Start without it; `waiting` gets `call`."""
        super().__init__(output)
        self._given: tuple[Waiting[Any], Any] | None = (waiting, call)

    def accepted(self) -> None:
        """Let the caller go on."""
        given, self._given = self._given, None
        if given is not None:
            waiting, call = given
            waiting.complete(lambda: call)

    def rejected(self, error: str, message: str) -> None:
        """Let the caller raise."""
        given, self._given = self._given, None
        if given is not None:
            given[0].complete(partial(raise_rejection, error, message), failed=True)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        """Outcomes are told to those who are attached."""

    def ended(self, end: Ended) -> None:
        """Outcomes are told to those who are attached."""


class Outcomes(Answer):
    """The outcomes of a spawned call, by index, as they become known; they stay.

    Once nobody can ask for them any more they are only counted, for the sake of what the call
    still writes.
    """

    def __init__(
        self,
        output: CallOutput,
        name: str,
        count: int | None = None,
        said: Submission | None = None,
        inputs: Sequence[Frame] = (),
    ) -> None:
        """Start with none, of `count` inputs where that is known; `said` with `inputs` made it."""
        super().__init__(output)
        self._name = name
        is_small = sum(map(len, inputs)) <= REPLAYED_BYTES
        self._said, self._inputs = (said, inputs) if is_small else (None, ())
        self._left = count
        self._ended = Spans()
        self._leave: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._known: KnownRanges[Result] = KnownRanges()
        self._cancelled: list[Ended] = []
        self._rejection: tuple[str, str] | None = None
        self._waiting: dict[int, list[Waiting[Any]]] = {}
        self._asker = output

    def when(self, index: int, waiting: Waiting[Any], asker: CallOutput | None = None) -> None:
        """Complete `waiting` with the outcome of the input at `index`.

        Args:
            index: which input, from 0.
            waiting: who waits.
            asker: where that one is told what the call waits for; else where it was made.
        """
        with self._lock:
            found = self._find(index)
            if found is None:
                others = [each for each in self._waiting.get(index, ()) if not each.done]
                self._waiting[index] = [*others, waiting]
                self._asker = asker or self._output
        if found is not None:
            waiting.complete(found.open, failed=found.failed)

    def plain_values(self, indices: range) -> Sequence[Any]:
        """Return plain values, which are unpickled together, from the first of `indices` on.

        Those that came in one batch; none where the first is not known, no value, or not plain.
        """
        first = indices[0]
        with self._lock:
            piece = self._known.at(first)
        if piece is None or isinstance(piece.known, Ended):
            return ()
        frames, position = piece.known
        if not header(frames).whole:
            return ()
        position += first - piece.origin
        count = min(len(indices), piece.stop - first)
        return BatchReader(frames).plain_items(position, position + count)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        """Keep the values."""
        with self._lock:
            if self._leave is None:
                self._known.add(start, start + count, (frames, position))
        self._count_off(start, count)
        self._output.after(self._tell)

    def ended(self, end: Ended) -> None:
        """Keep how they ended."""
        if self._said is not None:
            end = replace(end, said=self._said, inputs=self._inputs, position=end.index)
        with self._lock:
            if self._leave is not None:
                pass
            elif end.outcome is Outcome.CANCELLED:
                self._cancelled.append(end)
            else:
                self._known.add(end.index, end.index + end.count, end)
        self._count_off(end.index, end.count)
        self._output.after(self._tell)

    def rejected(self, error: str, message: str) -> None:
        """Nobody knows the call, or nobody can be asked."""
        with self._lock:
            self._rejection = (error, message)
        self._output.after(self._tell)

    def progressed(self, progress: CallProgress) -> None:
        """Tell whoever waits for it what the call waits for."""
        with self._lock:
            asker = self._asker if self._waiting else None
        if progress.waiting_for and asker is not None:
            asker.notice_once(f"notebook_ext: waits: {progress.waiting_for}")

    def let_go(self, leave: Callable[[], object]) -> None:
        """Nobody asks any more: call `leave` once the call is over; in the I/O thread."""
        with self._lock:
            self._leave = leave
            self._known.clear()
            self._cancelled.clear()
        if not self._left:  # over, or nobody knows when it will be
            leave()

    def _count_off(self, start: int, count: int) -> None:
        """Note that these have ended, which is told again where somebody else attaches, say."""
        if self._left is None:
            return
        self._left -= sum(high - low for low, high in self._ended.add(start, start + count))
        if self._left <= 0:
            self._output.finish()
            if self._leave is not None:
                self._leave()

    @property
    def rejection(self) -> tuple[str, str] | None:
        """Why nothing more will be heard, as (name of the error, message)."""
        return self._rejection

    def _tell(self) -> None:
        ready: list[tuple[Waiting[Any], _Found]] = []
        with self._lock:
            for index in list(self._waiting):
                found = self._find(index)
                if found is not None:
                    ready += [(waiting, found) for waiting in self._waiting.pop(index)]
        for waiting, found in ready:
            waiting.complete(found.open, failed=found.failed)

    def _find(self, index: int) -> _Found | None:
        piece = self._known.at(index)
        if piece is not None:
            known = piece.known
            failed = isinstance(known, Ended)
            if not isinstance(known, Ended):
                frames, position = known
                known = frames, position + index - piece.origin
            return _Found(partial(_value_of, known, self._name), failed)
        for end in self._cancelled:
            if end.index <= index < end.index + end.count:
                return _Found(partial(open_result, end, self._name), failed=True)
        if self._rejection is not None:
            return _Found(partial(raise_rejection, *self._rejection), failed=True)
        return None


class _Found(NamedTuple):
    """An outcome: what opens it, and whether that raises."""

    open: Callable[[], Any]
    failed: bool
