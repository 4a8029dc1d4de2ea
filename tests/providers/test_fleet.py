from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec

from kernel_worker.model import Device, HostResources, Resources
from kernel_worker.providers.fleet import (
    GRACE_SECONDS,
    JOIN_SECONDS,
    PATIENCE_SECONDS,
    Fleet,
    Steps,
)
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight
from kernel_worker.providers.target import Target
from kernel_worker.wire import messages

NODES = (
    HostResources(4.0, 8000, tuple(Device(i, "NVIDIA H200") for i in range(2))),
    HostResources(16.0, 8000),
)
GPU = Resources(gpu=1)


class Lab:
    """A fleet, an engine that places what it is asked for when it is told to, and a broker."""

    def __init__(self, **options: object) -> None:
        self.target = msgspec.structs.replace(Target("ray", "auto", max_hosts=4), **options)
        self.fleet = Fleet(self.target, "ray-1")
        self.sights: dict[str, Sight] = {}
        self.workers: dict[str, int] = {}
        """Of hosts that the broker knows."""
        self.now = 100.0
        self.released: list[tuple[str, float]] = []
        self.said: list[str] = []

    def step(self, wanted: Mapping[Resources, int] = {}, after: float = 0.5) -> Steps:
        self.now += after
        shortages = tuple(messages.Shortage("f", each, count) for each, count in wanted.items())
        hosts = tuple(messages.HostUse(f"ho-{name}-0a", n) for name, n in self.workers.items())
        steps = self.fleet.step(messages.Demand(shortages, hosts), self.sights, NODES, self.now)
        for spec in steps.request:
            self.sights[spec.name] = Sight(spec, Phase.PENDING, detail="no free GPU")
        for name, grace in steps.release:
            self.released.append((name, grace))
            self.workers.pop(name, None)
            del self.sights[name]
        self.said += steps.said
        return steps

    def wants(self, wanted: Mapping[Resources, int]) -> list[HostSpec]:
        """Want something for long enough; return what was requested."""
        first = self.step(wanted).request
        return first + self.step(wanted, PATIENCE_SECONDS).request

    def become(self, name: str, phase: Phase, cause: Cause = Cause.NONE, why: str = "") -> None:
        self.sights[name] = Sight(self.sights[name].spec, phase, cause, why)

    def joins(self, name: str, workers: int = 1) -> None:
        self.become(name, Phase.RUNNING)
        self.workers[name] = workers


def test_what_is_short_for_a_while_is_requested_once_as_large_as_it_needs() -> None:
    lab = Lab()
    assert not lab.step({GPU: 1}).request
    assert not lab.step().request
    assert not lab.step({GPU: 1}).request, "it was not short all the time"
    (spec,) = lab.step({GPU: 1}, PATIENCE_SECONDS).request
    assert (spec.name, spec.cpus, spec.gpus, spec.gpu_kind) == ("ray-1-1", 1, 1, "NVIDIA H200")
    assert not lab.step({GPU: 1}).request, "it is on its way"
    assert lab.fleet.note() == "ray: 1 of at most 4 hosts, 1 on the way (no free GPU)"
    lab.joins(spec.name)
    assert not lab.step().request
    assert lab.fleet.note() == "ray: 1 of at most 4 hosts"


def test_as_few_hosts_as_do_are_requested_and_never_more_than_allowed() -> None:
    lab = Lab()
    found = lab.wants({GPU: 3, Resources(cpu=2): 20})
    assert [(spec.cpus, spec.gpus) for spec in found] == [(2, 2), (1, 1), (16, 0), (16, 0)]
    assert not lab.wants({GPU: 9})
    assert lab.fleet.size == 4


def test_limits_make_hosts_smaller_and_kinds_are_looked_at() -> None:
    lab = Lab(cpus=2, gpus=1, gpu_kind="A100", memory_mib=1000)
    assert lab.fleet.offers(NODES) == (
        HostResources(2.0, 1000, (Device(0, "A100"),)),
        HostResources(2.0, 1000),
    )
    assert not lab.wants({Resources(gpu=1, gpu_kind="H200"): 1})
    assert not lab.wants({Resources(memory_mib=1001): 1, Resources(cpu=3): 1})
    (spec,) = lab.wants({Resources(gpu=0.5, gpu_kind="a100", memory_mib=500): 2})
    assert (spec.cpus, spec.gpus, spec.memory_mib, spec.is_declared) == (2, 1, 1000, True)
    assert Lab().fleet.offers(NODES) == NODES


def test_what_nothing_uses_is_given_back_but_for_the_least_number() -> None:
    lab = Lab(idle_seconds=10.0, min_hosts=1)
    (first,) = lab.step().request
    assert (first.cpus, first.gpus) == (4, 2), "as large as may be"
    lab.joins(first.name, 0)
    (second,) = lab.wants({Resources(cpu=8): 2})
    lab.joins(first.name, 1)
    lab.joins(second.name, 2)
    for _ in range(30):
        assert not lab.step().release
    lab.workers = dict.fromkeys(lab.workers, 0)
    assert not lab.step(after=9.0).release
    lab.step(after=2.0)
    assert lab.released == [(first.name, GRACE_SECONDS)], "one of the two that are unused"
    assert not lab.step(after=20.0).release
    assert lab.fleet.size == 1


def test_what_is_kept_has_devices_whichever_machine_the_engine_names_first() -> None:
    """Ray names its head anywhere: a host there would be one of those that nothing can use."""
    for shapes in (NODES, NODES[::-1]):
        fleet = Fleet(Target("ray", "auto", min_hosts=1), "ray-1")
        (spec,) = fleet.step(messages.Demand((), ()), {}, shapes, 100.0).request
        assert (spec.cpus, spec.gpus) == (4, 2)


def test_one_on_its_way_that_nothing_needs_any_more_is_given_back() -> None:
    lab = Lab(idle_seconds=10.0)
    (spec,) = lab.wants({GPU: 1})
    for _ in range(30):
        assert not lab.step({GPU: 1}).release
    lab.step(after=10.0)
    assert lab.released == [(spec.name, GRACE_SECONDS)]


def test_one_that_is_gone_is_forgotten_and_another_one_requested() -> None:
    lab = Lab()
    (spec,) = lab.wants({GPU: 1})
    lab.joins(spec.name)
    lab.step()
    lab.become(spec.name, Phase.GONE, Cause.ENDED, "killed by SIGKILL")
    assert lab.step().release == [(spec.name, 0.0)]
    assert f"{spec.name} is gone: ended killed by SIGKILL" in lab.said
    (other,) = lab.wants({GPU: 1})
    assert other.name == "ray-1-2"


def test_hosts_that_never_come_up_are_requested_ever_later() -> None:
    lab = Lab()
    tried = []
    for _ in range(200):
        for spec in lab.step({GPU: 1}).request:
            tried.append(lab.now)
            lab.become(spec.name, Phase.GONE, Cause.FAILED, "No module named 'kernel_worker'")
    waits = [after - before for before, after in itertools.pairwise(tried)]
    assert waits == sorted(waits)
    assert waits[-1] > 16
    assert "No module named 'kernel_worker'" in lab.fleet.note()
    lost = Lab()
    (spec,) = lost.wants({GPU: 1})
    lost.become(spec.name, Phase.GONE, Cause.LOST)
    assert lost.step({GPU: 1}).request, "that its machine is gone is no fault"


def test_one_that_does_not_find_the_broker_is_killed() -> None:
    lab = Lab(idle_seconds=1000.0)
    (spec,) = lab.wants({GPU: 1})
    lab.become(spec.name, Phase.RUNNING)
    lab.step()
    assert not lab.step(after=JOIN_SECONDS - 1).release
    assert lab.step(after=2.0).release == [(spec.name, 0.0)]
    assert "is a port closed?" in lab.fleet.note()


def test_a_silent_host_keeps_nobody_from_another_one() -> None:
    lab = Lab()
    (spec,) = lab.wants({GPU: 1})
    lab.joins(spec.name)
    lab.step()
    del lab.workers[spec.name]
    assert lab.wants({GPU: 1})


def test_hosts_of_a_former_agent_are_taken_over_and_all_are_given_back_in_the_end() -> None:
    lab = Lab(idle_seconds=10.0)
    lab.sights["ray-0-7"] = Sight(HostSpec("ray-0-7", 1, 0, 1), Phase.PENDING)
    assert not lab.wants({Resources(cpu=1): 1}), "it is that one's"
    assert lab.said == ["ray-0-7 is there already: taken over"]
    lab.joins("ray-0-7")
    lab.step()
    assert lab.wants({GPU: 1})[0].name == "ray-1-1"
    del lab.sights["ray-1-1"]
    lab.step()
    assert lab.fleet.size == 1, "the engine has not kept it"
