"""A disk without room: what is attached goes on, what is spawned waits, nothing is lost."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, read


@contextmanager
def full_disk(broker: RunningBroker) -> Iterator[None]:
    """Let no file of the broker grow meanwhile."""
    pid, limit = broker.connection.pid, resource.RLIMIT_FSIZE
    soft, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, (soft, hard))


def test_a_spawned_call_that_waits_for_the_disk_keeps_no_worker(
    broker: RunningBroker, client: Client, host: Host
) -> None:
    client.define()
    client.submit([1])
    worker = host.start_worker()
    worker.done(worker.lease().message, [1])
    client.hear(messages.Results)
    with full_disk(broker):
        client.submit([2], "fc-spawned", attached=False)
        client.submit([3], "fc-attached")
        lease = worker.lease().message
        assert lease.call == "fc-attached"
        worker.done(lease, [3])
        assert client.hear(messages.Results).call == "fc-attached"
    assert client.hear(messages.Accepted).call == "fc-spawned"
    lease = worker.lease().message
    assert lease.call == "fc-spawned"
    worker.done(lease, [2])


def test_a_broker_does_not_leave_before_what_it_knows_is_on_the_disk(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(idle_exit_seconds=0.2)
    process = os.pidfd_open(broker.connection.pid)
    host, client = Host(broker), Client(broker)
    speakers += [host, client]
    client.define()
    client.submit([1], attached=False)
    client.hear(messages.Accepted)
    worker = host.start_worker()
    lease = worker.lease().message
    with full_disk(broker):
        worker.done(lease, [1])
        client.say(messages.Bye())
        assert not read(process, 1.5)
    assert read(process)
    os.close(process)
