"""What questions are answered, played against a broker's process."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from kernel_worker.model import (
    Device,
    Digest,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    WorkerId,
)
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker


def configured(client: Client, **changes: int) -> PoolSettings:
    client.say(messages.ConfigurePool(1, PoolId("po-1"), **changes))
    reply = client.hear(messages.Reply)
    assert not reply.error
    return msgspec.msgpack.decode(reply.body, type=PoolSettings)


def test_settings_change_where_they_are_given(client: Client) -> None:
    client.define()
    assert configured(client, min_containers=2) == PoolSettings(2)
    assert configured(client, max_containers=3) == PoolSettings(2, 3)
    assert configured(client) == PoolSettings(2, 3)
    stats = client.ask("pool_stats", "po-1", messages.PoolStats)
    assert stats.settings == PoolSettings(2, 3)


def test_what_is_not_there_is_named(client: Client) -> None:
    client.say(messages.ConfigurePool(1, PoolId("po-none"), min_containers=1))
    questions = (
        ("pool_stats", "po-none"),
        ("object", Digest("0" * 32)),
        ("call", "fc-none"),
        ("stop_worker", "ta-none"),
    )
    for number, (what, subject) in enumerate(questions, start=2):
        client.say(messages.Ask(number, what, subject))  # type: ignore[arg-type]
    for number, subject in enumerate(
        ("po-none", "po-none", "0" * 32, "fc-none", "ta-none"), start=1
    ):
        reply = client.hear(messages.Reply)
        assert (reply.request, reply.error) == (number, "NotFoundError")
        assert subject in msgspec.msgpack.decode(reply.body, type=str)


def test_the_status_shows_clients_hosts_workers_and_calls(client: Client, host: Host) -> None:
    client.define()
    client.submit([1, 2])
    worker = host.start_worker()
    worker.lease()
    status = client.ask("status", "", messages.Status)
    assert status.clients == 1
    assert [(one.host, one.machine) for one in status.hosts] == [("ho-1", client.machine)]
    assert [(one.worker, one.state, one.pid) for one in status.workers] == [
        (worker.peer, "busy", 4711)
    ]
    assert [(one.call, one.total, one.running) for one in status.calls] == [("fc-1", 2, 1)]


@pytest.mark.parametrize("what", ["logs", "events"])
def test_a_number_that_no_journal_has_ends_nothing(client: Client, what: Any) -> None:
    client.define()
    call = client.submit([1], attached=False)
    client.hear(messages.Accepted)
    client.say(messages.Ask(8, what, call, after=2**64 - 1))
    parent = ParentInput(call, 2**64 - 1, 1, WorkerId("ta-1"), LeaseId(1))
    client.submit([1], "fc-2", attached=False, parent=parent)
    assert [one.call for one in client.ask("status", "", messages.Status).calls] == [call]
    client.say(messages.Ask(9, what, call))
    assert client.hear(messages.Reply).error == ""


def test_a_busy_worker_that_is_ended_by_hand_is_interrupted(client: Client, host: Host) -> None:
    client.define()
    client.submit([1])
    worker = host.start_worker()
    lease = worker.lease().message
    client.say(messages.Ask(9, "stop_worker", worker.peer))
    assert client.hear(messages.Reply).error == ""
    assert host.hear(messages.TakeBack).lease == lease.lease
    interrupt = host.hear(messages.Interrupt)
    assert (interrupt.worker, interrupt.lease, interrupt.index) == (worker.peer, lease.lease, 0)
    status = client.ask("status", "", messages.Status)
    assert [(one.worker, one.state) for one in status.workers] == [(worker.peer, "stopping")]
    worker.say(messages.InputEnded(lease.lease, 0, Outcome.CANCELLED, 0.1))
    assert host.hear(messages.StopWorker).worker == worker.peer
    info = client.ask("call", "fc-1", messages.CallInfo)
    assert (info.pending, info.cancelled) == (1, 0)


def test_the_status_says_who_has_defined_a_pool_and_which_pool_a_call_is_of(
    broker: RunningBroker, host: Host, speakers: list[Speaker]
) -> None:
    notebook = Client(broker, "cl-2", pid=os.getpid())
    speakers.append(notebook)
    notebook.define()
    notebook.submit([1])
    host.start_worker()
    status = notebook.ask("status", "", messages.Status)
    (pool,) = status.pools
    assert pool.client_pids == (os.getpid(),)
    assert [(call.call, call.pool) for call in status.calls] == [("fc-1", pool.pool)]


def test_who_could_bring_hosts_hears_what_is_wanted(client: Client, host: Host) -> None:
    client.define(resources=Resources(gpu=1))
    shape = HostResources(2.0, 100, (Device(0, "H200"),))
    client.say(messages.Provide(1, (shape,), "local: none yet"))
    found = msgspec.msgpack.decode(client.hear(messages.Reply).body, type=messages.Demand)
    assert found == messages.Demand((), (messages.HostUse("ho-1", 0),))
    client.submit([1, 2])
    client.say(messages.Provide(2, (shape,)))
    found = msgspec.msgpack.decode(client.hear(messages.Reply).body, type=messages.Demand)
    assert found.shortages == (messages.Shortage("f", Resources(gpu=1), 2),)
    client.say(messages.Provide(3, (shape,) * 101))
    client.say(messages.Provide(4, (HostResources(-1.0, 1),)))
    client.say(messages.Provide(5, (), "x" * 1001))
    client.say(messages.Provide(6, ()))
    assert client.hear(messages.Reply).request == 6, "the others were dropped"
