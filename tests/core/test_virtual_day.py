"""A day in virtual time, with a journal: nothing is lost, nothing grows, all of it goes in time.

Notebooks come and go, functions are redefined, workers die, calls are spawned over night. The core
says what is written down; a real journal keeps it, and lets it go when it has expired.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker import records
from kernel_worker.core import effects, events
from kernel_worker.core.tracing import RECENT_CALLS
from kernel_worker.journal.store import Entry, Fact, Finished, Store
from kernel_worker.journal.thread import TOMBSTONE_TTLS
from kernel_worker.model import CallId, ClientId, PoolId, PoolSettings, RetryPolicy, WorkerId
from tests.core.simulation import Simulation, make_resources, make_spec

HOUR = 3600.0
KEPT_HOURS = 6
VISITOR = ClientId("cl-visitor")
WINDOW_SECONDS = 30.0


class Day(Simulation):
    """A broker with its journal, and what happens to it all day."""

    def __init__(self, store: Store, ttl_seconds: float = KEPT_HOURS * HOUR) -> None:
        self.store = store
        self.ttl_seconds = ttl_seconds
        self.said: list[Entry] = []
        self.nightly: list[CallId] = []
        self.expired: dict[CallId, float] = {}
        self.gone: list[WorkerId] = []
        super().__init__(make_resources(4))
        self.began = self.now

    def _perform(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Record):
            has_payload = isinstance(effect.record, records.InputsAdded | records.RangeSucceeded)
            self.said.append(Fact(effect.record, (b"head", b"values") if has_payload else ()))
        elif isinstance(effect, effects.FinishCall) and effect.tally:
            self.said.append(Finished(effect.call, self.now, effect.tally))
        super()._perform(effect)

    @property
    def hour(self) -> float:
        return (self.now - self.began) / HOUR

    def every(self, seconds: float, action: object) -> None:
        """Do something again and again, until the day is over."""
        assert callable(action)

        def act() -> None:
            if self.hour < 24:
                action()
                self.after(seconds, act)

        self.after(seconds, act)

    def keep(self) -> None:
        """Write down what was said, and let go what is older than the results are kept."""
        self.store.write(self.said)
        self.said.clear()
        before = self.now - self.ttl_seconds
        self.store.forget(before - TOMBSTONE_TTLS * self.ttl_seconds)
        while gone := self.store.expire(before):
            self.expired.update(dict.fromkeys(gone, self.now))
        for worker in self.gone:  # dead for long: nobody looks at them any more
            del self.workers[worker]
        self.gone = [worker.id for worker in self.workers.values() if worker.dead]


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    store = Store.open(tmp_path / "journal.db")
    yield Day(store)
    store.close()


def test_a_day_leaves_nothing_behind_but_what_is_kept(day: Day) -> None:
    warm = day.define(make_spec("warm", settings=PoolSettings(min_containers=1)), 0.05)
    retries = RetryPolicy(3, 2.0, 1.0)
    nightly = day.define(
        make_spec("nightly", retries=retries),
        lambda _call, index, attempt: "fail" if index % 7 == 0 and attempt == 1 else 20.0,
    )
    edited = [day.define(make_spec("edited", "0"), 0.2)]

    def edit() -> None:
        edited.append(day.define(make_spec("edited", str(len(edited))), 0.2))
        day.feed(events.FunctionReleased(ClientId("cl-test"), edited[-2]))

    def kill() -> None:
        alive = [worker for worker in day.workers.values() if not worker.dead]
        if alive:
            day.kill(alive[len(day.nightly) % len(alive)])

    day.every(600, lambda: day.submit(edited[-1], 10))
    day.every(100, lambda: day.submit(warm, 1))
    day.every(HOUR / 2, kill)
    day.every(HOUR, edit)
    day.every(HOUR, lambda: day.nightly.append(day.submit(nightly, 40, attached=False)))
    day.every(HOUR / 4, day.keep)
    _visits(day)

    day.run(24 * HOUR + 10)
    day.run(HOUR)
    day.keep()
    state = day.core._state
    for call in [*day.nightly, *day.pool_of]:
        assert call in day.finished_at
        assert day.outcomes(call).keys() == {"SUCCEEDED"}, call
    assert len(day.nightly) == 23
    assert not state.calls
    assert set(state.pools) == {warm, nightly, edited[-1]}
    assert [worker.pool for worker in day.workers.values() if not worker.dead] == [warm]
    assert len(state.workers) == 1
    assert all(not worker.leases for worker in state.workers.values())
    assert all(host.cpu_used == 0 for host in state.hosts.values())
    assert len(state.recent) <= RECENT_CALLS
    assert len(state.timers._heap) < 20
    assert not list(day.store.open_facts())
    _expired_in_time(day)


def _visits(day: Day) -> None:
    """Let another notebook come at nine, keep two workers warm, and be closed at five."""
    spec = make_spec(
        "visited", settings=PoolSettings(min_containers=2, scaledown_window_seconds=WINDOW_SECONDS)
    )
    day.constant[spec.pool] = 0.05

    def come() -> None:
        day.feed(events.ClientConnected(VISITOR))
        day.feed(events.FunctionDefined(VISITOR, spec))

    def look(expected: int) -> None:
        assert len(day.alive(PoolId(spec.pool))) == expected

    day.after(9 * HOUR, come)
    day.after(9 * HOUR + 1, lambda: look(2))
    day.after(17 * HOUR - 1, lambda: look(2))
    day.after(17 * HOUR, lambda: day.feed(events.ClientLost(VISITOR)))
    day.after(17 * HOUR + WINDOW_SECONDS - 1, lambda: look(2))
    day.after(17 * HOUR + 2 * WINDOW_SECONDS + 1, lambda: look(0))


def _expired_in_time(day: Day) -> None:
    """Results are kept as long as they are promised to be, and then not much longer."""
    limit = KEPT_HOURS * HOUR
    for call in day.nightly:
        age = day.now - day.finished_at[call]
        if call in day.expired:
            assert limit <= day.expired[call] - day.finished_at[call] <= limit + HOUR
        else:
            assert age <= limit
            found = day.store.ended_call(call)
            assert found is not None
            assert found.tally[0] == 40
    assert day.expired
    assert len(day.expired) < len(day.nightly)
