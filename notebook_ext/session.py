"""A connection to a broker: what functions and calls go through.

A process that is a worker talks to the broker that gave it its input; any other finds or starts the
one of its user (`process.current` makes the one session of a process). `close` says goodbye: the
attached calls end, the spawned ones go on.

Guarantees: safe from any thread; nothing here waits but through the `Waiting` that it returns.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any, Self

import msgspec

from kernel_worker import context, rendezvous
from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.model import SEALED_CALL, CallId, ClientId, WorkerId
from kernel_worker.wire import messages
from notebook_ext import exception, stored
from notebook_ext.config import current as current_settings
from notebook_ext.cutting import cut
from notebook_ext.lines import Lines
from notebook_ext.link import Link
from notebook_ext.output import CallOutput, Printer
from notebook_ext.submission import Package
from notebook_ext.twin import Waiting, halts_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.model import DeployedFunction, Digest, PoolId, PoolSettings
    from kernel_worker.rendezvous import Connection
    from kernel_worker.settings import Settings
    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.sealing import Key
    from notebook_ext.open_call import OpenCall
    from notebook_ext.shelving import Request
    from notebook_ext.submission import Receiver, Submission


class Session:
    """One connection."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Start looking for a broker, or for the one of the worker that this process is."""
        self.settings = settings if settings is not None else current_settings()
        self.pid = os.getpid()
        self.is_far = self.settings.connection_file is not None and not context.worker_identity
        """Whether the broker is on another machine."""
        token = os.urandom(6).hex()
        self.client = ClientId(f"cl-{token}")
        self._token = token
        self._prefix = "fc-"
        self._numbers = itertools.count(1)
        self.last_call: CallId | None = None
        """The last one that was made here; two threads may disagree on which that is."""
        self._requests = itertools.count(1)
        self._printer = Printer()
        self.lines = Lines(self)
        self._waits: dict[RunningInput, list[tuple[tuple[CallId, ...], bool]]] = {}
        self._waits_lock = threading.Lock()
        identity = context.worker_identity
        hello = messages.Hello(
            "client",
            self.client,
            pid=self.pid,
            machine=rendezvous.machine_id(),
            worker=WorkerId("") if identity is None else identity.worker,
        )
        self._link = Link(hello, self._find, self.settings.connect_timeout_seconds, cut)
        self._conversation = self._link.conversation
        self._conversation.kept = stored.alive
        self._conversation.look = _look
        if self.is_far:
            self._seal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_usable(self) -> bool:
        """Whether calls of this process can go through it."""
        return self.pid == os.getpid() and self._link.is_alive

    @property
    def is_idle(self) -> bool:
        """Whether no answer is outstanding, and no line open by which one might come."""
        conversation = self._conversation
        return conversation.is_idle and not conversation.has_lines and not self.lines.count

    def close(self) -> None:
        """Say goodbye: attached calls end, spawned ones go on. Repeatable."""
        if self.pid == os.getpid():
            self.lines.close()
            self._link.close()
            self._printer.close()

    # ---- calls ----------------------------------------------------------------------------------

    def new_call(self) -> CallId:
        """Return the id of a call that nobody has made.

        Raises:
            AuthError: it has to be sealed, and the key for that is gone.
        """
        identity = context.worker_identity
        if self._conversation.seal is None and self.is_strict and identity is not None:
            found = rendezvous.read_connection(identity.connection_file)
            if found is not None:
                found.read_payload_key()  # where it is gone, whoever calls is told
            self._seal()
        self.last_call = CallId(f"{self._prefix}{self._token}{next(self._numbers):x}")
        return self.last_call

    @property
    def is_strict(self) -> bool:
        """Whether what goes through here is sealed: the broker is believed nothing."""
        return self.is_far or context.seals

    def seals(self) -> bool:
        """Return whether what is put into dicts and queues is sealed, whatever is there."""
        return self.is_strict

    def payload_key(self) -> Key:
        """Return the key that seals payloads.

        Raises:
            AuthError: it is not there.
        """
        seals = self._link.seals
        if not seals.has_found:
            seals.use(self._find())
        return seals.key()

    def _seal(self) -> None:
        """Let what is said from now on be sealed: objects, and the payloads of new calls."""
        self._prefix = SEALED_CALL
        self._conversation.seal = self._link.seals.sealed

    def submit(
        self, said: Submission, count: int, frames: Sequence[Frame], *, closed: bool = True
    ) -> None:
        """Make a call with its first inputs.

        Where an interrupt leaves this, an attached call is cancelled: nobody would wait for it, and
        it would run on behind the stop button.
        """
        try:
            self._link.post(self._submit, said, count, frames, closed)
        except BaseException:
            if said.attached:
                self.cancel(said.call)
            raise

    def post(self, function: Any, *args: Any) -> None:
        """Let the I/O thread call `function(*args)`."""
        self._link.post(function, *args)

    def submit_now(
        self, said: Submission, count: int, frames: Sequence[Frame], *, closed: bool
    ) -> OpenCall:
        """Do as `submit`, and return what is known of the call; in the I/O thread only."""
        return self._conversation.submit(said, count, frames, closed=closed)

    def add(self, call: CallId, count: int, frames: Sequence[Frame]) -> None:
        """Add inputs to an open call; in the I/O thread only."""
        self._conversation.add(call, count, frames)

    def missing(self, call: CallId, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of `[start, stop)` that have no outcome; in the I/O thread only."""
        return self._conversation.missing(call, start, stop)

    def pause_now(self, call: CallId) -> None:
        """Start no input of a call until it is told to go on; in the I/O thread only."""
        self._conversation.pause(call)

    def close_inputs(self, call: CallId) -> None:
        """The call gets no more inputs; in the I/O thread only."""
        self._conversation.close(call)

    def cancel(self, call: CallId, *, terminate: bool = False) -> None:
        """End a call."""
        self._link.post(self._cancel, call, terminate)

    def pause(self, call: CallId, *, paused: bool) -> None:
        """Start no further input of a call, or go on with it."""
        self._link.post(self._conversation.pause, call, paused)

    def forget_line(self, call: CallId) -> None:
        """A call got no line."""
        self._link.post(self._conversation.forget_line, call)

    def cancel_line(self, call: CallId, reached: int) -> None:
        """End what the client waits for on a line."""
        self._link.post(self._conversation.cancel_line, call, reached)

    def drop_object(self, digest: Digest) -> None:
        """Let the broker drop an object that was put."""
        self._link.post(self._conversation.drop_object, digest)

    def attach(self, call: CallId, receiver: Receiver, *, items: bool = False) -> None:
        """Tell `receiver` the outcomes of a spawned call; `items`: what its generator gave too."""
        self._link.post(self._conversation.attach, call, receiver, items)

    def credit(self, call: CallId, items: int, item_bytes: int) -> None:
        """Say how much of what the generator of an attached call gave has been taken, in all."""
        self._link.post(self._conversation.credit, call, items, item_bytes)

    def detach(self, call: CallId, receiver: Receiver) -> None:
        """Tell `receiver` nothing more."""
        self._link.post(self._conversation.detach, call, receiver)

    def output(self, name: str, call: str = "") -> CallOutput:
        """Return where the output of a call of `name` goes that is made here and now.

        Args:
            name: the function's, for people.
            call: the call's id, where its logs can be asked for.
        """
        return self.output_in(contextvars.copy_context(), name, call)

    def output_in(self, context: contextvars.Context, name: str, call: str = "") -> CallOutput:
        """Return where the output of a call goes that was made in `context`; see `output`."""
        prefixed = current_settings().log_prefix
        return CallOutput(self._printer, context, name, call, prefixed=prefixed)

    def announce(
        self,
        running: RunningInput,
        begins: bool,  # noqa: FBT001  a callback
        calls: tuple[CallId, ...],
        halts: bool | None = None,  # noqa: FBT001  as above
    ) -> None:
        """Say that an input of this worker begins, or ends, to wait for `calls`.

        Threads and tasks of one input may wait at the same time; it runs once none does. `halts`
        says whether the wait keeps an event loop from running; None: it is this thread that waits.
        """
        if halts is None:
            halts = halts_loop()
        with self._waits_lock:
            waits = self._waits.setdefault(running, [])
            if begins:
                waits.append((calls, halts))
            else:
                waits.remove((calls, halts))
            everything = tuple(call for each, _ in waits for call in each)
            halts = any(halts for _, halts in waits)
            if not waits:
                del self._waits[running]
            parent = running.as_parent()
            said: messages.Blocked | messages.Resumed = messages.Resumed(parent)
            if everything:
                said = messages.Blocked(parent, everything, halts)
            self._link.post(self._conversation.tell, said)

    # ---- questions ------------------------------------------------------------------------------

    def ask(
        self, what: Any, subject: str, answer: type, package: Package | None = None
    ) -> Waiting[Any]:
        """Ask the broker; the result is an `answer` (`bytes` for an object).

        For a `Graph` it is a pair: that, and the frames.
        """
        message = messages.Ask(next(self._requests), what, subject)
        return self._question(message, answer, package)

    def calls(self, wanted: messages.CallFilter) -> Waiting[list[messages.CallInfo]]:
        """Ask for the recent calls, newest first."""
        message = messages.Ask(next(self._requests), "calls", filter=wanted)
        return self._question(message, list[messages.CallInfo], None)

    def graph(self, call: CallId) -> Waiting[tuple[messages.Graph, list[bytes]]]:
        """Ask for everything that is known of the tree that a call belongs to."""
        return self.ask("graph", call, messages.Graph)

    def events(self, call: CallId, after: int) -> Waiting[tuple[messages.EventPage, list[bytes]]]:
        """Ask for what is new of a call beyond `after`."""
        message = messages.Ask(next(self._requests), "events", call, after=after)
        return self._question(message, messages.EventPage, None)

    def logs(self, call: CallId, after: int) -> Waiting[tuple[messages.LogPage, list[bytes]]]:
        """Ask for what a call has written beyond `after`."""
        message = messages.Ask(next(self._requests), "logs", call, after=after)
        return self._question(message, messages.LogPage, None)

    def deploy(
        self,
        app: str,
        functions: tuple[DeployedFunction, ...],
        objects: Mapping[Digest, bytes],
        tag: str,
    ) -> Waiting[messages.DeploymentInfo]:
        """Deploy an app; the result comes when it is durable and in force."""
        message = messages.Deploy(next(self._requests), app, functions, tag)
        package = Package(functions[0].spec, objects=objects) if functions else None
        return self._question(message, messages.DeploymentInfo, package)

    def status(self) -> Waiting[messages.Status]:
        """Ask for the state of the broker, its hosts, pools, workers and calls."""
        return self.ask("status", "", messages.Status)

    def configure(
        self, pool: PoolId, package: Package | None, changes: Mapping[str, Any]
    ) -> Waiting[PoolSettings]:
        """Change a pool's settings; the result is what is in force.

        `package` is None for a pool that the broker knows, from whomever.
        """
        from kernel_worker.model import PoolSettings  # noqa: PLC0415  as a value here

        message = messages.ConfigurePool(next(self._requests), pool, **changes)
        return self._question(message, PoolSettings, package)

    def _question(
        self,
        message: messages.Ask | messages.ConfigurePool | messages.Deploy,
        answer: Any,
        package: Package | None,
    ) -> Waiting[Any]:
        waiting: Waiting[Any] = Waiting()
        seals = self._link.seals

        def take(reply: messages.Reply, frames: list[bytes]) -> None:
            strict = self.is_strict
            waiting.complete(
                lambda: read_reply(reply, seals.reply(message, frames, strict=strict), answer)
            )

        self._link.post(self._conversation.ask, message, take, package)
        return waiting

    # ---- dicts and queues -----------------------------------------------------------------------

    def use_shelf(self, request: Request) -> None:
        """Ask for something of a dict or a queue."""
        self._link.post(self._use_shelf, request, next(self._requests))

    def withdraw_from_shelf(self, request: Request) -> None:
        """Nobody waits for that any more."""
        self._link.post(self._withdraw_from_shelf, request)

    # ---- in the I/O thread ----------------------------------------------------------------------

    def _use_shelf(self, request: Request, number: int) -> None:
        self._conversation.shelving().ask(request, number)

    def _withdraw_from_shelf(self, request: Request) -> None:
        self._conversation.shelving().withdraw(request)

    def _submit(
        self,
        said: Submission,
        count: int,
        frames: Sequence[Frame],
        closed: bool,  # noqa: FBT001  posted
    ) -> None:
        self._conversation.submit(said, count, frames, closed=closed)

    def _cancel(self, call: CallId, terminate: bool) -> None:  # noqa: FBT001  posted
        self._conversation.cancel(call, terminate=terminate)

    def _find(self) -> Connection:
        identity = context.worker_identity
        if self.is_far and self.settings.connection_file is not None:
            return rendezvous.elsewhere(self.settings.connection_file)
        if identity is None:
            return rendezvous.find_or_start(self.settings)
        found = rendezvous.read_connection(identity.connection_file)
        if found is None:
            raise ConnectionError(f"The broker of this worker is gone: {identity.connection_file}")
        return found


_WITH_FRAMES = (messages.Graph, messages.LogPage, messages.EventPage)


def _look(worker: WorkerId, waits: bool) -> None:  # noqa: FBT001  an offer
    """Let whoever waits for a call look at a breakpoint in it."""
    from notebook_ext import console  # noqa: PLC0415  rarely

    console.at_breakpoint(worker, is_awaited=not waits)


def read_reply(reply: messages.Reply, frames: list[bytes], answer: Any) -> Any:
    """Return the body of a reply as `answer`, or raise what it says."""
    __tracebackhide__ = True
    if reply.error:
        text = msgspec.msgpack.decode(reply.body)
        raise exception.named(reply.error)(str(text))
    if answer is bytes:
        return frames[0]
    body = msgspec.msgpack.decode(reply.body, type=answer)
    return (body, frames) if answer in _WITH_FRAMES else body
