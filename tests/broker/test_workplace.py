"""Who is on an outpost's machine, what is said for them, and how long they are listened to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from kernel_worker.broker.workplace import Workplace
from kernel_worker.model import WorkerId
from kernel_worker.wire import messages
from tests.waiting import wait_until

ONE, TWO = WorkerId("ta-1"), WorkerId("ta-2")
BYE = messages.encode(messages.Bye())


class Machine:
    """A workplace without an outpost, and those who dial it."""

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/s"
        self.poller = zmq.Poller()
        self.said: list[tuple[list[bytes], bytes]] = []
        self.waiting: set[bytes] = set()
        self.gone = 0
        self.workplace = Workplace(
            self.address,
            self.poller,
            lambda message, lane: self.said.append(([bytes(one) for one in message], lane)),
            is_waiting=self.waiting.__contains__,
            on_gone=self.note_gone,
        )
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.dialled: list[zmq.Socket[bytes]] = []

    def note_gone(self) -> None:
        self.gone += 1

    def dial(self, peer: str, role: Any = "worker", worker: str = "") -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, peer.encode())
        socket.connect(self.address)
        self.dialled.append(socket)
        self.tell(socket, messages.Hello(role, peer, worker=WorkerId(worker)))
        return socket

    def tell(self, socket: zmq.Socket[bytes], message: messages.ToBroker) -> tuple[bytes, bytes]:
        """Say something; return who is said to have said it, and in which lane."""
        socket.send(messages.encode(message))
        before = len(self.said)
        wait_until(lambda: self.has_heard(before + 1), what="it is passed on")
        (peer, *_), lane = self.said[before]
        return peer, lane

    def has_heard(self, count: int) -> bool:
        """Do what a turn of an outpost does; whether so much has been passed on."""
        for source, _ in self.poller.poll(20):
            assert self.workplace.brings_messages(source)
            self.workplace.hear()
        return len(self.said) >= count


@pytest.fixture
def machine(short_dir: Path) -> Iterator[Machine]:
    made = Machine(short_dir)
    yield made
    for socket in made.dialled:
        socket.close(linger=0)
    made.context.term()
    made.workplace.close()


def test_what_the_agent_says_tells_who_is_here(machine: Machine) -> None:
    agent = machine.dial("ho-1", "host")
    stranger = machine.dial("ta-9")
    machine.tell(agent, messages.WorkerStarted(ONE, 1, "forked"))
    machine.tell(agent, messages.WorkerStarted(TWO, 2, "forked"))
    machine.tell(stranger, messages.WorkerExited(ONE, "says a worker"))
    assert machine.workplace.live == {ONE, TWO}
    assert machine.tell(agent, messages.WorkerExited(ONE, "killed")) == (b"ho-1", b"")
    assert (machine.workplace.live, machine.gone) == ({TWO}, 1)


def test_the_death_of_a_worker_goes_behind_its_last_words(machine: Machine) -> None:
    agent = machine.dial("ho-1", "host")
    machine.tell(agent, messages.WorkerStarted(ONE, 1, "forked"))
    machine.waiting.add(ONE.encode())
    exited = messages.WorkerExited(ONE, "killed")
    assert machine.tell(agent, exited) == (b"ho-1", ONE.encode())


def test_for_whom_is_gone_the_workplace_says_so(machine: Machine) -> None:
    agent = machine.dial("ho-1", "host")
    machine.tell(agent, messages.WorkerStarted(ONE, 1, "forked"))
    machine.dial("cl-1", "client", ONE)
    machine.dial("cl-2", "client", TWO)
    machine.said.clear()
    machine.tell(agent, messages.WorkerExited(ONE, "killed"))
    assert ([b"cl-1", BYE], b"") in machine.said
    machine.said.clear()
    machine.workplace.agent_died()
    assert machine.said == [([b"ho-1", BYE], b""), ([b"cl-2", BYE], b"")]
    machine.said.clear()
    machine.workplace.agent_died()
    assert machine.said == [], "it is said once"


def test_who_is_not_read_waits_and_who_is_cut_dials_anew(machine: Machine) -> None:
    worker = machine.dial("ta-1")
    machine.workplace.read(wanted=False)
    assert machine.poller.sockets == []
    worker.send(messages.encode(messages.Bye()))
    assert not machine.has_heard(2)
    machine.workplace.read(wanted=True)
    machine.workplace.read(wanted=True)
    wait_until(lambda: machine.has_heard(2), what="it is heard now")
    machine.workplace.deliver([b"ta-1", b"header", b"frame"], by_bulk=False)
    assert worker.recv_multipart() == [b"header", b"frame"]
    machine.workplace.read(wanted=False)
    machine.workplace.cut()
    assert len(machine.poller.sockets) == 1, "it is read, whatever was before"
    again = machine.dial("ta-1")
    machine.workplace.deliver([b"ta-1", b"anew"], by_bulk=True)
    assert again.recv_multipart() == [b"anew"]
