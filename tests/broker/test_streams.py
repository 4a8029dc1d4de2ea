"""Credit of generators: totals that only grow, forwarded to the worker or given by the journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.broker import streams
from kernel_worker.broker.calls import OpenCall, Producer
from kernel_worker.core import effects
from kernel_worker.model import CallId, ClientId, LeaseId, WorkerId
from kernel_worker.wire import messages, payload, sealing
from kernel_worker.wire.frames import FORM_VALUE, Frame, whole_header
from tests.broker.speaking import Client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.broker.speaking import Host, RunningBroker, Speaker

CALL = CallId("fc-1")
WORKER = WorkerId("ta-1")


def opened(*, attached: bool) -> OpenCall:
    return OpenCall(CALL, ClientId("cl-1"), attached, 0.0, streams=True)


def begun(call: OpenCall, lease: int = 3) -> Producer:
    streams.begin(call, effects.GrantLease(WORKER, LeaseId(lease), CALL, 0, 1, 1), is_far=False)
    assert call.producer is not None
    return call.producer


def written(call: OpenCall, start: int, count: int, size: int = 8) -> messages.Credit | None:
    batch = [whole_header(FORM_VALUE, count), b"x" * (size - 8)]
    return streams.written(call, effects.ReportItems(CALL, 0, start, count), batch)


def test_a_reader_allows_less_than_the_disk() -> None:
    grant = effects.GrantLease(WORKER, LeaseId(1), CALL, 0, 1, 1)
    attached = streams.begin(opened(attached=True), grant, is_far=False)
    spawned = streams.begin(opened(attached=False), grant, is_far=False)
    assert (attached.items, attached.item_bytes, attached.total_bytes) == (64, 16 << 20, 0)
    assert spawned.items > attached.items
    assert spawned.total_bytes


def test_credit_only_grows() -> None:
    producer = begun(opened(attached=True))
    assert streams.take(producer, 10, 100)
    assert not streams.take(producer, 10, 100)
    assert not streams.take(producer, 5, 50)
    assert streams.take(producer, 5, 200)
    assert streams.credit(CALL, producer) == messages.Credit(CALL, 0, 10, 200, LeaseId(3))


def test_the_journal_credits_a_spawned_generator_now_and_then() -> None:
    call = opened(attached=False)
    assert written(call, 0, 1) is None  # nobody runs it: it came back from the journal
    begun(call)
    assert written(call, 0, 1, 100) is None
    size = streams.SPAWNED.item_bytes // 8
    assert written(call, 1, 1, size) == messages.Credit(CALL, 0, 2, size + 100, LeaseId(3))
    batch = sealing.Key(bytes(32)).seal_batch(values("a", "b"), "", 2)
    sealed = [bytes(frame) for frame in batch]
    assert call.producer is not None
    before = call.producer.written_bytes
    assert streams.written(call, effects.ReportItems(CALL, 0, 2, 0), sealed) is None
    assert call.producer.written_bytes - before == sum(map(len, values("a", "b"))), "as in clear"
    many = streams.SPAWNED.items // 8
    assert written(call, 2, many) is None
    credit = written(call, 2 + many, 1)
    assert credit is not None
    assert credit.items == 3 + many


def test_the_journal_credits_no_attached_generator() -> None:
    call = opened(attached=True)
    begun(call)
    assert written(call, 0, 1, streams.SPAWNED.item_bytes) is None


def test_items_and_credit_pass_the_broker(client: Client, host: Host) -> None:
    client.define()
    client.submit([1], streams=True)
    worker = host.start_worker()
    lease = worker.lease().message
    assert lease.streams == streams.ATTACHED
    worker.say(messages.Yielded(lease.lease, 0, 0, 2), values("a", "b"))
    heard = client.listen()
    assert heard.message == messages.Items(CALL, 0, 0, 2)
    assert heard.values == ["a", "b"]
    client.say(messages.Credit(CALL, 0, 2, 10))
    client.say(messages.Credit(CALL, 0, 2, 10))
    client.say(messages.Credit(CallId("fc-none"), 0, 2, 10))
    assert worker.listen().message == messages.Credit(CALL, 0, 2, 10, lease.lease)
    # One that waits gives its slot up, unless credit is on its way.
    worker.say(messages.Paused(lease.lease, CALL, 0, 0))
    worker.say(messages.Paused(LeaseId(99), CALL, 0, 2))
    worker.say(messages.Yielded(lease.lease, 0, 2, 1), values("c"))
    assert client.hear(messages.Items).start == 2  # the others were heard before it
    assert _state_of(client, WorkerId(worker.peer)) == "busy"
    worker.say(messages.Paused(lease.lease, CALL, 0, 2))
    wait_until(lambda: _state_of(client, WorkerId(worker.peer)) == "blocked")
    client.say(messages.Credit(CALL, 0, 3, 10))
    wait_until(lambda: _state_of(client, WorkerId(worker.peer)) == "busy")
    worker.done(lease, [None])
    assert client.hear(messages.Results).count == 1


def test_how_many_went_by_a_line_passes_the_broker(
    broker: RunningBroker, speakers: list[Speaker], host: Host
) -> None:
    client = Client(broker, pid=os.getpid())
    speakers.append(client)
    client.define()
    client.submit([1], streams=True, line="name")
    worker = host.start_worker()
    lease = worker.lease().message
    assert lease.streams == msgspec.structs.replace(streams.ATTACHED, line="name")
    worker.say(messages.Yielded(lease.lease, 0, 0, 2), values("a", "b"))
    worker.say(messages.Yielded(lease.lease, 0, 2, 500, CALL))
    assert client.listen().message == messages.Items(CALL, 0, 0, 2)
    heard = client.listen()
    assert heard.message == messages.Items(CALL, 0, 2, 500)
    assert not heard.frames


def values(*items: object) -> list[Frame]:
    return payload.encode_batch(items, FORM_VALUE)


def _state_of(client: Client, worker: WorkerId) -> str:
    status = client.ask("status", "", messages.Status)
    return next(one.state for one in status.workers if one.worker == worker)
