"""Dicts and queues: acts are checked here, done in the journal, and answered when that is written.

Theory. An act is a step of this turn's transaction (`journal/shelves.py`); its answer goes out when
the turn is on the disk. Who finds a queue empty, or full, waits here in a line (`core/turns.py`)
and tries again when somebody has put something in, or taken something out: his try stands behind
that in the same transaction. Whoever asks for something and dies before he has said that he has it
leaves it where it was.

After a restart the clients of the broker before come back and say again what they still wait for.
Those that do not within `GRACE_SECONDS` are gone.

Nothing of this exists before the first act: no table, no timer, no import.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kernel_worker import shelf as words
from kernel_worker.broker.bounds import check_numbers, check_position
from kernel_worker.core.turns import Turns
from kernel_worker.errors import ProtocolError
from kernel_worker.model import ClientId
from kernel_worker.shelf import Add, Answer, Await, Clear, Put, Remove, Take, Waits
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.broker.commit import Commit
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client
    from kernel_worker.journal.shelves import Shelves as Kept
    from kernel_worker.journal.store import Step

Frame = bytes | memoryview
Who = tuple[ClientId, int]

GRACE_SECONDS: Final = 30.0
_MANY: Final = 1_000_000
_TIMER: Final = "shelves"


class Shelves:
    """What clients ask of dicts and queues."""

    def __init__(self, broker: Broker, commit: Commit, grace_seconds: float) -> None:
        """Serve `broker`; what is written goes by `commit`.

        Clients of the broker before have `grace_seconds` to come back, and `GRACE_SECONDS` at most.
        """
        self._broker = broker
        self._grace_seconds = min(grace_seconds, GRACE_SECONDS)
        self._commit = commit
        self._turns: Turns[Who] = Turns()
        self._waiting: dict[Who, tuple[Waits, Sequence[Frame]]] = {}
        self._parked: set[Who] = set()
        """Those who have been told that they wait."""
        self._steps: deque[tuple[int, Step, Callable[[Any], None]]] = deque()
        self._users: set[ClientId] = set()
        self._step(lambda kept: kept.clients(), self._expect_back)

    # ---- what clients say -----------------------------------------------------------------------

    def use(self, client: Client, said: messages.UseShelf, frames: Sequence[Frame]) -> None:
        """Do an act, and answer when that is written; or at once why it cannot be one.

        Raises:
            ProtocolError: a number in it is none that a client may say.
        """
        check_numbers(said)
        _check_requests(said.received)
        act, who = said.act, (client.id, said.request)
        try:
            _check(act, frames)
        except ProtocolError as error:  # an answer: whoever asks waits for one
            self._answer(who, Answer(str(error), error="InvalidError"))
            return
        self._users.add(client.id)
        if said.received:
            self._step(lambda kept: kept.received(client.id, said.received))
        if who in self._turns:
            return  # it is said again, and waits
        if not isinstance(act, Waits) or act.patience_seconds == 0.0:
            self._do(who, act, frames, lambda answer: self._done(who, act, answer))
            self._supply_by(act, frames)
            return
        until = None if act.patience_seconds is None else self._now() + act.patience_seconds
        self._waiting[who] = act, frames
        if self._turns.join(_place(act), who, until):
            self._try([who])
            self._supply_by(act, frames)
        else:
            self._park(who)

    def hear(self, client: Client, said: messages.ShelfWord) -> None:
        """Note what a client has, or does not want any more.

        Raises:
            ProtocolError: no client may say that.
        """
        for numbers in (said.received, said.returned, said.withdrawn, said.asks or ()):
            _check_requests(numbers)
        self._users.add(client.id)
        if said.received:
            self._step(lambda kept: kept.received(client.id, said.received))
        if said.returned:
            self._step(lambda kept: kept.returned(client.id, said.returned), self._supply_items)
        asks = said.asks
        if asks is not None:
            self._step(lambda kept: kept.still_asks(client.id, asks))
        for request in said.withdrawn:
            who = (client.id, request)
            if self._turns.withdraw(who):
                self._let_go(who, Answer("nobody waits", error=words.WITHDRAWN))

    def client_gone(self, client: ClientId) -> None:
        """End what ends with a client that is gone for good."""
        if client not in self._users:
            return
        self._users.discard(client)
        self._try(self._turns.leave(lambda who: who[0] == client))
        for who in [each for each in self._waiting if each[0] == client]:
            del self._waiting[who]
            self._parked.discard(who)
        self._step(lambda kept: kept.gone(client), self._gone)

    def committed(self, token: int) -> None:
        """Answer what was waiting for this token, or an earlier one."""
        while self._steps and self._steps[0][0] <= token:
            _, step, then = self._steps.popleft()
            then(step.found)

    # ---- steps ----------------------------------------------------------------------------------

    def _step(
        self, act: Callable[[Kept], Any], then: Callable[[Any], None] = lambda _: None
    ) -> None:
        token, step = self._commit.step(act)
        self._steps.append((token, step, then))

    def _do(
        self, who: Who, act: words.Act, frames: Sequence[Frame], then: Callable[[Answer], None]
    ) -> None:
        client, request = who
        now = self._now()
        self._step(lambda kept: kept.do(act, frames, client, request, now), then)

    def _supply_by(self, act: words.Act, frames: Sequence[Frame]) -> None:
        """Have those try who wait for what an act does: behind it, in the same transaction."""
        match act:
            case Add(shelf=shelf, partition=partition):
                self._supply("take", shelf.name, partition, len(frames))
                self._supply("await", shelf.name, partition, _MANY)
            case Clear(shelf=shelf) | Remove(shelf=shelf):
                self._make_room(shelf.name, _MANY)
            case Take(shelf=shelf, count=count):
                self._make_room(shelf.name, count)
            case _:
                pass

    def _done(self, who: Who, act: words.Act, answer: Answer) -> None:
        if isinstance(act, Remove):
            self._everybody_tries(act.shelf.name)
        self._answer(who, answer)

    # ---- those who wait -------------------------------------------------------------------------

    def _try(self, chosen: Sequence[Who]) -> None:
        for who in chosen:
            act, frames = self._waiting[who]
            self._do(who, act, frames, lambda answer, who=who: self._tried(who, answer))  # type: ignore[misc]

    def _tried(self, who: Who, answer: Answer) -> None:
        if who not in self._turns:
            return  # gone
        if answer.error not in {words.EMPTY, words.FULL}:
            act, frames = self._waiting[who]
            self._end(who, answer, self._turns.satisfied(who))
            self._supply_by(act, frames)
            if isinstance(act, Add):  # there may be room for the next one too
                self._supply("add", act.shelf.name, act.partition, 1)
            return
        verdict, others = self._turns.in_vain(who, self._now())
        if verdict == "again":
            self._try([who])
        elif verdict == "waits":
            self._park(who)
        elif verdict == "late":
            self._end(who, answer, others)
        else:
            self._end(who, Answer("nobody waits", error=words.WITHDRAWN), others)

    def _park(self, who: Who) -> None:
        if who not in self._parked:
            self._parked.add(who)
            self._send(who, messages.Parked(who[1]))
        self._set_timer()

    def _end(self, who: Who, answer: Answer, others: Sequence[Who]) -> None:
        self._let_go(who, answer)
        self._try(others)

    def _on_time(self) -> None:
        for who in self._turns.late(self._now()):
            act, _ = self._waiting[who]
            error = words.FULL if isinstance(act, Add) else words.EMPTY
            self._let_go(who, Answer("it took too long", error=error))
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self._turns.next_deadline()
        if deadline is not None:
            self._broker.timers.set_if_earlier(_TIMER, deadline, self._on_time)

    def _supply(self, what: str, name: str, partition: bytes, count: int) -> None:
        self._try(self._turns.supply((what, name, partition), count))

    def _supply_items(self, places: Sequence[tuple[str, bytes, int]]) -> None:
        for name, partition, count in places:
            self._supply("take", name, partition, count)
            self._supply("await", name, partition, _MANY)

    def _gone(self, found: tuple[Sequence[tuple[str, bytes, int]], Sequence[str]]) -> None:
        """Have those try for whom a client that is gone has left something, or nothing any more."""
        places, ended = found
        self._supply_items(places)
        for name in ended:
            self._everybody_tries(name)

    def _make_room(self, name: str, count: int) -> None:
        """Have those try who wait for room in any partition: all share what a queue may hold."""
        for place in self._turns.places:
            match place:
                case ("add", str(queue), bytes(partition)) if queue == name:
                    self._supply("add", queue, partition, count)
                case _:
                    pass

    def _everybody_tries(self, name: str) -> None:
        for place in self._turns.places:
            match place:
                case (str(what), str(queue), bytes(partition)) if queue == name:
                    self._supply(what, queue, partition, _MANY)
                case _:
                    pass

    # ---- clients --------------------------------------------------------------------------------

    def _expect_back(self, clients: set[str]) -> None:
        """Give those who used another broker's shelves time to come back."""
        strangers = clients - self._users
        if strangers:
            at = self._now() + self._grace_seconds

            def end_absent() -> None:
                for client in map(ClientId, strangers):
                    if client not in self._broker.peers.clients:
                        self._users.add(client)
                        self.client_gone(client)

            self._broker.timers.set((_TIMER, "absent"), at, end_absent)

    def _let_go(self, who: Who, answer: Answer) -> None:
        """Answer somebody who waits no more."""
        del self._waiting[who]
        self._parked.discard(who)
        self._answer(who, answer)

    def _answer(self, who: Who, answer: Answer) -> None:
        body = msgspec.Raw(msgspec.msgpack.encode(answer.body))
        self._send(who, messages.Reply(who[1], body, answer.error), answer.frames)

    def _send(
        self, who: Who, message: messages.Reply | messages.Parked, frames: Sequence[Frame] = ()
    ) -> None:
        client = self._broker.peers.clients.get(who[0])
        if client is not None:
            self._broker.send(client.routing, messages.encode(message), frames)

    def _now(self) -> float:
        return self._broker.now()


def _place(act: Waits) -> tuple[str, str, bytes]:
    return str(act.__struct_config__.tag), act.shelf.name, act.partition


# ---- checks -------------------------------------------------------------------------------------


def _check_requests(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        check_position(number)


def _check(act: words.Act, frames: Sequence[Frame]) -> None:
    """Look whether an act is within what everybody keeps to, and its frames are what it says.

    Raises:
        ProtocolError: it is not.
    """
    shelf = None if isinstance(act, words.List) else act.shelf
    if shelf is not None and not 0 < len(shelf.name) <= words.NAME_CHARACTERS:
        _refuse(f"a shelf is named {shelf.name[:99]!r}")
    if len(getattr(act, "partition", b"")) > words.PARTITION_BYTES:
        _refuse("the name of a partition is too long")
    if isinstance(act, Put):
        _check_entries(act, frames)
    elif isinstance(act, Add):
        _check_items(act, frames)
    elif frames:
        _refuse(f"{len(frames)} frames beside {type(act).__name__}")
    if isinstance(act, Take) and not 0 < act.count <= words.ACT_FRAMES:
        _refuse(f"{act.count} items are asked for")
    kind = "queue" if isinstance(act, Add | Take | Await) else "dict"
    if isinstance(act, Add | Take | Await | Put | words.Get | words.Pop | words.Has) and (
        act.shelf.kind != kind
    ):
        _refuse(f"{type(act).__name__} of a {act.shelf.kind}")


def _check_entries(act: Put, frames: Sequence[Frame]) -> None:
    if len(frames) != 2 * len(act.tokens) or len(frames) > words.ACT_FRAMES:
        _refuse(f"{len(frames)} frames of {len(act.tokens)} entries")
    if any(len(token) != words.TOKEN_BYTES for token in act.tokens):
        _refuse("a key has a token of another length")
    if any(len(key) > words.KEY_BYTES + words.SEAL_BYTES for key in frames[::2]):
        _refuse("a key is too large")
    _check_sizes(frames[1::2])


def _check_items(act: Add, frames: Sequence[Frame]) -> None:
    if not 0 < len(frames) <= words.ACT_FRAMES:
        _refuse(f"{len(frames)} items are put")
    if act.ttl_seconds is not None and act.ttl_seconds > words.LONGEST_TTL_SECONDS:
        _refuse(f"a partition is to be kept for {act.ttl_seconds} s")
    _check_sizes(frames)


def _check_sizes(frames: Sequence[Frame]) -> None:
    if any(len(frame) > words.VALUE_BYTES + words.SEAL_BYTES for frame in frames):
        _refuse("a value is too large")


def _refuse(why: str) -> None:
    raise ProtocolError(why)
