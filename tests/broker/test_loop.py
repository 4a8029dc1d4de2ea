"""The broker as its peers see it: a client, a host and a worker that the test plays."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_worker.model import (
    CallId,
    Digest,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    WorkerId,
    digest_of,
)
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages, payload
from tests.broker.speaking import CODE, Client, Host, RunningBroker, Speaker, read
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def double(value: int) -> int:
    return 2 * value


def test_an_attached_call_goes_to_a_worker_and_comes_back(client: Client, host: Host) -> None:
    client.define()
    client.submit([1, 2, 3])
    worker = host.start_worker()
    got: dict[int, object] = {}
    while len(got) < 3:
        worker.work(double)
        heard = client.listen()
        results = heard.message
        assert isinstance(results, messages.Results)
        for at in range(results.start, results.start + results.count):
            got[at] = heard.values[at - results.first]
    assert got == {0: 2, 1: 4, 2: 6}


def test_objects_of_a_role_are_sent_once(client: Client, host: Host) -> None:
    client.define()
    first, second = client.store(b"first"), client.store(b"second")
    client.submit([1], "fc-1", snapshot=first, table=second)
    worker = host.start_worker()
    sent: list[Digest] = []
    for number, snapshot in enumerate([first, second, first], start=2):
        heard = worker.listen()
        while isinstance(heard.message, messages.StoreObject):
            assert digest_of(heard.frames[0]) == heard.message.digest
            sent.append(heard.message.digest)
            heard = worker.listen()
        worker.done(heard.message, [0])
        client.hear(messages.Results)
        client.submit([1], f"fc-{number}", snapshot=snapshot, table=second)
    assert sent == [first, second, second]


def test_an_exception_reaches_the_client_with_its_frame(client: Client, host: Host) -> None:
    client.define()
    client.submit(["x"])
    worker = host.start_worker()
    lease = worker.lease().message
    worker.say(messages.Output(lease.call, 0, "stdout", WorkerId(worker.peer)), [b"hello\n"])
    worker.say(messages.InputEnded(lease.lease, 0, Outcome.FAILED, 0.1), [b"the exception"])
    output = client.listen()
    assert isinstance(output.message, messages.Output)
    assert output.frames == [b"hello\n"]
    failure = client.listen()
    assert isinstance(failure.message, messages.Failure)
    assert (failure.message.index, failure.message.outcome) == (0, Outcome.FAILED)
    assert failure.frames == [b"the exception"]


def test_a_dead_worker_costs_a_lease(client: Client, host: Host) -> None:
    client.define()
    client.submit([21])
    worker = host.start_worker()
    lease = worker.lease().message
    host.exited(worker, lease=lease.lease, position=0)
    host.start_worker().work(double)
    heard = client.listen()
    assert isinstance(heard.message, messages.Results)
    assert heard.values == [42]


def test_a_spawned_call_is_accepted_and_replayed_to_whoever_attaches(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    call = client.submit([1, 2], attached=False)
    assert client.hear(messages.Accepted).call == call
    worker = host.start_worker()
    worker.work(double)
    other = Client(broker, "cl-2")
    speakers.append(other)
    other.say(messages.AttachCall(call))
    got = [other.listen() for _ in range(1)]
    while sum(heard.message.count for heard in got) < 2:
        worker.work(double)
        got.append(other.listen())
    assert sorted(value for heard in got for value in heard.values) == [2, 4]  # type: ignore[type-var]
    client.say(messages.AttachCall(call))
    again = client.listen()
    assert isinstance(again.message, messages.Results)
    assert again.message.start == 0


def test_attaching_to_an_unknown_call_is_rejected(client: Client) -> None:
    client.say(messages.AttachCall(CallId("fc-nobody")))
    rejected = client.hear(messages.Rejected)
    assert rejected.error == "NotFoundError"
    assert "fc-nobody" in rejected.message


def test_a_call_that_names_a_missing_object_is_rejected(client: Client) -> None:
    client.define()
    client.submit([1], snapshot=digest_of(b"never sent"))
    assert client.hear(messages.Rejected).error == "NotFoundError"


def test_kill_and_restart_finish_a_spawned_call_and_keep_its_result(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    client.define()
    table = client.store(b"a table")
    call = client.submit([1, 2, 3], "fc-durable", attached=False, table=table)
    client.hear(messages.Accepted)
    lease = (worker := host.start_worker()).lease().message
    client.say(messages.AttachCall(call))
    worker.done(lease, [100])
    assert client.listen().values == [100]

    broker.end(signal.SIGKILL)
    assert not broker.is_alive()
    broker.start()

    again = Client(broker, "cl-9")
    host_again = Host(broker, "ho-2")
    speakers += [again, host_again]
    again.say(messages.AttachCall(call))
    known = again.listen()
    assert isinstance(known.message, messages.Results)
    assert known.values == [100]
    worker = host_again.start_worker()
    heard = worker.listen()
    assert heard.frames == [b"a table"]
    answered = 1
    while answered < 3:
        answered += (done := worker.work(double)).stop - done.start
    got = again.listen()
    while got.message.start + got.message.count < 3:
        got = again.listen()
    assert got.values[-1] == 6

    broker.end(signal.SIGKILL)
    broker.start()
    last = Client(broker, "cl-10")
    speakers.append(last)
    last.say(messages.AttachCall(call))
    values = list(last.listen().values)
    while len(values) < 3:
        values += last.listen().values
    assert values == [100, 4, 6]
    last.submit([1, 2, 3], "fc-durable", attached=False)
    assert last.hear(messages.Accepted).call == call


def test_strangers_and_other_majors_are_refused(
    broker: RunningBroker, speakers: list[Speaker]
) -> None:
    stranger = Speaker(broker, "cl-stranger")
    speakers.append(stranger)
    stranger.say(messages.DropObjects(()))
    assert "Hello" in stranger.hear(messages.Refused).reason
    old = stranger.hello("client", major=99)
    assert isinstance(old, messages.Refused)
    assert "99." in old.reason
    assert f"{messages.PROTOCOL_MAJOR}." in old.reason
    worker = stranger.hello("worker")
    assert isinstance(worker, messages.Refused)
    assert isinstance(stranger.hello("client"), messages.Welcome)


def test_bad_bytes_are_dropped(client: Client, host: Host) -> None:
    for parts in ([b"\xff"], [b""], [messages.encode(messages.Welcome("x", "y"))]):
        client.socket.send_multipart(parts)
    client.define()
    client.say(messages.StoreObject(Digest("0" * 32)), [b"not this"])
    client.say(
        messages.Submit(CallId("fc-bad"), PoolId("po-1"), attached=True, count=2, closed=True),
        [b"\1\2\3"],
    )
    worker_words = messages.Done(LeaseId(1), 0, 1, 0.0)
    client.say(worker_words, payload.encode_batch([1], batches.FORM_VALUE))
    stats = client.ask("pool_stats", "po-1", messages.PoolStats)
    assert stats.backlog == 0


def test_questions(client: Client, host: Host, broker: RunningBroker) -> None:
    spec = client.define()
    client.submit([1])
    host.start_worker().lease()
    status = client.ask("status", "", messages.Status)
    assert status.incarnation == broker.connection.incarnation
    assert status.pid == broker.connection.pid
    assert [each.pool for each in status.pools] == ["po-1"]
    assert status.hosts[0].host == "ho-1"
    assert client.ask("call", "fc-1", messages.CallInfo).running == 1
    client.say(messages.Ask(77, "object", spec.code))
    assert client.listen().frames == [CODE]
    client.say(messages.Ask(78, "call", "fc-none"))
    assert client.hear(messages.Reply).error == "NotFoundError"
    client.say(messages.ConfigurePool(79, spec.pool, min_containers=2))
    assert b"\x02" in bytes(client.hear(messages.Reply).body)


def test_a_call_that_takes_long_reports_progress(client: Client, host: Host) -> None:
    client.define()
    client.submit([1])
    host.start_worker().lease()
    assert client.socket.poll(10_000)
    header, *_ = client.socket.recv_multipart()
    progress = client.decode(header)
    assert isinstance(progress, messages.CallProgress)
    assert progress.running == 1


def test_the_death_of_a_client_cancels_its_attached_calls(
    broker: RunningBroker, host: Host, client: Client, speakers: list[Speaker]
) -> None:
    client.define()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        doomed = Client(broker, "cl-doomed", pid=process.pid)
        speakers.append(doomed)
        doomed.submit([1], "fc-doomed")
        worker = host.start_worker()
        lease = worker.lease().message
        process.kill()
    while not isinstance(interrupt := host.listen().message, messages.Interrupt):
        pass
    assert interrupt.lease == lease.lease


def test_bye_cancels_attached_calls(client: Client, host: Host) -> None:
    client.define()
    client.submit([1])
    host.start_worker().lease()
    client.say(messages.Bye())
    while not isinstance(host.listen().message, messages.Interrupt):
        pass


def test_an_idle_broker_exits_and_leaves_nothing(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(idle_exit_seconds=0.2)
    process = os.pidfd_open(broker.connection.pid)
    client = Client(broker)
    speakers.append(client)
    assert not read(process, 0.5)
    client.say(messages.Bye())
    assert read(process)
    os.close(process)
    assert not broker.is_alive()
    left = sorted(path.name for path in broker.settings.runtime_dir.glob("*/*"))
    assert left == ["lock"]


def test_workers_that_make_calls_do_not_keep_a_broker_awake(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(idle_exit_seconds=0.2)
    process = os.pidfd_open(broker.connection.pid)
    host, client, nested = Host(broker), Client(broker), Client(broker, "cl-of-the-worker")
    speakers += [host, client, nested]
    client.define()
    client.submit([1], "fc-outer", attached=False)
    client.hear(messages.Accepted)
    worker = host.start_worker()
    lease = worker.lease().message
    parent = ParentInput(lease.call, 0, 1, WorkerId(worker.peer), lease.lease)
    nested.define()
    nested.submit([2], "fc-inner", parent=parent)
    nested.say(messages.CancelCall(CallId("fc-inner")))
    nested.hear(messages.Failure)
    worker.done(lease, [1])
    client.say(messages.Bye())
    assert read(process)
    os.close(process)


def test_each_client_restarts_the_idle_time(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(idle_exit_seconds=1.0)
    process = os.pidfd_open(broker.connection.pid)
    assert not read(process, 0.7)
    client = Client(broker)
    speakers.append(client)
    client.say(messages.Bye())
    assert not read(process, 0.7)
    assert read(process)
    os.close(process)


def test_stop_ends_the_broker(broker: RunningBroker, client: Client) -> None:
    process = os.pidfd_open(broker.connection.pid)
    client.say(messages.Ask(1, "stop"))
    client.hear(messages.Reply)
    assert read(process)
    os.close(process)


def test_a_silent_client_has_a_time_of_grace(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(client_grace_seconds=0.2)
    host = Host(broker)
    client = Client(broker)
    speakers.append(host)
    client.define()
    client.submit([1], "fc-1")
    client.submit([2], "fc-2")
    worker = host.start_worker()
    lease = worker.lease().message
    client.close()
    worker.done(lease, [0])
    second = worker.lease().message
    while not isinstance(interrupt := host.listen().message, messages.Interrupt):
        pass
    assert interrupt.lease == second.lease


def test_a_client_that_comes_back_is_told_what_it_missed(broker: RunningBroker, host: Host) -> None:
    client = Client(broker)
    client.define()
    client.submit([1])
    worker = host.start_worker()
    lease = worker.lease().message
    other = Client(broker, "cl-2")
    client.close()
    other.ask("status", "", messages.Status)  # by then the broker's socket knows of the end
    worker.done(lease, [11])
    wait_until(lambda: not other.ask("status", "", messages.Status).calls)
    again = Client(broker)
    assert again.listen().values == [11]
    again.close()
    other.close()


def test_a_repeated_submission_changes_nothing(client: Client, host: Host) -> None:
    client.define()
    for _ in range(2):
        client.submit([1], attached=False)
        client.hear(messages.Accepted)
    worker = host.start_worker()
    worker.work(double)
    client.say(messages.AttachCall(CallId("fc-1")))
    assert client.listen().values == [2]
    assert client.ask("status", "", messages.Status).calls == []


def test_every_input_of_a_cancelled_call_is_answered(client: Client, host: Host) -> None:
    client.define()
    client.submit(list(range(100)))
    worker = host.start_worker()
    lease = worker.lease().message
    client.say(messages.CancelCall(CallId("fc-1")))
    while not isinstance(host.listen().message, messages.Interrupt):
        pass
    ended = 0
    worker.say(messages.InputEnded(lease.lease, lease.start, Outcome.CANCELLED, 0.1))
    if lease.stop > lease.start + 1:
        worker.say(messages.Returned(lease.lease, lease.start + 1, lease.stop))
    while ended < 100:
        failure = client.hear(messages.Failure)
        assert failure.outcome is Outcome.CANCELLED
        ended += failure.count
    assert ended == 100


def test_leases_that_wait_for_the_disk_are_never_told_once_their_call_is_cancelled(
    client: Client, host: Host, broker: RunningBroker
) -> None:
    client.define(rerun_on_crash=False)  # whose leases are facts; others do not wait for values
    client.submit([0])
    worker = host.start_worker()
    worker.work(double)
    client.hear(messages.Results)
    for number in range(5):
        call = client.submit(range(50), f"fc-spawned-{number}", attached=False)
        client.hear(messages.Accepted)
        lease = worker.lease().message
        # What the broker makes of both it decides before it can know what is on the disk.
        os.kill(broker.connection.pid, signal.SIGSTOP)
        worker.done(lease, list(range(lease.start, lease.stop)))
        client.say(messages.CancelCall(call))
        os.kill(broker.connection.pid, signal.SIGCONT)
        client.hear(messages.CancelConfirmed)
        after = client.submit([number], f"fc-after-{number}")
        heard = worker.lease().message
        assert heard.call == after, f"{heard} was told, and its call is cancelled"
        worker.done(heard, [0])
        assert client.hear(messages.Results).call == after


def test_a_lease_that_waits_for_the_disk_is_granted_though_another_worker_is_idle(
    client: Client, broker: RunningBroker, speakers: list[Speaker]
) -> None:
    """It is shared once its worker has it: taken back before, it would be granted for ever."""
    host = Host(broker, cpu=2.0)
    speakers.append(host)
    client.define()
    client.submit([0, 1], "fc-warm")
    workers = [host.start_worker(), host.start_worker()]
    for worker in workers:
        lease = worker.lease().message
        value = payload.encode_batch([0], batches.FORM_VALUE)
        worker.say(messages.Done(lease.lease, lease.start, 1, 0.000_01), value)
        client.hear(messages.Results)
    call = client.submit(range(4), "fc-shared", attached=False)
    client.hear(messages.Accepted)
    lease = workers[1].lease().message  # the one that ran last
    assert (lease.call, lease.start, lease.stop) == (call, 0, 4)
    assert host.hear(messages.TakeBack).lease == lease.lease


def test_more_peers_than_files_were_allowed_do_not_end_the_broker(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 100 + len(list(Path("/proc/self/fd").iterdir()))  # this process has some open itself
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))  # which the broker inherits
    try:
        broker = running()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * most):
            end = stack.enter_context(socket.socket(socket.AF_UNIX))
            end.connect(broker.connection.address.removeprefix("ipc://"))
        speakers.append(client := Client(broker))
        assert client.ask("status", "", messages.Status).pid == broker.connection.pid
        files = f"/proc/{broker.connection.pid}/fd"
        wait_until(lambda: len(os.listdir(files)) > most, what="all are connected")  # noqa: PTH208  counted
        assert client.ask("status", "", messages.Status).pid == broker.connection.pid
