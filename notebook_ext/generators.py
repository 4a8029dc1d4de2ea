"""`f.remote_gen(...)` and `fc.get_gen()`: the items of a generator that runs on a worker.

Theory. Items arrive in batches, in the I/O thread, and wait in a `Delivery` (the one of maps: in
bounded memory, the rest in a file). Whoever iterates takes them from there, and what was taken is
credited to the producer, which is never more than a number of items ahead. The run is what the I/O
thread knows; the `RemoteGenerator` that the user holds knows the run and is known by nobody, so
that dropping it ends the run (`dropping` says how).

The items of a generator on this machine come past the broker where a `for` reads them
(`item_line`): the thread that iterates reads its line itself, where the delivery has nothing for
it, and puts into that what it finds. The outcome comes by the broker always; where it was quicker,
the line is read to its end first.

Guarantees: items come in order, each once, the exception of a generator that failed behind them.
Leaving the loop (`break`, an exception, an interrupt, garbage collection) closes a generator that
was made by `remote_gen`; one that was spawned goes on.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from msgspec.structs import replace

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError
from kernel_worker.model import NoValue, Outcome, had_given, is_sealed
from kernel_worker.wire import payload
from kernel_worker.wire.frames import plain_bytes
from notebook_ext import dropping
from notebook_ext.delivery import Delivery
from notebook_ext.item_line import ItemLine
from notebook_ext.outcome import value_at
from notebook_ext.receivers import Answer, open_result, raise_rejection
from notebook_ext.spill import Values
from notebook_ext.twin import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.model import CallId
    from kernel_worker.wire.frames import Frame
    from notebook_ext.output import CallOutput
    from notebook_ext.session import Session
    from notebook_ext.submission import Ended, Submission

R = TypeVar("R")

CREDIT_ITEMS = 32
CREDIT_BYTES = 4 * 1024 * 1024
"""With so much taken the producer hears of it: half, and a quarter, of what it may be ahead."""
CREDIT_SECONDS = 0.001
"""A loop that takes its time gives credit early, so that its producer works meanwhile; for a quick
one, half the messages count for more."""


class Run(Answer):
    """A generator that runs elsewhere, or ran: what the I/O thread knows of it."""

    def __init__(self, session: Session, call: CallId, name: str, output: CallOutput) -> None:
        """Take the items of `call`."""
        super().__init__(output)
        self.session = session
        self.call = call
        self.name = name
        self.delivery = Delivery(ordered=True)
        self.taken = 0
        """How many items the loop has had …"""
        self.taken_bytes = 0
        """… and the bytes of the batches that it is through with."""
        self._received = 0
        self._left = False
        self.is_over = False
        """Whether it was told how the generator ended."""

    def start(self) -> None:
        """Begin."""
        raise NotImplementedError

    def listen(self) -> None:
        """Let items come past the broker where that can be; before `start`."""

    def read(self) -> bool:
        """Take what comes past the broker, if that is the way; say whether to look again."""
        return False

    def leave(self) -> None:
        """Nobody takes items any more. Repeatable, from any thread."""
        if not self._left:
            self._left = True
            self.delivery.close()
            self._leave()

    def credit(self, *, within: bool = False) -> None:
        """Let the producer hear what was taken, where that is much; `within` a batch."""

    def announce(self, running: RunningInput, begins: bool) -> None:  # noqa: FBT001  a callback
        """Say that an input of this worker begins, or ends, to wait for items."""
        self.session.announce(running, begins, (self.call,))

    def _leave(self) -> None:
        raise NotImplementedError

    # ---- in the I/O thread ----------------------------------------------------------------------

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """Items; those that were here before (a call that is replayed to somebody else too) not."""
        if start == self._received:
            self._received += count
            if frames:  # otherwise they come by the line
                self._output.after(self.delivery.put, start, Values(count, frames, 0))

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:  # noqa: ARG002
        """The generator has ended."""
        self._end(None)

    def ended(self, end: Ended) -> None:
        """The generator has ended otherwise."""
        self._end(partial(open_result, end, self.name))

    def rejected(self, error: str, message: str) -> None:
        """Nothing more comes."""
        self._end(partial(raise_rejection, error, message))

    def _end(self, raising: Callable[[], object] | None) -> None:
        self.is_over = True
        self._output.after(self._finish, raising)

    def _finish(self, raising: Callable[[], object] | None) -> None:
        self.delivery.finish(self._received, raising)


class AttachedRun(Run):
    """One that lives as long as somebody takes its items."""

    def __init__(
        self, session: Session, said: Submission, name: str, frames: Sequence[Frame]
    ) -> None:
        """Prepare the call `said` with its one input."""
        super().__init__(session, said.call, name, session.output(name, said.call))
        self._credited = 0
        self._credited_bytes = 0
        self._credited_at = 0.0
        self._said = said
        self._frames = frames
        self._line: ItemLine | None = None
        self._by_line = 0
        """The number of the item behind the last that came by it."""
        self._is_told = False
        """Whether the broker, which was told that the generator waits, is to hear of credit too."""
        self._last: tuple[Callable[[], object] | None] | None = None
        """What `_finish` was given while the line was not read to its end."""
        self._lock = threading.Lock()

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Let whoever iterates do it."""
        return self.delivery.offer(act)

    def listen(self) -> None:
        """Let the items come past the broker, if that can be: whoever iterates blocks."""
        is_clear = not (self.session.is_strict or is_sealed(self.call))
        if self._said.parent is None and is_clear:
            self._line = ItemLine.listening(self.call)
            self._said.line = "" if self._line is None else self._line.name

    def start(self) -> None:
        """Make the call."""
        self._said.receiver = self if self._said.span is None else self._said.span.watching(self)
        self.session.submit(self._said, 1, self._frames)
        self._frames = ()

    def read(self) -> bool:
        """Take what comes by the line; say whether to look into the delivery again."""
        line = self._line
        if line is None or not self.taken:
            return False
        is_open = line.open()
        if self._last is not None:
            line.shut()  # which `_finish` could not before
        turn = line.read() if is_open else None
        if turn is None:
            self._leave_line()
        elif turn.frames:
            count = payload.BatchReader(turn.frames).header.count
            self._by_line = turn.index + count
            self.delivery.put(turn.index, Values(count, turn.frames, 0))
        elif self._credited > turn.index:
            self.session.credit(self.call, self._credited, self._credited_bytes)
        else:
            self._is_told = True
        return turn is not None

    def _leave_line(self) -> None:
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.hang_up()
            self.session.credit(self.call, self.taken, self.taken_bytes)
            if self._last is not None:
                self.delivery.finish(max(self._received, self._by_line), *self._last)

    def _finish(self, raising: Callable[[], object] | None) -> None:
        with self._lock:
            line = self._line
            if line is not None and self._received:
                self._last = (raising,)
                line.shut()
                return
        self.delivery.finish(max(self._received, self._by_line), raising)

    def ended(self, end: Ended) -> None:
        """The generator has ended otherwise; how many items it gave is known best here."""
        self._end(partial(self._raise, end, had_given(self._received)))

    def _raise(self, end: Ended, said: str) -> None:
        __tracebackhide__ = True
        if end.outcome is Outcome.LOST and self._by_line > self._received:
            end = replace(end, message=end.message.replace(said, had_given(self._by_line), 1))
        open_result(end, self.name)

    def credit(self, *, within: bool = False) -> None:
        """Say what was taken, once it is much."""
        line = self._line
        if line is not None and line.is_open:
            if self.taken - self._credited >= CREDIT_ITEMS:
                self._credited, self._credited_bytes = self.taken, self.taken_bytes
                line.credit(self.taken, self.taken_bytes)
                if self._is_told:
                    self._is_told = False
                    self.session.credit(self.call, self.taken, self.taken_bytes)
            return
        now = time.monotonic()
        is_quick = now - self._credited_at < CREDIT_SECONDS
        if within and is_quick:
            return
        much = self.taken - self._credited >= (2 * CREDIT_ITEMS if is_quick else CREDIT_ITEMS)
        if much or self.taken_bytes - self._credited_bytes >= CREDIT_BYTES:
            self._credited, self._credited_bytes = self.taken, self.taken_bytes
            self._credited_at = now
            self.session.credit(self.call, self.taken, self.taken_bytes)

    def _leave(self) -> None:
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.hang_up()
        if not self.is_over:
            self.session.cancel(self.call)


class Replay(Run):
    """The items of a spawned generator, from the first one on."""

    def start(self) -> None:
        """Ask for them."""
        self.session.attach(self.call, self, items=True)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:  # noqa: ARG002
        """The generator has ended, or what was no generator has returned."""
        self._end(partial(_look_at_end, frames, position, self.name))

    def _leave(self) -> None:
        if self.session.is_usable:
            self.session.detach(self.call, self)


class RemoteGenerator(Generic[R]):
    """The items of a generator on a worker, for `for` or `async for`; it starts with the first."""

    def __init__(self, name: str, prepared: Callable[[], Run]) -> None:
        """Iterate the run that `prepared` will make."""
        self._name = name
        self._prepared: Callable[[], Run] | None = prepared
        self._iterator: Generator[R, None, None] | None = None
        self._run: Run | None = None
        self._items: Iterator[R] = iter(())

    def __iter__(self) -> Generator[R, None, None]:
        if self._iterator is None:
            run = self._begun()
            self._iterator = _iterate(run)
            self._run = run
            run.listen()
            dropping.when_dropped(self._iterator, run.leave)
            run.start()  # last: who is interrupted before has nothing to stop
        return self._iterator

    def __next__(self) -> R:
        __tracebackhide__ = True
        return next(iter(self))

    def __aiter__(self) -> AsyncIterator[R]:
        if self._iterator is not None:
            self._begun()  # which says that it is iterated already
        if self._run is None:
            self._run = run = self._begun()
            dropping.when_dropped(self, run.leave)
            run.start()
        return self

    async def __anext__(self) -> R:
        __tracebackhide__ = True
        run = self._run
        if run is None:
            self.__aiter__()
            return await self.__anext__()
        while True:
            for item in self._items:
                return item
            try:
                found = run.delivery.take()
            except BaseException:
                run.leave()
                raise
            if isinstance(found, Waiting):
                await _awaited(run, found)
            elif found is None:
                run.leave()
                raise StopAsyncIteration
            else:
                self._items = _values(run, found[1])

    def close(self) -> None:
        """Take no more items: a generator that runs for this loop alone is closed."""
        self._prepared = None
        self._items = iter(())
        if self._iterator is not None:
            self._iterator.close()
        if self._run is not None:
            self._run.leave()

    async def aclose(self) -> None:
        """Do as `close`; it does not wait."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._name}, {'not begun yet' if self._run is None else 'begun'}>"

    def _begun(self) -> Run:
        __tracebackhide__ = True
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            raise InvalidError(
                f"{self._name}(...) was closed, or is iterated with `for` and `async for` at once. "
                "Call it again."
            )
        return prepared()


def _look_at_end(frames: Sequence[Frame], position: int, name: str) -> None:
    """Raise where a call that is replayed has a value, and thus never gave items."""
    __tracebackhide__ = True
    if value_at(frames, position) is not NoValue.ITEMS_GIVEN:
        raise InvalidError(f"{name} is no generator: call .get().")


# What iterates does not know the `RemoteGenerator`, so that dropping that ends the run at once.


def _iterate(run: Run) -> Generator[Any, None, None]:
    """Yield the items; where it is dropped, `Run.leave` is called.

    Nothing runs here then: see `dropping`. A `finally` would, and so would a `with`.
    """
    __tracebackhide__ = True
    try:
        while (found := run.delivery.take()) is not None:
            if isinstance(found, Waiting):
                if not run.read():
                    found.announce = run.announce if running_input() is not None else None
                    found.wait()
            else:
                yield from _values(run, found[1])
    except GeneratorExit:
        raise
    except BaseException:
        run.leave()
        raise
    run.leave()


async def _awaited(run: Run, waiting: Waiting[None]) -> None:
    __tracebackhide__ = True
    waiting.announce = run.announce if running_input() is not None else None
    try:
        await waiting.settled()
    except BaseException:  # the task is cancelled, or the cell interrupted
        run.leave()
        raise


def _values(run: Run, piece: Any) -> Iterator[Any]:
    """Yield the items of a batch, each unpickled when it is asked for, and count them."""
    __tracebackhide__ = True
    for item in payload.BatchReader(piece.frames).items(0, piece.count):
        run.taken += 1
        if run.taken % CREDIT_ITEMS == 0:
            run.credit(within=True)
        yield item
    run.taken_bytes += plain_bytes(piece.frames)
    run.credit()
