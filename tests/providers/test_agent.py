"""When an agent gives all hosts back, and when not: an engine and a broker that may be away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.model import Device, HostResources, Resources
from kernel_worker.providers import agent
from kernel_worker.providers.fleet import Fleet
from kernel_worker.providers.provider import HostSpec, Phase, Sight
from kernel_worker.providers.target import parse
from kernel_worker.wire import messages

MACHINE = HostResources(4.0, 8000, (Device(0, "H200"),))
WANTED = messages.Demand((messages.Shortage("f", Resources(1.0, 0, 1.0), 1),), ())


class World:
    """An engine and a broker by one clock; `acts` are what happens when, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until: float) -> None:
        self.now = 100.0
        self.is_broker_there = self.is_engine_there = self.is_release_heard = True
        self.demand = WANTED
        self.answer_seconds = 0.0
        self.hosts: dict[str, Sight] = {}
        self.ended: dict[str, float] = {}
        self.offered: list[tuple[HostResources, ...]] = []
        self.acts: dict[float, Callable[[], None]] = {}
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.pass_by)
        monkeypatch.setattr(agent, "time", clock)
        target = parse("ray://auto", {"max_hosts": 2, "gpus": "H200:1"})
        self.agent = agent.Agent(self, cast("Any", self), Fleet(target, "ray-1"))
        self.acts[until] = self.agent.end

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for due in sorted(due for due in self.acts if due <= self.now - 100.0):
            self.acts.pop(due)()

    # ---- the broker ----

    def provide(self, shapes: tuple[HostResources, ...], note: str) -> messages.Demand | None:
        if not self.is_broker_there:
            return None
        self.offered.append(shapes)
        return self.demand

    # ---- the engine ----

    def answers(self) -> None:
        self.pass_by(self.answer_seconds)
        if not self.is_engine_there:
            raise ConnectionError("the head does not answer")

    def shapes(self) -> tuple[HostResources, ...]:
        self.answers()
        return (MACHINE,)

    def look(self) -> Mapping[str, Sight]:
        self.answers()
        return dict(self.hosts)

    def request(self, spec: HostSpec) -> None:
        self.answers()
        self.hosts[spec.name] = Sight(spec, Phase.RUNNING)

    def release(self, name: str, grace_seconds: float) -> None:
        self.answers()
        if not self.is_release_heard:
            raise ConnectionError("that machine does not answer")
        if self.hosts.pop(name, None) is not None:
            self.ended[name] = self.now - 100.0

    def close(self) -> None:
        pass


def test_hosts_are_given_back_when_the_broker_has_been_away_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, until=200.0)

    def goes_away() -> None:
        world.is_broker_there = False

    world.acts[10.0] = goes_away
    world.agent.run()
    (ended,) = world.ended.values()
    assert 40.0 <= ended <= 42.0


def test_an_engine_that_takes_long_to_answer_is_no_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does that asks a machine of its own which has lost its power."""
    world = World(monkeypatch, until=200.0)

    def is_slow() -> None:
        world.answer_seconds = 45.0

    world.acts[10.0] = is_slow
    world.agent.run()
    assert min(world.ended.values()) >= 200.0


def test_an_engine_that_is_away_is_waited_for_and_goes_on_being_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for its hosts would fail otherwise, though they may come."""
    world = World(monkeypatch, until=200.0)

    def goes_away() -> None:
        world.is_engine_there, before = False, len(world.offered)
        world.acts[150.0] = lambda: comes_back(before)

    def comes_back(before: int) -> None:
        assert world.offered[before:]
        assert {shapes[0].devices for shapes in world.offered[before:]} == {MACHINE.devices}
        world.is_engine_there = True
        world.hosts.clear()

    world.acts[10.0] = goes_away
    world.agent.run()
    assert min(world.ended.values()) >= 200.0
    assert list(world.ended) == ["ray-1-2"], "what went with the engine was requested anew"


def test_what_the_engine_has_not_heard_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, until=200.0)

    def needs_nothing() -> None:
        world.demand, world.is_release_heard = messages.Demand((), ()), False

    def hears() -> None:
        assert not world.ended
        world.is_release_heard = True

    world.acts |= {10.0: needs_nothing, 100.0: hears}
    world.agent.run()
    assert 100.0 <= world.ended["ray-1-1"] <= 101.0
