"""Message -> event: the broker's door.

Theory: a peer's message is checked here (who may say it, whether its frames are what it says,
whether what it names is here) and becomes the one event that the core understands. What the door
has passed, nobody behind it checks again.

Guarantees: any message of any peer becomes an event, an answer (`Refusal`) or `ProtocolError`;
nothing else is raised and nothing is half done.
Not guaranteed: that what the event speaks of still exists. Answers cross on the wire (an input ends
while its cancellation is under way); the core ignores what came late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.broker.bounds import check_numbers, check_seconds
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.deployments import Register
from kernel_worker.broker.peers import Client, Host, Peer, Peers, Worker
from kernel_worker.core import effects, events
from kernel_worker.core.lending import MOST_AHEAD
from kernel_worker.errors import InvalidError, NotFoundError, ProtocolError
from kernel_worker.model import CallId, Outcome, is_deployed
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kernel_worker.broker.objects import ObjectStore
    from kernel_worker.model import CallContext

Frame = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Refusal:
    """The message cannot be served: what to answer."""

    message: messages.Rejected | messages.Accepted | messages.CancelConfirmed


@dataclass(frozen=True, slots=True)
class Repetition:
    """A spawned call that is open was submitted again: it is accepted, once that is durable."""

    answer: effects.AcceptCall


Translated = events.Event | Refusal | Repetition | None
"""None: nothing to do (it came late, or it is a repetition)."""


class Translator:
    """Turns the messages that concern the core into its events; keeps what they carry."""

    def __init__(
        self,
        peers: Peers,
        objects: ObjectStore,
        calls: dict[CallId, OpenCall],
        ended_calls: Mapping[CallId, bool],
        clock: Callable[[], float],
        *,
        register: Register | None = None,
    ) -> None:
        """All arguments are the broker's own tables, shared.

        Args:
            peers: Who may speak.
            objects: What has been sent once.
            calls: Open calls; `Submit` adds to it.
            ended_calls: Spawned calls that the journal knows to have ended.
            clock: Returns the time, in seconds.
            register: What is deployed.
        """
        self._peers = peers
        self._objects = objects
        self._calls = calls
        self._ended = ended_calls
        self._clock = clock
        self._register = register if register is not None else Register()

    def from_client(
        self, client: Client, message: messages.ToBroker, frames: Sequence[Frame]
    ) -> Translated:
        """Translate a client's message.

        Raises:
            ProtocolError: It is no message for a client to send now.
        """
        match message:
            case messages.Submit():
                return self._submit(client, message, frames)
            case messages.AddInputs():
                return self._add_inputs(client, message, frames)
            case messages.CloseInputs(call=call, total=total):
                return self._close_inputs(client, call, total)
            case messages.CancelCall(call=call, terminate=terminate):
                if call in self._calls:
                    return events.CallCancelled(call, terminate, client.id, message.reached)
                return Refusal(messages.CancelConfirmed(call))
            case messages.PauseCall(call=call, paused=paused):
                if not self._is_of(call, client):
                    return None
                return events.CallPaused(call) if paused else events.CallUnpaused(call)
            case messages.Define(spec=spec, derived=derived):
                check_numbers(spec)
                missing = self._objects.missing(spec.objects)
                if missing:
                    text = f"{spec.name} is defined with object {missing}, which was not sent"
                    raise ProtocolError(text)
                self._objects.own(spec.pool, spec.objects)
                return events.FunctionDefined(client.id, spec, derived)
            case messages.Blocked(parent=parent, calls=calls, halts=halts):
                known = parent.worker in self._peers.workers
                return events.WorkerBlocked(parent, calls, halts) if known else None
            case messages.Resumed(parent=parent):
                known = parent.worker in self._peers.workers
                return events.WorkerResumed(parent) if known else None
            case _:
                raise _unexpected(client, message)

    def from_worker(
        self, worker: Worker, message: messages.ToBroker, frames: Sequence[Frame]
    ) -> Translated:
        """Translate a worker's message.

        Raises:
            ProtocolError: It is no message for a worker to send.
        """
        match message:
            case messages.Done(lease=lease, start=start, count=count, elapsed_seconds=elapsed):
                _check_positions(start, count)
                check_seconds(elapsed)
                _check_form(batches.check(frames, count), is_value=True)
                return events.RangeSucceeded(worker.id, lease, start, count, elapsed)
            case messages.Yielded(lease=lease, index=index, start=start, count=count):
                _check_positions(start, count)
                if message.call:
                    self._check_line(message.call, frames)
                else:
                    _check_form(batches.check(frames, count), is_value=True)
                return events.ItemsYielded(worker.id, lease, index, start, count, message.call)
            case messages.InputEnded(lease=lease, index=index, outcome=outcome):
                _check_exception(frames, is_needed=outcome is Outcome.FAILED)
                elapsed = message.elapsed_seconds
                check_seconds(elapsed)
                below = message.cancelled_below
                return events.InputEnded(
                    worker.id, lease, index, outcome, elapsed, below, message.lingers, message.parks
                )
            case messages.LineReached():
                return self._line_reached(worker, message)
            case messages.InputLeft(lease=lease):
                return events.InputLeft(worker.id, lease)
            case messages.Returned(lease=lease, start=start, stop=stop):
                return events.InputsReturned(worker.id, lease, start, stop)
            case messages.StartFailed(message=text):
                _check_exception(frames, is_needed=False)
                return events.WorkerStartFailed(worker.id, text)
            case _:
                raise _unexpected(worker, message)

    def from_host(
        self, host: Host, message: messages.ToBroker, frames: Sequence[Frame]
    ) -> Translated:
        """Translate a host agent's message.

        Raises:
            ProtocolError: It is no message for a host agent to send.
        """
        match message:
            case messages.DevicesHeld(devices=devices, worker=worker):
                return events.DevicesHeld(host.id, devices, worker)
            case messages.WorkerStarted(worker=worker, pid=pid, start=start):
                event: events.Event = events.WorkerStarted(worker, pid, start)
            case messages.StartDelayed(worker=worker):
                event = events.WorkerDelayed(worker)
            case messages.StartFailed(worker=worker, message=text, lack=lack):
                _check_exception(frames, is_needed=False)
                event = events.WorkerStartFailed(worker, text, lack)
            case messages.WorkerExited(worker=worker, cause=cause, lease=lease):
                position, timed_out = message.position, message.timed_out
                over = message.over_memory_mib
                event = events.WorkerExited(
                    worker, cause, lease, position, timed_out, over, message.started
                )
            case _:
                raise _unexpected(host, message)
        known = self._peers.workers.get(worker)
        return event if known is not None and known.host == host.id else None

    # ---- a client's calls -------------------------------------------------------------------

    def _submit(
        self, client: Client, message: messages.Submit, frames: Sequence[Frame]
    ) -> Translated:
        header = _check_inputs(0, message.count, frames)
        check_numbers(message.context)
        check_numbers(message.parent)
        call = message.call
        if message.streams and not (message.closed and message.count == 1):
            text = f"{call} streams and has {message.count} inputs; it has one, and is closed"
            raise ProtocolError(text)
        if call in self._calls:
            return self._submitted_again(client, self._calls[call])
        if call in self._ended:
            return Refusal(messages.Accepted(call))
        if is_deployed(message.pool):
            try:
                message = self._resolved(message)
            except (NotFoundError, InvalidError) as error:
                return Refusal(messages.Rejected(call, type(error).__name__, str(error)))
        message = self._placed(client, message, header)
        if message.line and not (message.closed and message.attached and message.count == 1):
            text = f"{call} would have a line and is no attached call of one input"
            raise ProtocolError(text)
        names = (message.snapshot, message.table, message.shared, *message.requires)
        missing = self._objects.missing(names)
        if missing:
            text = f"{call} names object {missing}, which the broker does not have"
            return Refusal(messages.Rejected(call, "NotFoundError", text))
        self._objects.own(call, names)
        self._open(client, message, frames)
        return events.CallSubmitted(
            client=client.id,
            call=call,
            pool=message.pool,
            attached=message.attached,
            count=message.count,
            closed=message.closed,
            snapshot=message.snapshot,
            table=message.table,
            shared=message.shared,
            context=message.context,
            parent=message.parent,
            requires=message.requires,
            pools=message.pools,
            indivisible=header.whole,
            streams=message.streams,
            lends=bool(message.line) and not message.streams and self._is_near(client),
            deaths=max(0, min(message.deaths, _MOST_DEATHS)),
        )

    def _resolved(self, message: messages.Submit) -> messages.Submit:
        """Put what is deployed now in the place of its name.

        Raises:
            NotFoundError: nothing is deployed under it.
            InvalidError: it is a class; or a generator, which the client, that has only its name,
                did not know.
        """
        found = self._register.runnable(message.pool)
        if found.is_generator and not message.streams:
            text = (
                f"{found.name} is a generator, and was called as if it had a value to give back:"
                " call .remote_gen(...), or .spawn(...) of what Function.lookup returns"
            )
            raise InvalidError(text)
        return msgspec.structs.replace(
            message,
            pool=found.spec.pool,
            snapshot=found.snapshot,
            table=found.table,
            requires=found.requires,
            pools=tuple(spec.pool for spec in (found.spec, *found.nested)) if found.table else (),
        )

    def _placed(
        self, client: Client, message: messages.Submit, header: batches.BatchHeader
    ) -> messages.Submit:
        """Let only calls name a store whose client is here, and that end with it.

        Raises:
            ProtocolError: another one has buffers there.
        """
        context = message.context
        if context.store and not (message.attached and self._is_near(client)):
            context = msgspec.structs.replace(context, store="")
            message = msgspec.structs.replace(message, context=context)
        _check_store(message.call, context, header)
        return message

    def _submitted_again(self, client: Client, call: OpenCall) -> Repetition | None:
        """Answer for a call that is here: the core may be through with it, and would run it."""
        if call.client not in {client.id, ""}:
            text = f"{call.call} is another client's"
            raise ProtocolError(text)
        return None if call.attached else Repetition(effects.AcceptCall(client.id, call.call))

    def _open(self, client: Client, message: messages.Submit, frames: Sequence[Frame]) -> None:
        call = OpenCall(
            message.call,
            client.id,
            message.attached,
            self._clock(),
            message.snapshot,
            message.table,
            message.shared,
            message.context,
            streams=message.streams,
            line="" if message.streams and not self._is_near(client) else message.line,
        )
        if message.attached:
            call.listeners.append(client.id)
            call.item_listeners.append(client.id)
        if message.count:
            call.batches.add(0, message.count, frames)
        self._calls[message.call] = call

    def _line_reached(self, worker: Worker, said: messages.LineReached) -> Translated:
        call = self._calls.get(said.call)
        if call is None:
            return None
        if not (call.line and 0 <= said.index <= call.reached + MOST_AHEAD):
            text = f"the line of {said.call} is at {said.index}, and was at {call.reached}"
            raise ProtocolError(text)
        call.reached = max(call.reached, said.index)
        return events.LineReached(
            worker.id, said.lease, said.index, said.elapsed_seconds, said.runs
        )

    def _check_line(self, call: CallId, frames: Sequence[Frame]) -> None:
        known = self._calls.get(call)
        if frames or (known is not None and not known.line):
            text = f"items of {call} went by a line, and are here, or it has none"
            raise ProtocolError(text)

    def _is_near(self, client: Client) -> bool:
        """Whether a client runs on this machine, where workers find its socket."""
        return client.watch is not None

    def _add_inputs(
        self, client: Client, message: messages.AddInputs, frames: Sequence[Frame]
    ) -> Translated:
        header = _check_inputs(message.start, message.count, frames)
        if not self._is_of(message.call, client):
            return None
        call = self._calls[message.call]
        _check_store(message.call, call.context, header)
        end = call.batches.end
        if message.start < end:
            return None  # sent again after a reconnection
        if message.start > end:
            text = f"{message.call} has {end} inputs, and gets more from {message.start} on"
            raise ProtocolError(text)
        call.batches.add(message.start, message.count, frames)
        return events.InputsAdded(message.call, message.start, message.count, header.whole)

    def _close_inputs(self, client: Client, call: CallId, total: int) -> Translated:
        if not self._is_of(call, client):
            return None
        if total != self._calls[call].batches.end:
            text = f"{call} has {self._calls[call].batches.end} inputs, and is closed with {total}"
            raise ProtocolError(text)
        return events.InputsClosed(call, total)

    def _is_of(self, call_id: CallId, client: Client) -> bool:
        """Return whether the call is open; a call that another client submitted is an error."""
        call = self._calls.get(call_id)
        if call is None:
            return False
        if call.client not in {client.id, ""}:
            text = f"{call_id} is another client's"
            raise ProtocolError(text)
        return True


def in_parts(
    message: messages.Submit, frames: Sequence[Frame]
) -> list[tuple[messages.ToBroker, Sequence[Frame]]]:
    """Return the messages, each with its frames, that a call of several batches stands for.

    Raises:
        ProtocolError: some of the parts are none; nothing of the call is taken in then.
    """
    _check_positions(0, message.count)
    counts, pairs = message.parts, [frames[at : at + 2] for at in range(0, len(frames), 2)]
    is_all = message.closed and sum(counts) == message.count and len(pairs) == len(counts)
    if not is_all or min(counts) < 1:
        text = f"{message.call} has {message.count} inputs in parts of {counts[:9]}"
        raise ProtocolError(text)
    for count, pair in zip(counts, pairs, strict=True):
        _check_inputs(0, count, pair)
    first = msgspec.structs.replace(message, count=counts[0], closed=False, parts=())
    said: list[tuple[messages.ToBroker, Sequence[Frame]]] = [(first, pairs[0])]
    start = counts[0]
    for count, pair in zip(counts[1:], pairs[1:], strict=True):
        said.append((messages.AddInputs(message.call, start, count), pair))
        start += count
    said.append((messages.CloseInputs(message.call, start), ()))
    return said


# ---- checks ---------------------------------------------------------------------------------


_MOST_DEATHS = 2
"""What a client says; one more is what an input may have."""
_NO_BATCH = batches.BatchHeader(whole=False, form=batches.FORM_ARGS, count=0)


def _check_inputs(start: int, count: int, frames: Sequence[Frame]) -> batches.BatchHeader:
    _check_positions(start, count)
    if count == 0:
        if frames:
            text = f"{len(frames)} frames of no inputs"
            raise ProtocolError(text)
        return _NO_BATCH
    header = batches.check(frames, count)
    _check_form(header, is_value=False)
    return header


def _check_store(call: CallId, context: CallContext, header: batches.BatchHeader) -> None:
    if header.stored and not context.store:
        text = f"{call} has buffers in a store, and names none, outlives it, or is from elsewhere"
        raise ProtocolError(text)


def _check_positions(start: int, count: int) -> None:
    if start < 0 or not 0 <= count <= messages.MOST_INPUTS:
        text = f"inputs from {start}, {count} of them"
        raise ProtocolError(text)


def _check_form(header: batches.BatchHeader, *, is_value: bool) -> None:
    if (header.form == batches.FORM_VALUE) is not is_value:
        text = f"a batch of form {header.form} where {'values' if is_value else 'inputs'} belong"
        raise ProtocolError(text)


def _check_exception(frames: Sequence[Frame], *, is_needed: bool) -> None:
    if len(frames) > 1 or (is_needed and not frames):
        text = f"{len(frames)} frames where one exception belongs"
        raise ProtocolError(text)


def _unexpected(peer: Peer, message: messages.ToBroker) -> ProtocolError:
    return ProtocolError(f"{type(message).__name__} is nothing for {peer.id} to say")
