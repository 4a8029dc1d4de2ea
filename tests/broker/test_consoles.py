"""Consoles that workers offer find whoever waits, or somebody who asks; or their inputs go on."""

from __future__ import annotations

import msgspec
import pytest

from kernel_worker.model import CallId, Outcome, ParentInput, WorkerId
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, Worker
from tests.waiting import wait_until

CALL = CallId("fc-1")


def submitted(
    client: Client, host: Host, *, attached: bool = True
) -> tuple[Worker, messages.Lease]:
    client.define()
    client.submit([1], attached=attached)
    if not attached:
        client.hear(messages.Accepted)
    worker = host.start_worker()
    return worker, worker.lease().message


def offer(worker: Worker, kind: str = "breakpoint", call: CallId = CALL) -> None:
    worker.say(messages.ConsoleOffered(call, 0, kind, WorkerId(""), 30.0))  # type: ignore[arg-type]  # parametrized


def told(host: Host) -> tuple[str, str]:
    message = host.hear(messages.ConsoleInput)
    return message.what, message.text


def failing(client: Client, subject: str) -> tuple[str, str]:
    client.requests += 1
    client.say(messages.Ask(client.requests, "console", subject))
    reply = client.hear(messages.Reply)
    return reply.error, msgspec.msgpack.decode(reply.body)


def test_a_breakpoint_is_talked_about_by_who_takes_it(
    broker: RunningBroker, client: Client, host: Host, speakers: list[Speaker]
) -> None:
    worker, _ = submitted(client, host)
    offer(worker)
    offered = client.hear(messages.ConsoleOffered)
    assert (offered.call, offered.index, offered.worker) == (CALL, 0, worker.peer)
    typist = Client(broker, "cl-2")
    speakers.append(typist)
    info = typist.ask("console", worker.peer, messages.ConsoleInfo)
    assert (info.worker, info.call, info.kind, info.name) == (worker.peer, CALL, "breakpoint", "f")
    assert told(host) == ("open", "")
    worker.say(messages.ConsoleSaid(WorkerId(worker.peer)), [b"(Pdb) "])
    heard = typist.listen()
    assert isinstance(heard.message, messages.ConsoleSaid)
    assert heard.frames == [b"(Pdb) "]
    client.say(messages.ConsoleLine(WorkerId(worker.peer), "not mine"))
    assert failing(client, worker.peer)[0] == "InvalidError", "somebody has it"
    typist.say(messages.ConsoleLine(WorkerId(worker.peer), "p 1"))
    assert told(host) == ("line", "p 1")
    worker.say(messages.ConsoleClosed(WorkerId(worker.peer)))
    typist.hear(messages.ConsoleClosed)
    assert failing(client, worker.peer)[0] == "NotFoundError"


@pytest.mark.parametrize("kind", ["breakpoint", "failure"])
def test_when_who_has_taken_it_leaves_the_worker_hears_of_it(
    broker: RunningBroker, client: Client, host: Host, kind: str
) -> None:
    worker, _ = submitted(client, host)
    offer(worker, kind)
    if kind == "breakpoint":
        client.hear(messages.ConsoleOffered)
    typist = Client(broker, "cl-2")
    typist.ask("console", worker.peer, messages.ConsoleInfo)
    assert told(host) == ("open", "")
    typist.say(messages.Bye())
    assert told(host) == ("hangup", "")
    typist.close()
    client.ask("console", worker.peer, messages.ConsoleInfo)
    assert told(host) == ("open", "")


def test_a_breakpoint_that_is_refused_goes_on(client: Client, host: Host) -> None:
    worker, _ = submitted(client, host)
    offer(worker)
    client.hear(messages.ConsoleOffered)
    client.say(messages.ConsoleRefused(WorkerId(worker.peer), "no terminal"))
    assert told(host) == ("refused", "no terminal")


def test_a_breakpoint_below_a_spawned_call_has_nobody_to_ask(client: Client, host: Host) -> None:
    worker, _ = submitted(client, host, attached=False)
    offer(worker)
    what, text = told(host)
    assert what == "refused"
    assert "spawned" in text
    client.say(messages.ConsoleRefused(WorkerId("ta-nobody"), "x"))


def test_a_breakpoint_in_a_nested_call_is_offered_to_who_waits_for_the_root(
    client: Client, host: Host
) -> None:
    worker, lease = submitted(client, host)
    parent = ParentInput(CALL, 0, 1, WorkerId(worker.peer), lease.lease)
    client.submit([2], "fc-2", parent=parent)
    client.ask("status", "", messages.Status)
    offer(worker, call=CallId("fc-2"))
    assert client.hear(messages.ConsoleOffered).call == CALL


def test_the_last_failure_is_what_is_looked_at(client: Client, host: Host) -> None:
    assert failing(client, "")[0] == "NotFoundError"
    worker, lease = submitted(client, host)
    offer(worker, "failure")
    worker.say(messages.InputEnded(lease.lease, 0, Outcome.FAILED, 0.1, parks=True), [b"error"])
    client.hear(messages.Failure)
    info = client.ask("console", "", messages.ConsoleInfo)
    assert (info.call, info.kind) == (CALL, "failure")
    name, text = failing(client, "fc-other")
    assert name == "NotFoundError"
    assert "nb.config.keep_failed_seconds" in text


def test_the_frames_go_with_who_called_and_with_the_worker(
    broker: RunningBroker, host: Host, client: Client
) -> None:
    caller = Client(broker, "cl-2")
    worker, lease = submitted(caller, host)
    offer(worker, "failure")
    worker.say(messages.InputEnded(lease.lease, 0, Outcome.FAILED, 0.1, parks=True), [b"error"])
    caller.hear(messages.Failure)
    caller.say(messages.Bye())
    assert told(host) == ("release", "")
    caller.close()
    client.ask("console", worker.peer, messages.ConsoleInfo)
    assert told(host) == ("open", "")
    host.exited(worker)
    client.hear(messages.ConsoleClosed)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("quit", "when the console was left"),
        ("time", "after 30 s (nb.config.keep_failed_seconds)"),
        ("caller", "when who had called was gone"),
        ("worker", "when their worker ended"),
    ],
)
def test_frames_that_were_kept_and_are_gone_are_said_to_have_been(
    broker: RunningBroker, host: Host, client: Client, end: str, why: str
) -> None:
    caller = Client(broker, "cl-2")
    worker, lease = submitted(caller, host)
    offer(worker, "failure")
    worker.say(messages.InputEnded(lease.lease, 0, Outcome.FAILED, 0.1, parks=True), [b"error"])
    caller.hear(messages.Failure)
    if end == "quit":
        client.ask("console", "", messages.ConsoleInfo)
        assert told(host) == ("open", "")
    elif end == "caller":
        caller.say(messages.Bye())
        assert told(host) == ("release", "")
    # Asked for a console that is still there, the broker would give it away.
    if end == "worker":
        host.exited(worker)
        wait_until(lambda: not client.ask("status", "", messages.Status).workers, what="it is gone")
    else:
        client.define()
        heard_after = client.submit([1], "fc-2")
        client.ask("status", "", messages.Status)
        worker.say(messages.ConsoleClosed(WorkerId(worker.peer)))
        worker.say(messages.Output(heard_after, 0, "stdout", WorkerId(worker.peer)), [b"x"])
        if end == "quit":
            client.hear(messages.ConsoleClosed)
        client.hear(messages.Output)
    caller.close()
    for subject in ("", CALL, worker.peer):
        name, text = failing(client, subject)
        assert name == "NotFoundError"
        assert f"those of {CALL} were let go {why}; call it again" in text
    assert "set nb.config.keep_failed_seconds = 300" in failing(client, "fc-other")[1]
