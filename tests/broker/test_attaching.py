"""Whoever asks for a kernel in a worker is answered, whatever becomes of the worker."""

from __future__ import annotations

import msgspec
import pytest

from kernel_worker.model import WorkerId
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, Worker


@pytest.fixture
def worker(client: Client, host: Host) -> Worker:
    """A worker that holds an input of the call fc-1."""
    client.define()
    client.submit([1])
    worker = host.start_worker()
    worker.lease()
    return worker


def ask(client: Client, subject: str) -> None:
    client.requests += 1
    client.say(messages.Ask(client.requests, "attach", subject))


def refused(client: Client) -> tuple[str, str]:
    reply = client.hear(messages.Reply)
    return reply.error, msgspec.msgpack.decode(reply.body)


def answered(client: Client) -> messages.AttachedKernel:
    reply = client.hear(messages.Reply)
    assert not reply.error, msgspec.msgpack.decode(reply.body)
    return msgspec.msgpack.decode(reply.body, type=messages.AttachedKernel)


def test_all_who_ask_are_answered_and_the_worker_is_asked_once(
    broker: RunningBroker, client: Client, host: Host, worker: Worker, speakers: list[Speaker]
) -> None:
    other = Client(broker, "cl-2")
    speakers.append(other)
    ask(client, "fc-1")
    assert host.hear(messages.AttachKernel).worker == worker.peer
    ask(other, worker.peer)
    other.ask("status", "", messages.Status)  # the broker has seen what was asked before
    worker.say(messages.KernelAttached("/somewhere/k.json"))
    expected = messages.AttachedKernel(WorkerId(worker.peer), "/somewhere/k.json", "f", 4711)
    assert answered(client) == answered(other) == expected
    ask(other, worker.peer)
    assert answered(other) == expected
    assert not host.socket.poll(0), "it was not asked again"


def test_why_a_worker_is_no_kernel_is_told(client: Client, host: Host, worker: Worker) -> None:
    ask(client, worker.peer)
    host.hear(messages.AttachKernel)
    worker.say(messages.KernelAttached("", "ImportError: no ipykernel"))
    name, text = refused(client)
    assert name == "ExecutionError"
    assert "no ipykernel" in text


def test_a_worker_that_dies_meanwhile_is_no_kernel(
    client: Client, host: Host, worker: Worker
) -> None:
    ask(client, worker.peer)
    host.hear(messages.AttachKernel)
    host.exited(worker)
    assert refused(client)[0] == "ExecutionError"
    worker.say(messages.KernelAttached("/somewhere/k.json"))
    client.ask("status", "", messages.Status)


@pytest.mark.parametrize("subject", ["ta-nobody", "fc-nobody"])
def test_what_is_not_there_is_not_found(client: Client, worker: Worker, subject: str) -> None:
    ask(client, subject)
    name, text = refused(client)
    assert name == "NotFoundError"
    assert subject in text


def test_a_worker_that_starts_is_not_ready(client: Client, host: Host) -> None:
    client.define()
    client.submit([1])
    wanted = host.asked().worker
    ask(client, wanted)
    name, text = refused(client)
    assert name == "InvalidError"
    assert "is starting" in text
