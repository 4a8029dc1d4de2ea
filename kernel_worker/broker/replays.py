"""Outcomes of spawned calls for those who attach: first what the journal holds, then what comes.

No gap and no repetition: the journal reads in turn with its writes, and a listener is added in the
order of its completions, so that an outcome is either in what was read or reported afterwards. A
client that attaches again hears everything again, from then on only that: what was being read for
it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_worker import records
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client
    from kernel_worker.journal.store import StoredFact
    from kernel_worker.journal.thread import Outcomes
    from kernel_worker.model import CallId, ClientId


_Told = messages.Results | messages.Failure | messages.Items


@dataclass(frozen=True, slots=True, eq=False)
class _Wish:
    """What a client asked for last about a call."""

    client: Client
    call: CallId
    items: bool


class Replays:
    """The attachments that wait for the journal."""

    def __init__(self, broker: Broker) -> None:
        """Serve `broker`."""
        self._broker = broker
        self._wanted: dict[int, _Wish] = {}
        self._last: dict[tuple[ClientId, CallId], _Wish] = {}
        self._count = 0

    def attach(self, client: Client, call_id: CallId, *, items: int = 0) -> None:
        """Tell `client` every outcome of the call, or that there is no such call."""
        broker = self._broker
        call = broker.calls.get(call_id)
        if call is not None and not call.attached:
            for listeners in (call.listeners, call.item_listeners):
                if client.id in listeners:
                    listeners.remove(client.id)
        elif call_id not in broker.ended_calls:
            text = f"nobody knows the call {call_id}"
            self._reject(client, call_id, "NotFoundError", text)
            return
        elif broker.ended_calls[call_id]:
            text = f"the results of {call_id} were kept for their time to live and are gone"
            self._reject(client, call_id, "OutputExpiredError", text)
            return
        if items:
            broker.send(client.routing, messages.encode(messages.Replaying(call_id, items)))
        wish = self._last[client.id, call_id] = _Wish(client, call_id, bool(items))
        self._read(wish, 0)

    def on_outcomes(self, outcomes: Outcomes) -> None:
        """Pass on what the journal read."""
        wish = self._wanted.pop(outcomes.request)
        client, call_id = wish.client, wish.call
        if self._last.get((client.id, call_id)) is not wish:
            return
        if self._broker.peers.clients.get(client.id) is not client:
            del self._last[client.id, call_id]
            return
        for fact in outcomes.facts:
            self._tell(client, fact)
        if not outcomes.last:
            self._read(wish, outcomes.facts[-1].position)
            return
        del self._last[client.id, call_id]
        call = self._broker.calls.get(call_id)
        if call is None:
            return
        if client.id not in call.listeners:
            call.listeners.append(client.id)
        if wish.items and client.id not in call.item_listeners:
            call.item_listeners.append(client.id)

    def _read(self, wish: _Wish, after: int) -> None:
        self._count += 1
        self._wanted[self._count] = wish
        self._broker.journal.read_outcomes(self._count, wish.call, after, items=wish.items)

    def _tell(self, client: Client, fact: StoredFact) -> None:
        match fact.record:
            case records.RangeSucceeded(call=call, start=start, stop=stop, first=first):
                message: _Told = messages.Results(call, start, stop - start, first)
            case records.InputEnded(call=call, index=index, count=count, outcome=outcome):
                attempt, text = fact.record.attempt, fact.record.message
                message = messages.Failure(call, index, count, outcome, attempt, text)
            case records.ItemsYielded(call=call, index=index, start=start, count=count):
                message = messages.Items(call, index, start, count)
            case _:
                return
        self._broker.send(client.routing, messages.encode(message), fact.frames)

    def _reject(self, client: Client, call: CallId, error: str, text: str) -> None:
        message = messages.Rejected(call, error, text)
        self._broker.send(client.routing, messages.encode(message))
