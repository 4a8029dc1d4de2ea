"""Who is let in, and what is done about those who went: played against a broker's process."""

from __future__ import annotations

import subprocess
import sys

from kernel_worker.model import CallId, Outcome, WorkerId
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, Worker
from tests.waiting import wait_until


def test_nobody_speaks_for_another_and_no_worker_comes_uninvited(
    broker: RunningBroker, speakers: list[Speaker]
) -> None:
    stranger = Speaker(broker, "ta-stranger")
    speakers.append(stranger)
    uninvited = stranger.hello("worker")
    assert isinstance(uninvited, messages.Refused)
    assert "nobody asked for worker ta-stranger" in uninvited.reason
    stranger.say(messages.Hello("client", "cl-somebody"))
    assert "cl-somebody" in stranger.hear(messages.Refused).reason
    empty_handed = stranger.hello("host")
    assert isinstance(empty_handed, messages.Refused)
    assert "did not say what it has" in empty_handed.reason


def test_a_client_that_had_died_when_it_was_heard_is_gone_at_once(
    broker: RunningBroker, client: Client, speakers: list[Speaker]
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ghost = Client(broker, "cl-ghost", pid=process.pid)
    speakers.append(ghost)
    wait_until(
        lambda: client.ask("status", "", messages.Status).clients == 1, what="the ghost is gone"
    )
    ghost.say(messages.CancelCall(CallId("fc-1")))  # it was on its way: nobody is refused for it
    assert isinstance(ghost.hello("client"), messages.Welcome)


def test_a_worker_whose_start_failed_too_late_is_waited_for(client: Client, host: Host) -> None:
    client.define()
    call = client.submit([21])
    late = host.start_worker()
    lease = late.lease().message
    host.say(messages.StartFailed(id_of(late), "not ready in time"), [b"the exception"])
    host.exited(late, lease=lease.lease, position=0)
    host.start_worker().work(lambda value: 2 * value)
    heard = client.listen()
    assert isinstance(heard.message, messages.Results)
    assert (heard.message.call, heard.values) == (call, [42])


def test_a_worker_that_cannot_start_says_why_instead_of_hello(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    client.submit([21])
    asked = host.asked()
    stranger = Speaker(broker, "ta-stranger")
    worker = Speaker(broker, asked.worker)
    speakers += [stranger, worker]
    failed = messages.StartFailed(asked.worker, "no weights")
    stranger.say(failed, [b"the exception"])
    assert "Hello" in stranger.hear(messages.Refused).reason
    worker.say(failed, [b"the exception"])
    heard = client.listen()
    assert isinstance(heard.message, messages.Failure)
    assert heard.message.outcome is Outcome.INIT_FAILED
    assert heard.frames == [b"the exception"]


def test_a_lost_host_costs_its_workers_leases_and_no_result(
    broker: RunningBroker, client: Client, speakers: list[Speaker]
) -> None:
    first = Host(broker, "ho-first")
    speakers.append(first)
    client.define()
    client.submit([21])
    lost = first.start_worker()
    lost.lease()
    first.say(messages.Bye())
    second = Host(broker, "ho-second")
    speakers.append(second)
    second.start_worker().work(lambda value: 2 * value)
    assert client.listen().values == [42]
    lost.say(messages.Output(CallId("fc-1"), 0, "stdout", id_of(lost)), [b"still here"])
    assert "Hello" in lost.hear(messages.Refused).reason


def id_of(worker: Worker) -> WorkerId:
    return WorkerId(worker.peer)
