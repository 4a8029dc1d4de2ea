"""Deployed functions that are called by themselves: once for each moment, whoever is killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import msgspec

from kernel_worker.broker.schedules import MOST_WAITING
from kernel_worker.broker.timetable import call_of
from kernel_worker.model import Schedule, deployed_key
from kernel_worker.wire import messages
from kernel_worker.wire.frames import NO_ARGUMENTS
from kernel_worker.wire.payload import BatchReader
from tests.broker.speaking import CODE, ENVIRONMENT, Client, Host, RunningBroker, Speaker, Worker
from tests.broker.test_deployments import function, refused
from tests.waiting import wait_until

SECOND = Schedule(period_seconds=1.0, directory="/tmp")


def deploy(
    client: Client, schedule: Schedule | None, *, is_generator: bool = False
) -> messages.DeploymentInfo:
    code, environment = client.store(CODE), client.store(ENVIRONMENT)
    deployed = msgspec.structs.replace(
        function("f", code=code, environment=environment),
        schedule=schedule,
        is_generator=is_generator,
    )
    client.requests += 1
    client.say(messages.Deploy(client.requests, "shop", (deployed,)))
    reply = client.hear(messages.Reply)
    assert not reply.error, msgspec.msgpack.decode(reply.body)
    return msgspec.msgpack.decode(reply.body, type=messages.DeploymentInfo)


def calls(client: Client) -> list[messages.CallInfo]:
    return client.ask("calls", "", list[messages.CallInfo])


def told(host: Host) -> bool:
    """Return what a host agent is told next of whether it is to start another broker."""
    while True:
        heard = host.listen().message
        if isinstance(heard, messages.KeepBroker):
            return heard.wanted


def test_what_it_is_called_with_is_nothing() -> None:
    reader = BatchReader(list(NO_ARGUMENTS))
    assert [reader[at] for at in range(len(reader))] == [()]


def test_it_is_called_at_its_moments_and_no_more_when_it_is_stopped(
    client: Client, host: Host
) -> None:
    began = time.time()
    info = deploy(client, SECOND)
    (shown,) = info.schedules
    assert (shown.app, shown.name, shown.schedule) == ("shop", "f", "every 1 s")
    assert shown.next_at is not None
    assert began < shown.next_at <= time.time() + 1.1
    assert told(host) is True
    worker = host.start_worker()
    lease = worker.work(lambda *_: "done")
    assert lease.context.directory == "/tmp"
    assert worker.work(lambda *_: "again").call != lease.call
    found = wait_until(lambda: [each for each in calls(client) if each.succeeded == 1])
    assert {each.call for each in found} >= {lease.call}
    assert [(each.app, each.name, each.attached) for each in found][:1] == [("shop", "f", False)]
    assert found[-1].submitted_at >= shown.next_at - 0.1
    status = client.ask("status", "", messages.Status)
    assert [(each.name, each.schedule) for each in status.schedules] == [("f", "every 1 s")]
    assert client.ask("stop_app", "shop", messages.DeploymentInfo).schedules == ()
    assert told(host) is False
    assert client.ask("status", "", messages.Status).schedules == []
    (ended,) = client.ask("deployments", "shop", list[messages.DeploymentInfo])
    assert ended.schedules == ()


def test_it_goes_on_after_kill_9_and_the_same_call_is_not_made_again(
    broker: RunningBroker, client: Client, speakers: list[Speaker]
) -> None:
    schedule = Schedule(period_seconds=2.0)
    at = deploy(client, schedule).deployed_at
    moments = [call_of(deployed_key("shop", "f"), schedule, at + 2 * n) for n in range(1, 100)]
    (first,) = wait_until(lambda: calls(client), what="the first moment")
    assert first.call == moments[0]
    client.say(messages.Bye())
    broker.end(signal.SIGKILL)
    broker.start()
    later = Client(broker, "cl-2")
    speakers.append(later)
    found = [each.call for each in wait_until(lambda: calls(later)[:-1], what="another moment")]
    assert set(found) <= set(moments[1:])
    host = Host(broker)
    speakers.append(host)
    assert told(host) is True
    worker = host.start_worker()
    done = [worker.work(lambda *_: "done").call for _ in range(2)]
    assert done[0] == first.call
    assert done[1] in moments
    made = [each.call for each in calls(later)]
    assert len(made) == len(set(made))


def test_a_schedule_keeps_the_broker_until_another_version_has_none(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(idle_exit_seconds=0.1)
    for number, schedule in enumerate([Schedule(cron="0 0 1 1 *"), None]):
        client = Client(broker, f"cl-{number}")
        client.socket.linger = 1000
        deploy(client, schedule)
        client.say(messages.Bye())
        client.close()
        if schedule is not None:
            assert not wait_dead(broker, 0.5)
    assert wait_dead(broker, 10.0)


def wait_dead(broker: RunningBroker, seconds: float) -> bool:
    try:
        wait_until(lambda: not broker.is_alive(), seconds)
    except AssertionError:
        return False
    return True


def test_a_generator_gives_items_and_one_that_lags_is_not_called_for_ever(
    client: Client, host: Host
) -> None:
    deploy(client, SECOND, is_generator=True)
    worker: Worker = host.start_worker()
    lease = worker.lease().message
    assert lease.streams is not None
    client.submit(range(MOST_WAITING), "fc-many", pool="deployed/shop/f", streams=False)
    assert client.hear(messages.Rejected).error == "InvalidError"
    deploy(client, SECOND)
    client.submit(range(MOST_WAITING), "fc-many", pool="deployed/shop/f")
    wait_until(lambda: client.ask("pool_stats", "deployed/shop/f", messages.PoolStats).backlog)
    made = len(calls(client))
    wait_until(lambda: _next_at(client) > time.time(), what="a moment passes")
    passed = _next_at(client)
    wait_until(lambda: _next_at(client) > passed, what="another one passes")
    assert len(calls(client)) == made


def _next_at(client: Client) -> float:
    (info,) = client.ask("deployments", "", list[messages.DeploymentInfo])
    assert info.schedules[0].next_at is not None
    return info.schedules[0].next_at


def test_what_has_no_moments_is_not_deployed(client: Client) -> None:
    for schedule, why in (
        (Schedule(cron="61 * * * *"), "f: Cron('61 * * * *'): bad minute"),
        (Schedule(cron="0 0 * * *", timezone="x/y"), "no such time zone"),
        (Schedule(period_seconds=0.001), "allowed is 1 second"),
    ):
        wrong = msgspec.structs.replace(function("f"), schedule=schedule)
        error, text = refused(client, messages.Deploy(1, "shop", (wrong,)))
        assert error == "InvalidError"
        assert why in text
    shaped = msgspec.structs.replace(function("f"), schedule=SECOND, shape=b"shape")
    error, text = refused(client, messages.Deploy(1, "shop", (shaped,)))
    assert "f is a class: allowed is a schedule of a function" in text
