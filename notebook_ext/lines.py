"""The direct line: a warm worker is called by the caller's own thread, past link and broker.

Theory. A call of one input asks for a line where another one of its function has just ended. If
nobody else waits, the broker lends the call's worker, which dials our socket before it answers.
Further calls with the same function, as it reads now, in the same surroundings, are requests on the
line: the calling thread sends one and blocks on its answer. What is no small value, or comes after
output, comes by the broker, as the outcome of another input of the call with which the line began.

A line that breaks, or that the worker gives back, loses nothing: the broker says how its last
inputs ended and from which one on none has run (`LineEnded`), and what did not is called anew. An
interrupt discards the line. What takes long is handed over: the caller then waits as for any other
call, and the outcome comes by the broker.

Guarantees: one thread at a time uses a line; where it is in use, or anything is unusual, calls go
by the broker. A function whose line was of little use gets no other one for a while.
Not guaranteed: that there ever is a line.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from kernel_worker.model import Outcome
from kernel_worker.wire import line as wire_line
from kernel_worker.wire import payload
from kernel_worker.wire.frames import is_stored
from notebook_ext import blobs
from notebook_ext.outcome import value_at
from notebook_ext.receivers import open_result, raise_rejection
from notebook_ext.twin import LOOK_SECONDS, Ready, Waiting, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.model import CallContext, CallId
    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.messages import CallProgress
    from notebook_ext.output import CallOutput
    from notebook_ext.session import Session
    from notebook_ext.submission import Ended, Package, Submission

_SOON_SECONDS = 0.05
"""A line is asked for by a call that comes so soon after another one of its function."""
_REST_SECONDS = 0.25
"""How long no line is asked for where one, or none, was of little use …"""
_LITTLE = 4
"""… because it was over before so many inputs."""
_KEPT = 64


class Refusal(NamedTuple):
    """A call that goes by the broker after all."""

    address: str = ""
    """Where its worker may dial, if it is to ask for a line."""
    deaths: int = 0
    """How many workers have died under it."""


NO_LINE = Refusal()


class Line:
    """One line, from when it is asked for; hears by the broker what does not come by it."""

    def __init__(
        self,
        said: Submission,
        output_in: Callable[[Context], CallOutput],
        on_over: Callable[[Line], object],
    ) -> None:
        """Wait for the worker of the call that `said` makes.

        Args:
            said: that call.
            output_in: gives where the output of a call goes that was made in a context.
            on_over: called when no further input runs by the line.
        """
        self.said = replace(said, receiver=None)  # which has the value, and knows this
        self.call = said.call
        self.package = said.package
        self.context = said.context
        self._output_in = output_in
        self._on_over = on_over
        self.end: socket.socket | None = None
        self.next = 1
        self.in_use = threading.Lock()
        self.is_over = False
        """The broker has said that no further input runs by it."""
        self._index = 0
        self._has_outcome = False
        self._waiting: Waiting[Any] | None = None
        self._outputs: dict[int, CallOutput | Context] = {}
        """Of the last calls: what a thread of theirs prints late belongs to their cells.

        A context is all that most of them need.
        """
        self._frames: Sequence[Frame] = ()
        self._name = said.package.spec.name
        self._lock = threading.Lock()

    def expect(self, index: int, context: Context, frames: Sequence[Frame]) -> Waiting[Any]:
        """Return what the outcome at `index` completes, should it come by the broker.

        Args:
            index: of the input.
            context: of who calls; what the input writes is shown there.
            frames: its arguments.
        """
        with self._lock:
            waiting = self._waiting
            if waiting is None or waiting.done:
                waiting = self._waiting = Waiting()
            self._index = index
            self._frames, self._has_outcome = frames, False
            self._outputs[index] = context
            if len(self._outputs) > _KEPT:
                del self._outputs[next(iter(self._outputs))]
            if self.is_over:
                waiting.complete(Refusal)
            return waiting

    def let_go(self) -> None:
        """Forget a call that has its outcome: that may be large, and its arguments too."""
        self._frames = ()
        with self._lock:
            if self._waiting is not None and self._waiting.done:
                self._waiting = None

    def over(self) -> None:
        """Nothing comes by it any more: what has no outcome is called anew. In the I/O thread."""
        self._end(Refusal, failed=False)

    def _end(self, result: Callable[[], Any], *, failed: bool) -> None:
        with self._lock:
            self.is_over = True
            waiting = None if self._has_outcome else self._waiting
        if waiting is not None:
            waiting.complete(result, failed=failed)
        self.shut()  # whoever waits for an answer there hears of it
        self._on_over(self)

    # ---- a receiver -----------------------------------------------------------------------------

    def accepted(self) -> None:
        """Attached calls are not accepted."""

    def rejected(self, error: str, message: str) -> None:
        """There will be no broker: let the caller raise."""
        self._end(partial(raise_rejection, error, message), failed=True)

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """No generator is called by it."""

    def progressed(self, progress: CallProgress) -> None:
        """What runs does not wait."""

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Let the caller do it, who waits for the broker's word or is about to."""
        waiting, output = self._waiting, self._output_at(self._index)
        if waiting is None or output is None or waiting.done:
            return False
        output.after(waiting.offer, act)
        return True

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """Show it in the cell whose call it is; there it is the call's only input."""
        output = self._output_at(index)
        if output is not None:
            output.write(0, stream, text, withheld)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:  # noqa: ARG002
        """Let the caller go on."""
        self._settle(start, partial(value_at, frames, position), failed=False)

    def ended(self, end: Ended) -> None:
        """Let the caller raise, or call anew where its worker died."""
        if end.outcome is Outcome.LOST:
            self._settle(end.index, lambda: Refusal(deaths=1), failed=False)
        else:
            known = replace(end, index=0, inputs=self._frames, said=self.said)
            self._settle(end.index, partial(open_result, known, self._name), failed=True)

    def _settle(self, index: int, result: Callable[[], Any], *, failed: bool) -> None:
        with self._lock:
            waiting, output = self._waiting, self._output_at(self._index)
            is_awaited = index == self._index
            self._has_outcome = self._has_outcome or is_awaited
        if waiting is not None and output is not None and is_awaited:
            output.finish()
            output.after(partial(waiting.complete, result, failed=failed))

    def _output_at(self, index: int) -> CallOutput | None:
        """Return where the output of an input goes; in the I/O thread."""
        found = self._outputs.get(index)
        if isinstance(found, Context):
            found = self._outputs[index] = self._output_in(found)
        return found

    def shut(self) -> None:
        """Let nothing go by it any more; an answer that has come can still be read."""
        end = self.end
        if end is not None:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Use it no more."""
        self.shut()
        end, self.end = self.end, None
        if end is not None:
            end.close()


class Lines:
    """The lines of one session."""

    def __init__(self, session: Session) -> None:
        """Listen only when the first line is asked for."""
        self._session = session
        self._listener: socket.socket | None = None
        self._name = f"notebook-ext-{os.urandom(16).hex()}"
        self._is_closed = False
        self._asked: dict[CallId, Line] = {}
        self._open: dict[str, Line] = {}
        """By the pool of what is called."""
        self._last: dict[str, float] = {}
        """When the last call of each pool ended (or, by the broker, began)."""
        self._rests: dict[str, float] = {}
        """Until when no line is asked for, by pool."""
        self._lock = threading.RLock()

    @property
    def count(self) -> int:
        """How many lines there are now."""
        return len(self._open)

    def call(
        self, package: Package, context: CallContext, frames: Sequence[Frame]
    ) -> Waiting[Any] | Refusal:
        """Return a call that is over, with its value or what it raised, or a `Refusal`.

        Raises:
            BaseException: also what a signal handler raises; the call is cancelled then.
        """
        __tracebackhide__ = True
        pool = package.spec.pool
        line = self._open.get(pool)
        if line is None:
            return self._considered(pool)
        if not line.in_use.acquire(blocking=False):
            if line.is_over:
                self._strike(line)  # whoever uses it hangs up
            return NO_LINE
        try:
            if line.package is not package or not (
                line.context is context or line.context == context
            ):
                self._discard(line)
                return NO_LINE
            if sum(map(len, frames)) > wire_line.MOST_FRAME_BYTES:
                return NO_LINE
            return self._talk(line, frames)
        finally:
            line.in_use.release()
            if line.is_over:  # who was told so meanwhile has left it to us
                self._discard(line)
            self._called(pool, time.monotonic())

    def asked_by(self, said: Submission, address: str) -> Callable[[], None]:
        """Let a call ask for a line; call what is returned once it has its outcome."""
        name = said.package.spec.name
        line = Line(said, lambda context: self._session.output_in(context, name), self._over)
        said.line, said.line_receiver = address, line
        with self._lock:
            self._asked[line.call] = line
        return partial(self._settled, line)

    def given_up(self, call: CallId) -> None:
        """Whoever made a call waits for it no more: it needs no line either."""
        with self._lock:
            line = self._asked.pop(call, None)
        if line is not None:
            line.hang_up()
            self._session.forget_line(call)

    def _settled(self, line: Line) -> None:
        """The call that asked for a line has an outcome: see whether it got one."""
        pool = line.package.spec.pool
        self._called(pool, time.monotonic())
        self._accept()
        with self._lock:
            self._asked.pop(line.call, None)
            is_needed = (
                line.end is not None
                and pool not in self._open
                and not (line.is_over or self._is_closed)
            )
            if is_needed:
                self._open[pool] = line
        if line.end is None:
            self._rest(line)
            self._session.forget_line(line.call)
        elif not is_needed:
            line.hang_up()  # another thread was quicker

    def close(self) -> None:
        """Hang up, for good: whoever calls meanwhile, in another thread, gets no line."""
        with self._lock:
            self._is_closed = True
            lines = [*self._asked.values(), *self._open.values()]
            self._asked.clear()
            self._open.clear()
        for line in lines:
            line.hang_up()
        if self._listener is not None:
            self._listener.close()

    def _considered(self, pool: str) -> Refusal:
        """Let a call ask for a line where another one has just ended."""
        now = time.monotonic()
        ended_at = self._last.get(pool, -math.inf)
        self._called(pool, now)
        if (
            self._session.is_far
            or now - ended_at > _SOON_SECONDS
            or now < self._rests.get(pool, 0.0)
        ):
            return NO_LINE
        try:
            with self._lock:
                if self._is_closed:
                    return NO_LINE
                if self._listener is None:
                    self._listener = wire_line.listen(self._name)
        except OSError:  # no file descriptor is left, for example
            return NO_LINE
        return Refusal(self._name)

    def _called(self, pool: str, now: float) -> None:
        """Remember when a pool was called: loops may call several functions in turn."""
        self._last[pool] = now
        if len(self._last) > _KEPT:
            known = self._last.copy()  # other threads may change it meanwhile
            self._last = {pool: at for pool, at in known.items() if now - at < _SOON_SECONDS}

    def _talk(self, line: Line, frames: Sequence[Frame]) -> Waiting[Any] | Refusal:
        __tracebackhide__ = True
        index, end = line.next, line.end
        waiting = line.expect(index, copy_context(), frames)
        if end is None or waiting.done:
            self._discard(line)
            return NO_LINE
        try:
            line.next += 1
            data = b""
            # Those that name buffers know more than goes out.
            said = frames if len(frames) <= 2 else [bytes(frame) for frame in frames]  # noqa: PLR2004  header and pickles
            try:
                end.send(wire_line.encode((index, said)))
                data = _received(end)
            except ConnectionError:
                pass
            answer = wire_line.decode(data).frames if data else ()
            if not data:
                self._discard(line)
            if not answer:
                waiting.wait()
        except BaseException as interrupt:
            self._discard(line)
            self._session.cancel_line(line.call, index)
            shortened(interrupt)
            raise
        if answer:
            if len(frames) > 2:  # noqa: PLR2004  header and pickles
                line.let_go()
            if len(answer) > 2:  # noqa: PLR2004  header and pickles
                answer = tuple(blobs.taken([*answer])) if is_stored(answer) else answer
            return Ready(payload.loads(answer))
        line.let_go()
        if waiting.failed:
            return waiting
        found = waiting.result()
        return found if isinstance(found, Refusal) else Ready(found)

    def _over(self, line: Line) -> None:
        """The broker has said that it is over; in the I/O thread."""
        with self._lock:
            self._asked.pop(line.call, None)
        if line.in_use.acquire(blocking=False):  # otherwise whoever uses it notices
            self._discard(line)
            line.in_use.release()

    def _strike(self, line: Line) -> None:
        """Let no further call find it."""
        pool = line.package.spec.pool
        with self._lock:
            if self._open.get(pool) is line:
                del self._open[pool]

    def _discard(self, line: Line) -> None:
        self._strike(line)
        if line.next < _LITTLE:
            self._rest(line)
        line.hang_up()

    def _rest(self, line: Line) -> None:
        now = time.monotonic()
        known = self._rests.copy()  # other threads may change it meanwhile
        rests = {pool: until for pool, until in known.items() if until > now}
        self._rests = rests | {line.package.spec.pool: now + _REST_SECONDS}

    def _accept(self) -> None:
        """Take the workers in that have dialled."""
        listener = self._listener
        while listener is not None:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            end.setblocking(True)
            wire_line.limit_waits(end, LOOK_SECONDS)
            call = wire_line.caller_of(end)
            with self._lock:  # who takes a line out hangs it up, with the end that it has then
                line = self._asked.get(call)
                if line is not None and line.end is None:
                    line.end = end
                    continue
            end.close()


def _received(end: socket.socket) -> bytes:
    """Wait for an answer; see `LOOK_SECONDS` for why the wait is cut in pieces."""
    while True:
        try:
            return end.recv(wire_line.MAX_BYTES)
        except BlockingIOError:
            pass
