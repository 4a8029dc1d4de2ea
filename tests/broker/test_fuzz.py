"""The broker's door under fire: peers that say what nobody should, and one that works on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kernel_worker.keys import Invitation, Keys
from kernel_worker.model import CallId, Device, HostResources, PoolId, Resources, WorkerId
from kernel_worker.rendezvous import journal_path
from kernel_worker.wire import messages
from tests.broker.far import FarClient, Listening, to
from tests.broker.mutation import (
    CONTENT,
    is_leave,
    mutate,
    mutated_bytes,
    pool_of_mutants,
    sound,
)
from tests.broker.speaking import LIMIT_SECONDS, Client, Host, RunningBroker, Speaker, Worker
from tests.relay import Relay
from tests.waiting import wait_until

MUTANTS = 6_000
MANY_MUTANTS = 1_000_000
DOOR_MUTANTS = 10_000
_BURST = 50
_BURSTS = 20
_GROWTH_BYTES = 64 << 20
_SLOWER = 2.0
"""How much longer a call of others may take, beside a burst."""


class Mutant(Speaker):
    """A peer that says whatever it is told to, and reads nothing."""

    def burst(self, said: list[tuple[bytes, list[bytes]]]) -> None:
        for header, frames in said:
            self.socket.send_multipart([header, *frames])
        while self.socket.poll(0):
            self.socket.recv_multipart()


class Bystander:
    """A client, a host and a worker that go on as always."""

    def __init__(self, broker: RunningBroker, speakers: list[Speaker]) -> None:
        self.client = Client(broker, "cl-good")
        speakers.append(self.client)
        self.client.define("po-good")
        self.host = Host(broker, "ho-good", cpu=1.0)
        speakers.append(self.host)
        self.calls = 0
        self.worker: Worker | None = None

    def work(self) -> None:
        """Have one call of two inputs worked on, and look at its values."""
        self.calls += 1
        call = CallId(f"fc-good-{self.calls}")
        self.client.submit([self.calls, self.calls], call, pool="po-good")
        if self.worker is None:
            self.worker = self.host.start_worker()
        self._refuse_others()
        done = 0
        while done < 2:
            lease = self.worker.work(lambda x: x + 1)
            assert lease.call == call
            done += lease.stop - lease.start
        while done:
            heard = self.client.listen()
            results = heard.message
            assert isinstance(results, messages.Results), results
            assert results.call == call
            assert set(heard.values) == {self.calls + 1}
            done -= results.count

    def _refuse_others(self) -> None:
        """Say of workers for what the mutants defined that they do not start."""
        while self.host.socket.poll(0):
            heard = self.host.listen().message
            if isinstance(heard, messages.StartWorker):
                self.host.say(messages.StartFailed(heard.worker, "not here"), [b"an exception"])
            else:
                assert isinstance(heard, messages.StoreObject | messages.RetirePool), heard


class Mutants:
    """A client, a host and its worker that are let in, and then go wrong; and a stranger."""

    def __init__(self, broker: RunningBroker, name: str) -> None:
        self.pool = PoolId(f"po-{name}")  # mutants before these may have paused or sized theirs
        self.client = Mutant(broker, f"cl-{name}")
        self.client.hello("client")
        self.host = Mutant(broker, f"ho-{name}")
        device = HostResources(4.0, 1000, (Device(0, "evil"),))
        self.host.hello("host", machine=broker.connection.machine, resources=device)
        wanted = self._ask_for_worker()
        self.host.say(messages.WorkerStarted(wanted, 4712, "forked"))
        self.worker = Mutant(broker, wanted)
        self.worker.hello("worker")
        self.all = [self.client, self.host, self.worker, Mutant(broker, f"cl-stranger-{name}")]
        self.said = sound(wanted, self.pool)

    def _ask_for_worker(self) -> WorkerId:
        """Have the broker ask the host, which has the only device, for a worker."""
        spec = pool_of_mutants(self.pool, Resources(gpu=1.0))
        self.client.say(messages.StoreObject(spec.code), [CONTENT])
        self.client.say(messages.Define(spec))
        self.client.say(messages.ConfigurePool(1, spec.pool, min_containers=1))
        while True:
            assert self.host.socket.poll(int(LIMIT_SECONDS * 1000)), f"{self.host.peer} waits"
            heard = messages.decode_at_host(self.host.socket.recv_multipart()[0])
            if isinstance(heard, messages.StartWorker):
                return heard.worker

    def leave(self) -> None:
        for each in self.all:
            each.say(messages.Bye())
            each.close()


class FarMutant:
    """A client that was let in by the door, and then says what nobody should."""

    def __init__(self, invitation: Invitation, name: str) -> None:
        pool = PoolId(f"po-{name}")
        self.said = sound(f"ta-{name}", pool)
        self.client = FarClient(to(invitation), f"cl-{name}")
        spec = pool_of_mutants(pool, Resources(gpu=1.0))  # it takes nothing that others need
        self.client.say(messages.StoreObject(spec.code), [CONTENT])
        self.client.say(messages.Define(spec))

    def burst(self, chance: random.Random, count: int) -> None:
        """Say messages with marks that go on with its stream, or do not."""
        far = self.client.far
        for _ in range(count):
            header, frames = mutate(self.said, chance)
            if is_leave(header):
                continue
            far._stream.put([header, *frames])
            mark, *message = far._stream.next() or [b""]
            if chance.random() < 0.6:
                mark = _mutated_mark(bytes(mark), far._stream.id, chance)
            else:
                far._stream.sent()
            wait_until(lambda m=mark, f=message: far._say([m, *f]), what="it is said")  # type: ignore[misc]
        while far.wait(0.0) is not None:
            pass


def _mutated_mark(mark: bytes, stream: int, chance: random.Random) -> bytes:
    """Return the mark of a message with one that is never sent; or no mark at all."""
    if chance.random() < 0.3:
        return mutated_bytes(mark, chance)
    strange = (0, 1, 2, 2**31, 2**63, 2**64 - 2, 2**64 - 1, chance.randrange(100))
    fields = [stream, *struct.unpack_from("<QQ", mark, 12)]
    fields[chance.randrange(3)] = chance.choice(strange)
    pieces = [chance.choice((0, 1, 2, 2**32 - 1)) for _ in range(chance.choice((0, 0, 1, 2, 3)))]
    return struct.pack(f"<4sQQQ{len(pieces)}I", mark[:4], *fields, *pieces)


def _strangers(door: str, recorded: bytes, count: int, chance: random.Random) -> None:
    """Knock without a key, with what one who has it has said, and wait to be cut."""
    host, _, port = door.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        knocking = []
        for _ in range(count):
            stranger = stack.enter_context(socket.create_connection((host, int(port))))
            stranger.settimeout(LIMIT_SECONDS)
            with contextlib.suppress(OSError):
                stranger.sendall(mutated_bytes(recorded, chance))
                stranger.shutdown(socket.SHUT_WR)
            knocking.append(stranger)
        for stranger in knocking:
            with contextlib.suppress(OSError):
                while stranger.recv(4096):
                    pass


@pytest.fixture
def listening(short_dir: Path) -> Iterator[Listening]:
    made = Listening(short_dir, listen="tcp://127.0.0.1:0")
    yield made
    made.end()
    made.close_log()


@pytest.mark.fuzz
@pytest.mark.timeout(600)
def test_whatever_comes_by_the_door_the_broker_works_on(
    listening: Listening, speakers: list[Speaker]
) -> None:
    chance = random.Random(random.randrange(2**32))
    known = Keys(journal_path(listening.settings).parent)
    good, process = Bystander(listening, speakers), psutil.Process(listening.connection.pid)
    good.work()
    door = listening.connection.door
    evil = known.invite("evil", door)
    sizes = []
    with Relay(door) as relay, FarClient(to(known.invite("good", relay.address))) as far:
        far.ask("status", "", messages.Status)
        recorded = bytes(relay.said[0])
        for number in range(DOOR_MUTANTS // (_BURST * _BURSTS)):
            mutant = FarMutant(evil, f"far-evil-{number}")
            with mutant.client:
                for _ in range(_BURSTS):
                    mutant.burst(chance, _BURST)
                    good.work()
                _strangers(door, recorded, _BURST, chance)
                relay.cut()
                assert far.ask("status", "", messages.Status).pid == listening.connection.pid
            sizes.append(process.memory_info().rss)
    assert sizes[-1] < sizes[1] + _GROWTH_BYTES
    assert "Traceback" not in listening.logged()
    assert listening.is_alive()


def _attack(broker: RunningBroker, speakers: list[Speaker], count: int) -> float:
    """Let mutants speak; return how much longer calls of others took (99th percentiles)."""
    chance = random.Random(random.randrange(2**32))  # the printed seed of the run repeats it
    good = Bystander(broker, speakers)
    good.work()
    process = psutil.Process(broker.connection.pid)
    size_bytes, sent = 0, 0
    calm, under_fire = array("d"), array("d")
    while sent < count:
        mutants = Mutants(broker, f"evil-{sent}")
        for _ in range(_BURSTS):
            burst = [mutate(mutants.said, chance) for _ in range(_BURST)]
            burst = [each for each in burst if not is_leave(each[0])]
            chance.choice(mutants.all).burst(burst)
            sent += len(burst)
            under_fire.append(timed(good.work))
            calm.append(timed(good.work))
        mutants.leave()
        if not size_bytes and sent > count // 4:
            size_bytes = process.memory_info().rss
    grown = process.memory_info().rss - size_bytes
    slower = percentile(under_fire, 99) / percentile(calm, 99)
    print(  # noqa: T201  `make fuzz` shows it
        f"{sent} mutants: {grown / 2**20:+.1f} MiB since a quarter of them;"
        f" p99 of a call {1000 * percentile(calm, 99):.1f} ms, beside them {slower:.2f} times that"
    )
    assert grown < _GROWTH_BYTES
    assert broker.is_alive()
    return slower


def timed(act: Callable[[], None]) -> float:
    """Return how long something takes, in seconds."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def percentile(found: array[float], percent: int) -> float:
    return sorted(found)[len(found) * percent // 100]


@pytest.mark.fuzz
@pytest.mark.timeout(240)
def test_whatever_is_said_the_broker_works_on(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    _attack(running(), speakers, MUTANTS)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_a_million_mutants(running: Callable[..., RunningBroker], speakers: list[Speaker]) -> None:
    assert _attack(running(), speakers, MANY_MUTANTS) < _SLOWER
