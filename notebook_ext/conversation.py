"""What one client and one broker say to each other, without a socket, a thread or a clock.

Theory. A conversation holds what the client needs until it has been answered: the inputs of its
attached calls until they have outcomes, the submission of a spawned call until it is durable, its
questions until they are replied to. It also knows what this very broker (`incarnation`) was told:
objects, function versions. So a broker that died is no event for a call: `connected` to a new one
says everything again that is still open.

A call that is said again to a new broker has only the inputs without an outcome: they are numbered
anew for it, densely (`Renumbering`), and what it answers is translated back.

Guarantees: every input of a call is told to its receiver exactly once; an object is said before
what names it; messages come out in the order in which they were asked for.
Not guaranteed: that an input runs once (a broker that dies after a worker has answered it makes it
run again).

Whoever drives this hands frames in (`receive`) and sends what `take` gives; it calls receivers in
that same thread, so a receiver must neither block nor run users' code.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from kernel_worker.model import Outcome, had_given
from kernel_worker.wire import messages
from kernel_worker.wire.messages import encode
from notebook_ext.numbering import Renumbering
from notebook_ext.open_call import OpenCall
from notebook_ext.readings import Readings
from notebook_ext.submission import Ended
from notebook_ext.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kernel_worker.model import CallId, Digest, ParentInput, WorkerId
    from kernel_worker.wire.frames import Frame
    from notebook_ext.shelving import Shelving
    from notebook_ext.submission import Package, Receiver, Submission

    Cut = Callable[[Sequence[Frame], int, int], list[Frame]]


@dataclass(slots=True)
class _Question:
    message: messages.Ask | messages.ConfigurePool | messages.Deploy
    package: Package | None
    answer: Callable[[messages.Reply, list[bytes]], None]


class Conversation:
    """The state of what is said; see the module's docstring."""

    def __init__(self, cut: Cut) -> None:
        """Start with nobody there.

        Args:
            cut: returns the batch of the items `[start, stop)` of a batch; it may look into them.
        """
        self._cut = cut
        self._out: deque[list[Frame]] = deque()
        self._online = False
        self._incarnation = ""
        self._calls: OrderedDict[CallId, OpenCall] = OrderedDict()
        self._attached_to: dict[CallId, list[Receiver]] = {}
        self._readings = Readings()
        self._questions: dict[int, _Question] = {}
        self._told = Told(self._say)
        self._blocked: dict[ParentInput, messages.Blocked] = {}
        self._cancels: dict[CallId, bool] = {}
        """Of spawned calls: those that no broker has confirmed, and whether workers are killed."""
        self._shelving: Shelving | None = None
        """What is asked of dicts and queues, where anything was."""
        self._lines: dict[CallId, Any] = {}
        """Who hears of a call past whose first input there is a direct line."""
        self.kept: Mapping[Digest, object] = {}
        """Objects that are not taken back however much there is, whatever they stand for."""
        self.look: Callable[[WorkerId, bool], object] = _look_away
        """Called by whoever waits for a call when an input of it is at a breakpoint; False: that
        is a task, which cannot."""
        self.seal: Callable[[messages.ToBroker, Sequence[Frame]], Sequence[Frame]] | None = None
        """Returns what goes beside a message in the place of its frames."""
        self.dropped_messages = 0
        """Answers that named nothing that is open here; late ones are ordinary."""

    # ---- what the driver asks -----------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Whether there is a broker to talk to."""
        return self._online

    @property
    def is_idle(self) -> bool:
        """Whether no answer is outstanding."""
        if self._shelving is not None and not self._shelving.is_idle:
            return False
        return not (self._calls or self._attached_to or self._questions or self._cancels)

    @property
    def has_words(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    @property
    def has_lines(self) -> bool:
        """Whether an outcome may come of an input that went by a direct line."""
        return bool(self._lines)

    def take(self) -> deque[list[Frame]]:
        """Return the messages to send, each a list of frames, and forget them."""
        out, self._out = self._out, deque()
        return out

    # ---- connections --------------------------------------------------------------------------

    def connected(self, incarnation: str) -> None:
        """A broker said welcome. To one that is new, say everything that is open."""
        known = incarnation == self._incarnation
        if not known:
            self._forget_broker()
        self._online = True
        self._incarnation = incarnation
        if not known:
            self._told.forget()
            self._say_everything()

    def lost(self) -> None:
        """The broker is gone. What is asked from now on is said to the next."""
        self._forget_broker()
        self._online = False
        self._incarnation = ""

    def _forget_broker(self) -> None:
        self._out.clear()
        self._end_lines()
        if self._online:
            for opened in self._calls.values():
                opened.told = opened.added

    def _end_lines(self) -> None:
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.over()

    def fail(self, error: str, message: str) -> None:
        """There will be no broker: tell everybody who waits."""
        calls, self._calls = self._calls, OrderedDict()
        waiting, self._attached_to = self._attached_to, {}
        lines, self._lines = self._lines, {}
        self._readings.forget_all()
        questions, self._questions = self._questions, {}
        for opened in calls.values():
            opened.said.receiver.rejected(error, message)
        for receivers in waiting.values():
            for receiver in receivers:
                receiver.rejected(error, message)
        for line in lines.values():
            line.rejected(error, message)
        body = encode_body(message)
        if self._shelving is not None:
            self._shelving.fail(body, error)
        for number, question in questions.items():
            question.answer(messages.Reply(number, body, error), [])

    # ---- what the user does ---------------------------------------------------------------------

    def submit(
        self, said: Submission, count: int, frames: Sequence[Frame], *, closed: bool
    ) -> OpenCall:
        """Make a call with its first `count` inputs; return what is kept of it until it ends."""
        opened = OpenCall(said)
        self._calls[said.call] = opened
        if count:
            opened.append(count, frames)
        if closed:
            opened.total = count
        if said.line_receiver is not None:
            self._lines[said.call] = said.line_receiver
        if self._online:
            self._say_submit(opened, count, frames, closed=closed)
        if opened.finished and said.attached:
            del self._calls[said.call]
        return opened

    def add(self, call: CallId, count: int, frames: Sequence[Frame]) -> None:
        """Add inputs to an open call; nothing where it has ended."""
        opened = self._calls.get(call)
        if opened is None or opened.cancelled:
            return
        start = opened.append(count, frames).start
        if self._online:
            for companion in list(opened.said.companions.values()):
                self._ensure(companion)
            if opened.wire is not None:
                start = opened.wire.append(start, count)
            self._say(messages.AddInputs(call, start, count), frames)

    def close(self, call: CallId) -> None:
        """The call gets no more inputs."""
        opened = self._calls.get(call)
        if opened is None or opened.total is not None:
            return
        opened.total = opened.added
        if self._online:
            self._say(messages.CloseInputs(call, self._wire_count(opened)))
        self._let_go(opened)

    def cancel(self, call: CallId, *, terminate: bool = False) -> None:
        """End the call; of an open one every input without an outcome is answered as cancelled."""
        opened = self._calls.get(call)
        if opened is not None:
            if opened.cancelled and not (terminate and not opened.terminate):
                return
            opened.cancelled = True
            opened.terminate = terminate
            if not self._online and opened.said.attached:
                self._end_here(opened)
        if opened is None or not opened.said.attached:
            self._cancels[call] = terminate
        if self._online:
            self._say(messages.CancelCall(call, terminate))
            if opened is not None and opened.total is None:
                self.close(call)

    def pause(self, call: CallId, paused: bool = True) -> None:  # noqa: FBT001, FBT002  posted
        """Start no further input of an open call, or (`paused` False) go on with it."""
        opened = self._calls.get(call)
        if opened is None or opened.cancelled or opened.paused is paused:
            return
        opened.paused = paused
        if self._online:
            self._say(messages.PauseCall(call, paused))

    def missing(self, call: CallId, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of `[start, stop)` of an open call that have no outcome."""
        opened = self._calls.get(call)
        return [] if opened is None else opened.ended.missing(start, stop)

    def forget_line(self, call: CallId) -> None:
        """The call got no line, or needs it no more."""
        self._lines.pop(call, None)

    def cancel_line(self, call: CallId, reached: int) -> None:
        """End the input of a line that its client waits for, and the line."""
        if self._online:
            self._say(messages.CancelCall(call, reached=reached))

    def drop_object(self, digest: Digest) -> None:
        """Take an object back, unless an open call still needs it."""
        if not any(digest in opened.said.needs for opened in self._calls.values()):
            self._told.drop(digest)

    def attach(self, call: CallId, receiver: Receiver, items: bool = False) -> None:  # noqa: FBT001, FBT002  posted
        """Tell `receiver` the outcomes of a spawned call, those known and those to come.

        With `items` what its generator gives too, from the first item on. Other receivers of the
        call hear again what they have heard.
        """
        self._attached_to.setdefault(call, []).append(receiver)
        if items:
            self._readings.begin(call, receiver)
        if self._online and call not in self._calls:
            self._say_attach(call)

    def detach(self, call: CallId, receiver: Receiver) -> None:
        """Tell `receiver` nothing more."""
        receivers = self._attached_to.get(call, [])
        if receiver in receivers:
            receivers.remove(receiver)
        if not receivers:
            self._attached_to.pop(call, None)
        if self._readings.end(call, receiver) and self._online and call not in self._calls:
            self._say_attach(call)  # without items from now on

    def credit(self, call: CallId, items: int, item_bytes: int) -> None:
        """So much of what the generator of an open call gave has been taken, in all."""
        if self._online and call in self._calls:
            self._say(messages.Credit(call, 0, items, item_bytes))

    def ask(
        self,
        message: messages.Ask | messages.ConfigurePool | messages.Deploy,
        answer: Callable[[messages.Reply, list[bytes]], None],
        package: Package | None = None,
    ) -> None:
        """Ask; `answer` gets the reply. The function in `package` is made known before."""
        question = _Question(message, package, answer)
        self._questions[message.request] = question
        if self._online:
            self._say_question(question)

    def shelving(self) -> Shelving:
        """Return what is asked of dicts and queues."""
        if self._shelving is None:
            from notebook_ext.shelving import Shelving  # noqa: PLC0415  where any are used

            self._shelving = Shelving(self._say_if_online)
        return self._shelving

    def tell(self, message: messages.Blocked | messages.Resumed) -> None:
        """Say that an input of this worker begins or ends to wait for calls."""
        if isinstance(message, messages.Blocked):
            self._blocked[message.parent] = message
        else:
            self._blocked.pop(message.parent, None)
        if self._online:
            self._say(message)

    # ---- what the broker says -------------------------------------------------------------------

    def receive(self, message: messages.ToClient, frames: list[bytes]) -> None:
        """Take an answer (but `Welcome`, `Refused` and `Bye`) and its payload frames."""
        match message:
            case messages.Results():
                self._succeeded(message, frames)
                self._wait_on(message.call)
            case messages.Failure():
                self._ended(message, frames)
                self._wait_on(message.call)
            case messages.Items():
                self._yielded(message, frames)
                self._wait_on(message.call)
            case messages.LineEnded(call=call):
                line = self._lines.pop(call, None)
                if line is not None:
                    line.over()
            case messages.Replaying(call=call, number=number):
                self._readings.replaying(call, number)
            case messages.Output():
                self._wrote(message, frames)
            case messages.CallProgress():
                self._progressed(message)
            case messages.ConsoleOffered():
                self._offered(message)
            case messages.ConsoleSaid() | messages.ConsoleClosed():
                self.dropped_messages += 1  # who takes a console has a connection of its own
            case messages.Accepted():
                self._accepted(message.call)
            case messages.CancelConfirmed():
                self._cancels.pop(message.call, None)
            case messages.Rejected():
                self._rejected(message)
            case messages.Reply():
                question = self._questions.pop(message.request, None)
                if question is not None:
                    question.answer(message, frames)
                elif self._shelving is None or not self._shelving.answered(message, frames):
                    self.dropped_messages += 1
            case messages.Parked(request=request):
                if self._shelving is None or not self._shelving.parked(request):
                    self.dropped_messages += 1
            case messages.Welcome() | messages.Refused() | messages.Bye():
                self.dropped_messages += 1
            case _:
                assert_never(message)

    def _succeeded(self, message: messages.Results, frames: list[bytes]) -> None:
        opened = self._calls.get(message.call)
        if opened is None or not opened.said.attached:
            for receiver in self._ending(message.call):
                receiver.succeeded(
                    message.start, message.count, message.start - message.first, frames
                )
            return
        news = [
            (low, high - low, message.start - message.first + offset + low - start)
            for offset, start, count in self._ours(opened, message.start, message.count)
            for low, high in opened.end(start, count)
        ]
        self._let_go(opened)
        for low, count, position in news:  # last: whoever waits for it runs on
            opened.said.receiver.succeeded(low, count, position, frames)

    def _yielded(self, message: messages.Items, frames: list[bytes]) -> None:
        opened = self._calls.get(message.call)
        if opened is None or not opened.said.attached:
            readers = self._readings.of(message.call)
            self.dropped_messages += not readers
            for receiver in readers:
                receiver.yielded(message.start, message.count, frames)
        elif message.start == opened.items:
            opened.items += message.count
            opened.said.receiver.yielded(message.start, message.count, frames)
        else:
            self.dropped_messages += 1

    def _ended(self, message: messages.Failure, frames: list[bytes]) -> None:
        exception = frames[0] if frames else None
        opened = self._calls.get(message.call)
        if opened is None or not opened.said.attached:
            end = Ended(
                message.index,
                message.count,
                message.outcome,
                message.attempt,
                message.message,
                exception,
            )
            for receiver in self._ending(message.call):
                receiver.ended(end)
            return
        for _, start, count in self._ours(opened, message.index, message.count):
            batch = opened.batch_at(start)
            inputs = batch.frames if batch is not None else ()
            for low, high in opened.end(start, count):
                end = Ended(
                    low,
                    high - low,
                    message.outcome,
                    message.attempt,
                    message.message,
                    exception,
                    inputs,
                    low - batch.start if batch is not None else 0,
                    opened.said,
                )
                opened.said.receiver.ended(end)
        self._let_go(opened)

    def _wrote(self, message: messages.Output, frames: list[bytes]) -> None:
        opened = self._calls.get(message.call)
        if opened is None:
            receivers = self._watching(message.call)
            index = message.index
        else:
            receivers = [opened.said.receiver]
            index = next((ours for _, ours, _ in self._ours(opened, message.index, 1)), 0)
        for receiver in receivers:
            text = frames[0] if frames else b""
            receiver.wrote(index, message.stream, text, message.withheld)

    def _progressed(self, message: messages.CallProgress) -> None:
        opened = self._calls.get(message.call)
        if opened is None:
            for receiver in self._watching(message.call):
                receiver.progressed(message)
            return
        started = tuple(
            part
            for low, high in message.started
            for _, ours, count in self._ours(opened, low, high - low)
            for part in opened.ended.missing(ours, ours + count)
        )
        if started != message.started:
            message = msgspec.structs.replace(message, started=started)
        opened.said.receiver.progressed(message)

    def _offered(self, message: messages.ConsoleOffered) -> None:
        """Have whoever waits for a call look at a breakpoint in it."""
        opened = self._calls.get(message.call)
        receiver = self._lines.get(message.call) if opened is None else opened.said.receiver
        act = partial(self.look, message.worker)
        if receiver is None or not receiver.offered(act):
            text = "its call is awaited in a loop, or nobody waits for it any more"
            self._say(messages.ConsoleRefused(message.worker, text))

    def _accepted(self, call: CallId) -> None:
        opened = self._calls.get(call)
        if opened is None or opened.said.attached:
            self.dropped_messages += 1
            return
        del self._calls[call]
        if call in self._attached_to:
            self._say_attach(call)
        opened.said.receiver.accepted()

    def _rejected(self, message: messages.Rejected) -> None:
        opened = self._calls.pop(message.call, None)
        receivers = self._attached_to.pop(message.call, [])
        self._readings.forget(message.call)
        if opened is not None:
            receivers = [opened.said.receiver, *receivers]
        for receiver in receivers:
            receiver.rejected(message.error, message.message)

    def _ending(self, call: CallId) -> list[Receiver]:
        """Return who hears of an outcome: nobody who has yet to hear the items before it."""
        found = [one for one in self._receivers(call) if not self._readings.waits(call, one)]
        for receiver in self._readings.of(call):
            self._readings.end(call, receiver)
        return found

    def _watching(self, call: CallId) -> list[Receiver]:
        """Return who shows what a call says: a reader only where nobody else does."""
        receivers = self._receivers(call)
        others = [one for one in receivers if not self._readings.is_reader(call, one)]
        return others or receivers[:1]

    def _receivers(self, call: CallId) -> list[Receiver]:
        receivers = self._attached_to.get(call)
        if receivers is None and call in self._lines:
            return [self._lines[call]]
        if receivers is None:
            self.dropped_messages += 1
            return []
        return list(receivers)

    def _ours(self, opened: OpenCall, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Translate the broker's numbers into ours: `(offset, start, count)` per run."""
        if opened.wire is not None:
            yield from opened.wire.pieces(start, count)
        elif count > 0 and 0 <= start <= start + count <= opened.added:
            yield 0, start, count
        else:
            self.dropped_messages += 1

    def _wait_on(self, call: CallId) -> None:
        """Say again who waits for `call`: any outcome unblocks them at the broker.

        They may wait for another one (the next in order, the last of several), and what they wait
        for may need the slot that they were given back. Whoever does run on says so after this.
        """
        if not self._blocked:
            return
        is_open = call in self._calls or call in self._attached_to
        for blocked in self._blocked.values():
            if call in blocked.calls and (is_open or len(blocked.calls) > 1):
                self._say(blocked)

    def _let_go(self, opened: OpenCall) -> None:
        if opened.finished:
            self._calls.pop(opened.said.call, None)

    def _end_here(self, opened: OpenCall) -> None:
        """Answer every input of a call that no broker will hear of as cancelled."""
        self._end_as(opened, Outcome.CANCELLED, "The call was cancelled.")

    def _end_as(self, opened: OpenCall, outcome: Outcome, text: str) -> None:
        for low, high in opened.ended.missing(0, opened.added):
            opened.end(low, high - low)
            opened.said.receiver.ended(Ended(low, high - low, outcome, 0, text, None))
        opened.total = opened.added
        self._let_go(opened)

    # ---- saying it ------------------------------------------------------------------------------

    def _say(self, message: messages.ToBroker, frames: Sequence[Frame] = ()) -> None:
        if frames and self.seal is not None:
            frames = self.seal(message, frames)
        self._out.append([encode(message), *frames])

    def _say_if_online(self, message: messages.ToBroker, frames: Sequence[Frame]) -> None:
        if self._online:
            self._out.append([encode(message), *frames])

    def _say_submit(
        self, opened: OpenCall, count: int, frames: Sequence[Frame], *, closed: bool
    ) -> None:
        said = opened.said
        package = said.package
        self._ensure(package)
        requires, pools = package.requires, package.pools
        for companion in list(said.companions.values()):  # a map's thread may add to them
            self._ensure(companion)
            requires += (companion.table, *companion.requires)
            pools += companion.pools
        for digest, data in said.objects.items():
            self._told.store(digest, data)
        message = messages.Submit(
            call=said.call,
            pool=package.spec.pool,
            attached=said.attached,
            count=count,
            closed=closed,
            snapshot=package.snapshot,
            table=package.table,
            shared=said.shared,
            context=said.context,
            parent=said.parent,
            requires=requires,
            pools=pools,
            streams=said.streams,
            parts=said.parts,
            line=said.line,
            deaths=said.deaths,
        )
        self._say(message, frames)

    def _say_attach(self, call: CallId) -> None:
        self._say(messages.AttachCall(call, self._readings.number(call)))

    def _say_question(self, question: _Question) -> None:
        package = question.package
        if package is not None and isinstance(question.message, messages.Deploy):
            for digest, data in package.objects.items():
                self._told.store(digest, data)
        elif package is not None:
            self._ensure(package)
        self._say(question.message)

    def _ensure(self, package: Package) -> None:
        """Make the function known, where it is not."""
        if self._told.knows(package):
            return
        self._told.tell(package)
        if self._told.is_much:
            open_calls = [opened.said for opened in self._calls.values()]
            in_use = [package.objects, *(said.package.objects for said in open_calls)]
            for said in open_calls:
                in_use += [companion.objects for companion in list(said.companions.values())]
            self._told.take_back([*in_use, *(said.objects for said in open_calls), self.kept])

    # ---- saying it again ------------------------------------------------------------------------

    def _say_everything(self) -> None:
        for opened in list(self._calls.values()):
            if opened.cancelled and opened.said.attached:
                self._end_here(opened)
            elif opened.items:
                self._end_as(opened, Outcome.LOST, _cut_short(opened))
            elif opened.said.attached and not opened.said.package.spec.rerun_on_crash:
                self._say_once(opened)
            else:
                self._say_again(opened)
        for call, terminate in self._cancels.items():
            if call not in self._calls:
                self._say(messages.CancelCall(call, terminate))
        for call in self._attached_to:
            if call not in self._calls:
                self._say_attach(call)
        for question in self._questions.values():
            self._say_question(question)
        if self._shelving is not None:
            self._shelving.begin()
        for blocked in self._blocked.values():
            self._say(blocked)

    def _say_once(self, opened: OpenCall) -> None:
        """Submit what no broker has heard of: what one had may have run, and must not run twice."""
        for low, high in opened.ended.missing(0, opened.told):
            opened.end(low, high - low)
            for index in range(low, high):
                text = _may_have_run(opened, index)
                opened.said.receiver.ended(Ended(index, 1, Outcome.LOST, 1, text, None))
        if not opened.finished:
            self._say_again(opened)
        self._let_go(opened)

    def _say_again(self, opened: OpenCall) -> None:
        """Submit what has no outcome, numbered anew where that is not all."""
        parts = [
            (low, high)
            for batch in opened.batches
            for low, high in opened.ended.missing(batch.start, batch.start + batch.count)
        ]
        opened.wire = None if opened.left == opened.added else Renumbering()
        closed = opened.total is not None
        first = parts.pop(0) if parts else (0, 0)
        single = closed and not parts
        count = first[1] - first[0]
        if opened.wire is not None and count:
            opened.wire.append(first[0], count)
        self._say_submit(opened, count, self._inputs(opened, *first), closed=single)
        for low, high in parts:
            start = low if opened.wire is None else opened.wire.append(low, high - low)
            message = messages.AddInputs(opened.said.call, start, high - low)
            self._say(message, self._inputs(opened, low, high))
        if closed and not single:
            self._say(messages.CloseInputs(opened.said.call, self._wire_count(opened)))
        if opened.paused:
            self._say(messages.PauseCall(opened.said.call))
        if opened.cancelled:
            self._say(messages.CancelCall(opened.said.call, opened.terminate))

    def _inputs(self, opened: OpenCall, low: int, high: int) -> Sequence[Frame]:
        """Return the batch of `[low, high)`, which lies within one batch that is kept."""
        batch = opened.batch_at(low)
        if batch is None:
            return ()
        if high - low == batch.count:
            return batch.frames
        return self._cut(batch.frames, low - batch.start, high - batch.start)

    def _wire_count(self, opened: OpenCall) -> int:
        return opened.added if opened.wire is None else opened.wire.count


def _look_away(_worker: WorkerId, _can: bool) -> None:  # noqa: FBT001  an offer
    """What nobody has said how to look at."""


def _cut_short(opened: OpenCall) -> str:
    return (
        f"{opened.said.package.spec.name} {had_given(opened.items)} when the broker died; a "
        "generator runs again only where it has given none"
    )


def _may_have_run(opened: OpenCall, index: int) -> str:
    return (
        f"input {index} of {opened.said.package.spec.name}: the broker died while it had it, and "
        "rerun_on_crash=False says that it must not run twice"
    )


def encode_body(value: object) -> msgspec.Raw:
    """Return the body of a `Reply`."""
    return msgspec.Raw(msgspec.msgpack.encode(value))
