"""Questions about calls that the core has forgotten: the journal answers, in its own time.

The core knows the calls that are open, the journal those that have ended. Between the two is a call
that *closes*: the core has forgotten it, and its last facts are on their way to the disk. Whoever
asks of one waits until they are there; nothing is ever missing from both.

A question reaches the journal behind the facts of its turn, and is answered behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel_worker.errors import Error, NotFoundError, OutputExpiredError
from kernel_worker.model import CallId, Outcome
from kernel_worker.traces import ROW_BYTES, CallTrace
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client
    from kernel_worker.journal.store import EndedCall, Store
    from kernel_worker.journal.thread import Found

FACTS_PER_LOOK = 20_000
"""So many records of a tree are read in one turn of the journal's thread."""
ROW_BYTES_PER_LOOK = FACTS_PER_LOOK * ROW_BYTES
LOG_BYTES_PER_LOOK = 4 * 1024 * 1024
MOST_CALLS = 10_000
"""So many are listed at most, whatever is asked for."""


class Lookups:
    """The questions that wait for the journal."""

    def __init__(self, broker: Broker) -> None:
        """Serve `broker`."""
        self._broker = broker
        self._waiting: dict[int, Callable[[Any], None]] = {}
        self._unasked: list[tuple[int, Callable[[Store], Any]]] = []
        self._count = 0

    @property
    def has_questions(self) -> bool:
        """Whether there is something to hand over to the journal."""
        return bool(self._unasked)

    def ask_journal(self) -> None:
        """Hand over the questions of this turn, whose facts the journal has by now."""
        unasked, self._unasked = self._unasked, []
        for number, look in unasked:
            self._broker.journal.look(number, look)

    def on_found(self, found: Found) -> None:
        """Pass on what the journal found."""
        self._waiting.pop(found.request)(found.found)

    def when_written(self, act: Callable[[], None]) -> None:
        """Call `act` when the facts of this turn, and of those before it, are on the disk."""
        self._look(_nothing, lambda _: act())

    def one(self, client: Client, ask: messages.Ask) -> None:
        """Say how a call stands."""
        call = CallId(ask.subject)
        view = self._broker.scheduler.call_info(call)
        if view is not None:
            self._reply(client, ask, _open(view))
        elif call in self._broker.ended_calls:
            self._look(
                lambda store: store.ended_call(call),
                lambda ended: self._tell_ended(client, ask, ended),
            )
        elif call in self._broker.calls:
            self._look(_nothing, lambda _: self.one(client, ask))
        else:
            self._fail(client, ask, NotFoundError(f"nobody knows the call {call}"))

    def _tell_ended(self, client: Client, ask: messages.Ask, ended: EndedCall | None) -> None:
        if ended is None:  # it was forgotten meanwhile
            self._fail(client, ask, NotFoundError(f"nobody knows the call {ask.subject}"))
        else:
            self._reply(client, ask, _ended(ended))

    def recent(self, client: Client, ask: messages.Ask) -> None:
        """List calls, the newest first."""
        wanted = ask.filter or messages.CallFilter()
        limit = max(0, min(wanted.limit, MOST_CALLS))
        here = [_open(view) for view in self._broker.scheduler.recent_calls()]
        here = [info for info in here if _matches(info, wanted)]

        def look(store: Store) -> list[messages.CallInfo]:
            found: list[messages.CallInfo] = []
            for ended in store.recent_calls(wanted.app):
                if len(found) == limit:
                    break
                info = _ended(ended)
                if _matches(info, wanted):
                    found.append(info)
            return found

        def tell(ended: list[messages.CallInfo]) -> None:
            seen = {info.call for info in ended}
            both = [*ended, *(info for info in here if info.call not in seen)]
            both.sort(key=lambda info: info.submitted_at, reverse=True)
            self._reply(client, ask, both[:limit])

        if self._is_any_closing():
            self._look(_nothing, lambda _: self._look(look, tell))
        else:
            self._look(look, tell)

    def graph(self, client: Client, ask: messages.Ask) -> None:
        """Tell everything that is known of the tree that a call belongs to."""
        call = CallId(ask.subject)
        root = self._broker.scheduler.root_of(call)
        if root is not None:
            self._graph_of(client, ask, root)
        else:
            self._look(
                lambda store: store.root_of(call),
                lambda found: self._graph_of(client, ask, found),
            )

    def _graph_of(self, client: Client, ask: messages.Ask, root: CallId | None) -> None:
        if root is None:
            text = f"nobody knows the call {ask.subject}, or a tree that it belongs to"
            self._fail(client, ask, NotFoundError(text))
            return
        here = [msgspec.Raw(each) for each in self._broker.scheduler.call_tree(root)]
        frames = [msgspec.msgpack.encode(here)]

        def begin(rows: list[Any]) -> None:
            calls = [messages.TreeCall(*row) for row in rows]
            if calls:
                read_on(calls, 0)
            else:
                self._reply(client, ask, messages.Graph(root, calls), frames)

        def read_on(calls: list[messages.TreeCall], after: int) -> None:
            self._look(
                lambda store: store.tree_facts(root, after, FACTS_PER_LOOK),
                lambda page: take(calls, *page),
            )

        def take(calls: list[messages.TreeCall], bodies: list[bytes], last: int) -> None:
            frames.append(msgspec.msgpack.encode([msgspec.Raw(body) for body in bodies]))
            if last:
                read_on(calls, last)
            else:
                self._reply(client, ask, messages.Graph(root, calls), frames)

        self._look(lambda store: store.tree(root), begin)

    def events(self, client: Client, ask: messages.Ask) -> None:
        """Tell what is new of one call."""
        call = CallId(ask.subject)
        view = self._broker.scheduler.call_info(call)
        part = self._broker.scheduler.call_trace(call, ask.after, ROW_BYTES_PER_LOOK)
        is_open = view is not None
        if part is not None and (view is None or view.attached):
            page = messages.EventPage(part.after, part.more, is_open, part.trace.submitted_at)
            self._reply(client, ask, page, _frames([part.trace], []))
            return
        if not (is_open or call in self._broker.ended_calls or call in self._broker.calls):
            self._fail(client, ask, NotFoundError(f"nobody knows the call {call}"))
            return

        def look(store: Store) -> tuple[list[bytes], int, bool, EndedCall | None]:
            facts = store.call_facts(call, ask.after, FACTS_PER_LOOK)
            return (*facts, store.ended_call(call))

        def tell(found: tuple[list[bytes], int, bool, EndedCall | None]) -> None:
            bodies, after, more, ended = found
            if ended is not None and ended.expired:
                text = f"what became of {call} was kept for its time to live and is gone"
                self._fail(client, ask, OutputExpiredError(text))
                return
            since = view.submitted_at if view is not None else ended.submitted_at if ended else 0.0
            page = messages.EventPage(after, more, is_open, since)
            self._reply(client, ask, page, _frames([part.trace] if part else [], bodies))

        self._look(look, tell)

    def logs(self, client: Client, ask: messages.Ask) -> None:
        """Tell a part of what a call has written."""
        call_id = CallId(ask.subject)
        call = self._broker.calls.get(call_id)
        if call is not None and call.attached:
            tail = [msgspec.msgpack.encode(list(call.tail))]
            self._reply(client, ask, messages.LogPage(0, more=False), tail)
        elif call is None and call_id not in self._broker.ended_calls:
            text = f"nobody knows the call {call_id}; of a call that was waited for, the output is "
            text += "known only while it runs"
            self._fail(client, ask, NotFoundError(text))
        elif self._broker.ended_calls.get(call_id):
            text = f"the output of {call_id} was kept for its time to live and is gone"
            self._fail(client, ask, OutputExpiredError(text))
        else:
            self._look(
                lambda store: store.logs(call_id, ask.after, LOG_BYTES_PER_LOOK),
                lambda found: self._tell_logs(client, ask, *found),
            )

    def _tell_logs(
        self,
        client: Client,
        ask: messages.Ask,
        bodies: list[bytes],
        after: int,
        more: bool,  # noqa: FBT001  a row
    ) -> None:
        self._reply(client, ask, messages.LogPage(after, more), bodies)

    def _is_any_closing(self) -> bool:
        knows = self._broker.scheduler.call_info
        return any(not c.attached and knows(c.call) is None for c in self._broker.calls.values())

    def _look(self, look: Callable[[Store], Any], tell: Callable[[Any], None]) -> None:
        self._count += 1
        self._waiting[self._count] = tell
        self._unasked.append((self._count, look))

    def _reply(
        self, client: Client, ask: messages.Ask, body: object, frames: Sequence[bytes] = ()
    ) -> None:
        packed = msgspec.Raw(msgspec.msgpack.encode(body))
        self._say(client, messages.Reply(ask.request, packed), frames)

    def _fail(self, client: Client, ask: messages.Ask, error: Error) -> None:
        packed = msgspec.Raw(msgspec.msgpack.encode(str(error)))
        self._say(client, messages.Reply(ask.request, packed, type(error).__name__))

    def _say(self, client: Client, reply: messages.Reply, frames: Sequence[bytes] = ()) -> None:
        if self._broker.peers.clients.get(client.id) is client:
            self._broker.send(client.routing, messages.encode(reply), frames)


def _frames(traces: list[CallTrace], bodies: list[bytes]) -> list[bytes]:
    """Return the frames of an `EventPage`."""
    raw = [msgspec.Raw(body) for body in bodies]
    return [msgspec.msgpack.encode(traces), msgspec.msgpack.encode(raw)]


def _nothing(_: Store) -> None:
    """Look for nothing: what was written before is on the disk then."""


def _matches(info: messages.CallInfo, wanted: messages.CallFilter) -> bool:
    if wanted.app and info.app != wanted.app:
        return False
    return info.status == wanted.status if wanted.status else not info.expired


def _open(view: object) -> messages.CallInfo:
    return msgspec.convert(view, messages.CallInfo, from_attributes=True)


def _ended(call: EndedCall) -> messages.CallInfo:
    tally = call.tally or (0,) * len(Outcome)
    return messages.CallInfo(
        call=call.call,
        name=call.name,
        attached=False,
        closed=True,
        total=sum(tally),
        pending=0,
        running=0,
        succeeded=tally[Outcome.SUCCEEDED],
        failed=sum(tally) - tally[Outcome.SUCCEEDED] - tally[Outcome.CANCELLED],
        cancelled=tally[Outcome.CANCELLED],
        app=call.app,
        submitted_at=call.submitted_at,
        timed_out=tally[Outcome.TIMED_OUT],
        init_failed=tally[Outcome.INIT_FAILED],
        ended_at=call.ended_at,
        expired=call.expired,
    )
