"""The broker's door under fire: peers that say what nobody should, and one that works on."""

from __future__ import annotations

import random
from collections.abc import Callable

import psutil
import pytest

from kernel_worker.model import CallId, Device, HostResources, PoolId, Resources, WorkerId
from kernel_worker.wire import messages
from tests.broker.mutation import CONTENT, is_leave, mutate, pool_of_mutants, sound
from tests.broker.speaking import LIMIT_SECONDS, Client, Host, RunningBroker, Speaker, Worker

MUTANTS = 6_000
MANY_MUTANTS = 1_000_000
_BURST = 50
_BURSTS = 20
_GROWTH_BYTES = 64 << 20


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


def _attack(broker: RunningBroker, speakers: list[Speaker], count: int) -> None:
    chance = random.Random(random.randrange(2**32))  # the printed seed of the run repeats it
    good = Bystander(broker, speakers)
    good.work()
    process = psutil.Process(broker.connection.pid)
    size_bytes, sent = 0, 0
    while sent < count:
        mutants = Mutants(broker, f"evil-{sent}")
        for _ in range(_BURSTS):
            burst = [mutate(mutants.said, chance) for _ in range(_BURST)]
            burst = [each for each in burst if not is_leave(each[0])]
            chance.choice(mutants.all).burst(burst)
            sent += len(burst)
            good.work()
        mutants.leave()
        if not size_bytes and sent > count // 4:
            size_bytes = process.memory_info().rss
    assert process.memory_info().rss < size_bytes + _GROWTH_BYTES
    assert broker.is_alive()


@pytest.mark.fuzz
@pytest.mark.timeout(240)
def test_whatever_is_said_the_broker_works_on(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    _attack(running(), speakers, MUTANTS)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_a_million_mutants(running: Callable[..., RunningBroker], speakers: list[Speaker]) -> None:
    _attack(running(), speakers, MANY_MUTANTS)
