"""A broker that follows another one waits for the host agent that lives, and for nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from kernel_worker import rendezvous
from kernel_worker.broker.adopting import Arrivals
from kernel_worker.broker.sockets import Sockets
from kernel_worker.model import (
    FunctionSpec,
    Held,
    HostResources,
    LeaseId,
    Resources,
    Survivor,
    WorkerId,
)
from kernel_worker.wire import messages
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, Worker

AGENT = """
import sys
from kernel_worker import rendezvous
assert rendezvous.claim_agent(sys.argv[1])
print(1, flush=True)
sys.stdin.read()
"""
Agent = Callable[[Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Return a function that has a process hold the agent's lock beside a connection file."""
    started: list[subprocess.Popen[bytes]] = []

    def start(directory: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", AGENT, str(directory / "connection.json")]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
        assert started[-1].stdout is not None
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.__exit__(None, None, None)


class Place:
    """Sockets that listen, and who says something there."""

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/b"
        self.sockets = Sockets(self.address, lambda *_: None)
        self.arrivals = Arrivals(self.sockets, str(directory / "connection.json"))
        self._context = zmq.Context()
        self._spoke: list[zmq.Socket[bytes]] = []

    def say(self, peer: str, *frames: bytes) -> None:
        self._spoke.append(socket := self._context.socket(zmq.DEALER))
        socket.routing_id = peer.encode()
        socket.connect(self.address)
        socket.send_multipart(frames)

    def close(self) -> None:
        self.sockets.close()
        for socket in self._spoke:
            socket.close(linger=0)
        self._context.term()


@pytest.fixture
def place(short_dir: Path) -> Iterator[Place]:
    made = Place(short_dir)
    yield made
    made.close()


def test_where_no_agent_lives_nobody_is_waited_for(
    place: Place, short_dir: Path, agent: Agent
) -> None:
    assert place.arrivals.survivors() == []
    process = agent(short_dir)
    process.kill()
    process.wait()
    assert place.arrivals.survivors() == []


def test_the_agent_is_heard_and_what_others_say_is_kept(
    place: Place, short_dir: Path, agent: Agent
) -> None:
    pid = agent(short_dir).pid
    hello = messages.Hello("host", "ho-1", pid=pid)
    place.say("cl-1", messages.encode(messages.Hello("client", "cl-1", pid=pid)))
    place.say("xx", b"\xc1")
    place.say("yy", b"")
    place.say("ho-2", messages.encode(messages.Hello("host", "ho-2", pid=1)))
    poller = zmq.Poller()
    poller.register(place.sockets.router, zmq.POLLIN)
    assert poller.poll(10_000)
    place.say("ho-1", messages.encode(hello))
    assert place.arrivals.survivors(20.0) == [(b"ho-1", hello)]
    heard = {bytes(parts[0]) for parts in place.arrivals.others}
    assert heard <= {b"cl-1", b"xx", b"yy", b"ho-2"}


@pytest.mark.clock
def test_an_agent_that_ends_is_waited_for_no_longer(
    place: Place, short_dir: Path, agent: Agent
) -> None:
    process = agent(short_dir)
    assert process.stdin is not None
    process.stdin.close()
    began = time.monotonic()
    assert place.arrivals.survivors(60.0) == []
    assert time.monotonic() - began < 30
    assert process.wait() == 0


def test_one_that_lives_and_says_nothing_is_killed(
    place: Place, short_dir: Path, agent: Agent
) -> None:
    process = agent(short_dir)
    process.send_signal(signal.SIGSTOP)
    assert place.arrivals.survivors(0.1) == []
    assert process.wait(20) == -signal.SIGKILL


class Returning(Speaker):
    """A host agent that lives when the broker is gone; the lock is another process's."""

    def decode(self, header: bytes) -> object:
        return messages.decode_at_host(header)


def test_what_its_workers_run_goes_on_at_the_broker_that_follows(
    broker: RunningBroker,
    client: Client,
    speakers: list[Speaker],
    agent: Agent,
) -> None:
    pid = agent(Path(broker.connection.path).parent).pid
    first = Returning(broker, "ho-1")
    speakers.append(first)
    offered = HostResources(2.0, 1000)
    first.hello("host", machine=first.machine, resources=offered, pid=pid)
    spec = client.define()
    call = client.submit([1], attached=False)
    client.hear(messages.Accepted)
    asked = _asked(first)
    worker = Worker(broker, asked)
    speakers.append(worker)
    first.say(messages.WorkerStarted(asked, 4711, "forked"))
    worker.hello("worker")
    lease = worker.lease().message
    broker.end(signal.SIGKILL)

    worker.done(lease, [10])  # on its way, before anybody knows it
    held = Held(lease.lease, call, 0, 1, 1, index=1, runs=True)
    lives = (
        Survivor(asked, spec, (), 4711, "forked", 1, held),
        Survivor(WorkerId("ta-idle"), spec, (), 4712, "forked", 1),
    )
    again = Returning(broker, "ho-1")
    speakers.append(again)
    first.close()
    speakers.remove(first)
    hello = messages.Hello(
        "host", "ho-1", pid=pid, machine=again.machine, resources=offered, survivors=lives
    )
    again.say(hello)
    broker.start()
    again.hear(messages.Welcome)
    other = Client(broker, "cl-2")
    speakers.append(other)
    states = {one.worker: one.state for one in other.ask("status", "", messages.Status).workers}
    assert states == {asked: "busy", "ta-idle": "starting"}
    worker.close()
    speakers.remove(worker)
    back = Worker(broker, asked)
    speakers.append(back)
    back.say(messages.Hello("worker", asked))  # which was on its way when it dials anew
    back.done(lease, [11])
    back.hello("worker", number=1)
    back.done(lease, [10])
    back.say(messages.Returned(lease.lease, 0, 1 << 62))
    other.say(messages.AttachCall(call))
    heard = other.listen()
    assert isinstance(heard.message, messages.Results)
    assert heard.values == [10]
    third = Speaker(broker, "ho-late")
    speakers.append(third)
    late = third.hello("host", resources=offered, survivors=lives)
    assert isinstance(late, messages.Refused)
    assert "is late" in late.reason


def test_leases_are_numbered_on_though_the_clock_was_set_back(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    """A worker that lives on may answer one of the broker before: no other one has its number."""
    broker = running()
    later = broker.connection.leases_from + (1 << 50)
    broker.end(signal.SIGKILL)
    left = msgspec.structs.replace(broker.connection, leases_from=later)
    Path(left.path).write_bytes(msgspec.json.encode(left))
    broker.start()
    client, host = Client(broker), Host(broker)
    speakers += [client, host]
    client.define()
    client.submit([1])
    assert host.start_worker().lease().message.lease > later
    assert broker.connection.leases_from > later


def _asked(host: Returning) -> WorkerId:
    while True:
        message = host.listen().message
        if isinstance(message, messages.StartWorker):
            return message.worker


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"resources": None}, "did not say what it has"),
        ({"survivors": (-1.0,)}, "is -1"),
    ],
)
def test_one_that_says_nonsense_is_refused_and_the_broker_goes_on(  # noqa: PLR0917  fixtures
    broker: RunningBroker,
    client: Client,
    speakers: list[Speaker],
    agent: Agent,
    fields: dict[str, object],
    why: str,
) -> None:
    pid = agent(Path(broker.connection.path).parent).pid
    spec: FunctionSpec = client.define(resources=Resources(cpu=1.0))
    broker.end(signal.SIGKILL)
    if "survivors" in fields:
        held = Held(LeaseId(1), client.submit([]), -1, 1, 1, index=1, runs=True)
        fields = {"survivors": (Survivor(WorkerId("ta-1"), spec, (), 1, "forked", 1, held),)}
    host = Returning(broker, "ho-1")
    speakers.append(host)
    given = {"resources": HostResources(2.0, 1000), **fields}
    host.say(messages.Hello("host", "ho-1", pid=pid, **given))  # type: ignore[arg-type]
    broker.start()
    assert why in host.hear(messages.Refused).reason
    assert rendezvous.find(broker.settings) is not None
