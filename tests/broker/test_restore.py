"""The tables of a new broker, from what an earlier one left in the journal."""

from __future__ import annotations

import signal

from kernel_worker import records
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.objects import ObjectStore
from kernel_worker.broker.restore import NOBODY, restore_tables
from kernel_worker.journal.store import StoredFact
from kernel_worker.model import CallId, Digest, Outcome, digest_of
from kernel_worker.wire import frames, messages, payload
from tests.broker.speaking import Client, Host, RunningBroker, Speaker
from tests.journal.facts import SPEC, submitted

CALL = CallId("fc-1")


def stored(*facts: records.Record) -> list[StoredFact]:
    batch = [bytes(part) for part in payload.encode_batch([([1],)] * 4, frames.FORM_ARGS)]
    return [
        StoredFact(at, fact, batch if isinstance(fact, records.InputsAdded) else [])
        for at, fact in enumerate(facts)
    ]


def test_calls_come_back_with_the_inputs_that_have_no_outcome() -> None:
    calls: dict[CallId, OpenCall] = {}
    facts = stored(
        submitted(CALL).record,
        records.InputsAdded(CALL, 0, 4),
        records.InputsAdded(CALL, 4, 4),
        records.InputsClosed(CALL, 8),
        records.RangeSucceeded(CALL, 0, 4, 0),
        records.AttemptFailed(CALL, 4, 1),
        records.InputEnded(CALL, 5, 1, Outcome.LOST, 3, ""),
    )
    pools = restore_tables(facts, ObjectStore(), calls)
    call = calls[CALL]
    assert pools == {SPEC.pool}
    assert (call.client, call.attached, call.listeners) == (NOBODY, False, [])
    assert len(call.batches) == 1
    assert call.batches.cut(4, 8)[0] == 4


def test_objects_belong_to_the_calls_and_pools_that_need_them() -> None:
    code = digest_of(b"code")
    objects = ObjectStore()
    objects.add(code, b"code", "the journal")
    record = submitted(CALL).record
    assert isinstance(record, records.CallSubmitted)
    needy = records.CallSubmitted(
        CALL,
        record.spec,
        Digest(""),
        Digest(""),
        Digest(""),
        record.context,
        requires=(code,),
        nested_specs=(),
        submitted_at=0.0,
    )
    restore_tables(stored(needy), objects, {})
    objects.forget("the journal")
    assert objects.get(code) == b"code"
    objects.forget(CALL)
    assert objects.get(code) is None


def test_what_ran_of_a_cancelled_call_has_ended_for_the_next_broker(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    call = client.submit([1, 2], attached=False)
    client.hear(messages.Accepted)
    host.start_worker().lease()
    client.say(messages.AttachCall(call))
    client.say(messages.CancelCall(call))
    assert client.hear(messages.Failure).index == 1, "the first one runs"
    broker.end(signal.SIGKILL)
    broker.start()
    again = Client(broker, "cl-2")
    speakers.append(again)
    again.say(messages.AttachCall(call))
    ends = [again.hear(messages.Failure) for _ in range(2)]
    assert {end.index: end.outcome for end in ends} == dict.fromkeys((0, 1), Outcome.CANCELLED)
    assert again.ask("status", "", messages.Status).calls == []
