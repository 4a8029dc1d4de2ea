"""A day with everything that a broker meets, and the week in which its results are kept.

All of it in virtual time, from one seed, with a journal that is real: maps, spawned calls,
generators, calls that call, groups, a direct line; inputs that fail, hang, crash, are paused and
cancelled; workers that never get ready; functions that are edited, kept warm and let go; notebooks
that come and leave; workers, their host agent, the broker and the whole machine are killed. Each
hour ends quietly, and nothing may be left of it then but what is promised. What has a schedule is
called once for each of its moments, whoever was killed meanwhile.
"""

from __future__ import annotations

import gc
import random
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from kernel_worker import moments, records
from kernel_worker.broker.timetable import Timetable, call_of
from kernel_worker.core import effects, events
from kernel_worker.core.invariants import Steadiness, check
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.core.tracing import RECENT_BYTES, RECENT_CALLS
from kernel_worker.journal.store import Fact, Store, Written
from kernel_worker.model import (
    CallId,
    ClientId,
    DeployedFunction,
    FunctionSpec,
    Held,
    LeaseId,
    Outcome,
    PoolId,
    PoolSettings,
    RetryPolicy,
    Schedule,
    Survivor,
    WorkerId,
)
from tests.core.simulation import (
    CLIENT,
    HOST,
    LATENCY_SECONDS,
    FakeWorker,
    Nested,
    Script,
    make_resources,
    make_spec,
)
from tests.core.test_virtual_day import HOUR, Day

DAY = 24 * HOUR
TTL = 7 * DAY
"""How long results are kept where nobody says otherwise (`result_ttl`)."""
BUSY_SECONDS = 2500.0
"""So long somebody calls in an hour; the rest is quiet."""
WINDOW_SECONDS = 60.0
DIALS_SECONDS = 0.05
"""What a worker takes to find the broker that follows."""
ITEMS = 5
EVERYTHING = 1 << 62


class Asked(NamedTuple):
    """A call that somebody has made."""

    client: ClientId
    pool: PoolId
    attached: bool
    streams: bool


class Week(Day):
    """A broker, those that follow it, and their journal."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.open: dict[CallId, Asked] = {}
        self.spawned: dict[CallId, int] = {}
        """The inputs of each spawned call that was ever made."""
        self.notebooks: dict[ClientId, dict[PoolId, FunctionSpec]] = {CLIENT: {}}
        """Who is connected, and what they have defined."""
        self.dialling: set[WorkerId] = set()
        self.adopted: set[LeaseId] = set()
        self.until = 0.0
        self.pause = 90.0
        self.made = 0
        self.brokers = 1
        super().__init__(Store.open(path), TTL)
        self.began = self.until = self.now
        self.functions = _functions(self)
        for spec, behaviour in self.functions.values():
            self.define(spec, behaviour)
        scheduled = {
            "nightly": Schedule(cron="7,37 * * * *"),
            "dies": Schedule(period_seconds=1800.0),
        }
        self.shop = records.Deployment(
            "shop",
            1,
            self.now + 100,
            tuple(
                DeployedFunction(name, self.functions[name][0], schedule=schedule)
                for name, schedule in scheduled.items()
            ),
        )
        self.after(100, self.go_by_the_clock)

    # -- what people do

    def define(self, spec: FunctionSpec, behaviour: object = 0.1) -> PoolId:
        self.notebooks[CLIENT][spec.pool] = spec
        return super().define(spec, behaviour)  # type: ignore[arg-type]

    def pool(self, name: str) -> PoolId:
        return self.functions[name][0].pool

    def ask(
        self,
        pool: PoolId,
        count: int,
        *,
        client: ClientId = CLIENT,
        attached: bool = True,
        streams: bool = False,
        lends: bool = False,
        call: CallId | None = None,
    ) -> CallId:
        """Make a call."""
        call = call or self._new_call()
        self.left[call] = count
        self.open[call] = Asked(client, pool, attached, streams)
        if not attached:
            self.spawned[call] = count
        self.feed(
            events.CallSubmitted(
                client, call, pool, attached, count, closed=True, streams=streams, lends=lends
            )
        )
        return call

    def go_on_calling(self) -> None:
        """Make a call of some kind, and another one a while later."""
        if self.now >= self.until:
            return
        some = self.chance.randint(1, 12)
        kinds = (
            (5, lambda: self.ask(self.pool("quick"), 3 * some)),
            (4, lambda: self.ask(self.pool("nightly"), some, attached=False)),
            (2, lambda: self.ask(self.pool("outer"), 2, attached=self.chance.random() < 0.5)),
            (2, lambda: self.ask(self.pool("many"), some)),
            (2, lambda: self.ask(self.pool("group"), some, attached=False)),
            (2, lambda: self.ask(self.pool("once"), some, attached=False)),
            (2, lambda: self.ask(self.pool("stream"), 1, streams=True)),
            (2, lambda: self.ask(self.pool("stream"), 1, attached=False, streams=True)),
            (2, lambda: self.ask(self.pool("warm"), 1, lends=True)),
            (1, lambda: self.ask(self.pool("hangs"), 1, attached=self.chance.random() < 0.5)),
            (1, lambda: self.ask(self.pool("dies"), 2, attached=False)),
            (1, self.change_my_mind),
            (1, self.add_little_by_little),
            (1, self.pause_for_a_while),
            (1, self.visit),
            (2, self.kill_somebody),
        )
        ((_, act),) = self.chance.choices(kinds, [weight for weight, _ in kinds])
        act()
        self.after(self.chance.expovariate(1 / self.pause), self.go_on_calling)

    def go_by_the_clock(self) -> None:
        """Call what has a schedule, as a broker does that knows nothing but what is deployed."""
        timetable, broker = Timetable(), self.brokers

        def look() -> None:
            if self.brokers != broker:
                return  # it was killed
            timetable.adopt([self.shop], self.now)
            for due in timetable.due(self.now):
                if due.call not in self.spawned:
                    name = due.key.rpartition("/")[2]
                    self.ask(self.pool(name), 1, attached=False, call=due.call)
            next_at = timetable.next_at()
            if next_at is not None:
                self.after(next_at - self.now, look)

        look()

    def moments(self) -> set[CallId]:
        """Return the calls of all moments that there have been."""
        found = set()
        for function in self.shop.functions:
            key, schedule = function.spec.key, function.schedule
            moment: float | None = self.shop.deployed_at
            while schedule and moment:
                moment = moments.following(schedule, self.shop.deployed_at, moment)
                if moment is None or moment > self.now:
                    break
                found.add(call_of(key, schedule, moment))
        return found

    def change_my_mind(self) -> None:
        """Cancel what runs, and does not listen to that."""
        call = self.ask(self.pool("deaf"), 3, attached=self.chance.random() < 0.5)
        cancelled = events.CallCancelled(call, terminate=False, client=CLIENT)
        self.after(self.chance.uniform(0.0, 20.0), lambda: self.feed(cancelled))

    def add_little_by_little(self) -> None:
        """Make a call whose inputs come in batches."""
        call, pool = self._new_call(), self.pool("quick")
        self.left[call] = 9
        self.open[call] = Asked(CLIENT, pool, attached=True, streams=False)
        self.feed(events.CallSubmitted(CLIENT, call, pool, True, 3, closed=False))
        self.feed(events.InputsAdded(call, 3, 3, indivisible=True))
        self.feed(events.InputsAdded(call, 6, 3))
        self.feed(events.InputsClosed(call, 9))

    def pause_for_a_while(self) -> None:
        """Let nothing more of a call start, and then go on."""
        call = self.ask(self.pool("nightly"), 6, attached=False)
        self.after(20.0, lambda: self.feed(events.CallPaused(call)))
        self.after(90.0, lambda: self.feed(events.CallUnpaused(call)))

    def visit(self) -> None:
        """Come with a notebook of one's own, and close it while something runs."""
        self.made += 1
        client, spec = ClientId(f"cl-visitor-{self.made}"), make_spec("visited", str(self.made))
        self.constant[spec.pool] = 3.0
        self.notebooks[client] = {spec.pool: spec}
        self.feed(events.ClientConnected(client))
        self.feed(events.FunctionDefined(client, spec))
        self.ask(spec.pool, 30, client=client)

        def leave() -> None:
            del self.notebooks[client]
            for call in [one for one, asked in self.open.items() if asked.client == client]:
                del self.open[call]
            self.feed(events.ClientLost(client))

        self.after(self.chance.uniform(0.0, 40.0), leave)

    def kill_somebody(self) -> None:
        """Kill a worker, or all of them with their host agent."""
        alive = [worker for worker in self.workers.values() if not worker.dead]
        if self.chance.random() < 0.2:
            for worker in alive:
                self._dies(worker)
                self.feed(events.ClientLost(ClientId(f"cl-{worker.id}")))
            self.feed(events.HostLost(HOST))
            self.feed(events.HostJoined(HOST, make_resources(4)))
        elif alive:
            self.kill(self.chance.choice(alive))

    def edit(self) -> None:
        """Run the cell again that defines a function."""
        before, behaviour = self.functions["quick"]
        self.made += 1
        spec = make_spec("quick", str(self.made), retries=before.retries)
        self.functions["quick"] = spec, behaviour
        self.define(spec, behaviour)
        del self.notebooks[CLIENT][before.pool]
        self.feed(events.FunctionReleased(CLIENT, before.pool))

    def keep_warm(self, floor: int) -> None:
        """Keep workers of the function that is called at night."""
        spec, behaviour = self.functions["nightly"]
        settings = PoolSettings(min_containers=floor, scaledown_window_seconds=WINDOW_SECONDS)
        spec = msgspec.structs.replace(spec, settings=settings)
        self.functions["nightly"] = spec, behaviour
        self.define(spec, behaviour)

    # -- what becomes of it

    def kill(self, worker: FakeWorker, cause: str = "killed by SIGKILL") -> None:
        super().kill(worker, cause)
        lost = events.ClientLost(ClientId(f"cl-{worker.id}"))
        self.after(LATENCY_SECONDS, lambda: self.feed(lost))

    def feed(self, event: events.Event) -> None:
        said_by = getattr(event, "worker", None)
        has_lost_it = isinstance(event, events.WorkerExited | events.WorkerReady)
        if said_by in self.dialling and not has_lost_it:
            return  # said to a broker that is gone
        super().feed(event)

    def _perform(self, effect: effects.Effect) -> None:
        super()._perform(effect)
        if isinstance(effect, effects.FinishCall):
            self.open.pop(effect.call, None)
            if effect.tally:
                self.said.insert(-1, Written(effect.call, b"\x90"))
        elif isinstance(effect, effects.Record):
            record = effect.record
            if isinstance(record, records.CallSubmitted):
                needs = {record.spec.code: b"code", record.spec.environment: b"environment"}
                self.said[-1] = Fact(record, (), needs)
            elif isinstance(record, records.ItemsYielded):
                self.said[-1] = Fact(record, (b"head", bytes(20_000)))

    def _end_badly(self, worker: FakeWorker, how: str) -> None:
        if how != "hang":
            super()._end_badly(worker, how)
            return
        limit = 10.0  # `timeout_seconds`
        self._schedule(worker, limit, lambda: self._answer(worker, Outcome.TIMED_OUT))

    def _interrupt(self, effect: effects.Interrupt) -> None:
        if self.workers[effect.worker].pool != self.pool("deaf"):
            super()._interrupt(effect)

    def _end_lease(self, worker: FakeWorker) -> None:
        lease = worker.leases[0]
        stop = worker.stops[lease.lease]
        super()._end_lease(worker)
        back = None
        if lease.lends:  # and nobody has called by the line
            back = events.InputsReturned(worker.id, lease.lease, stop, stop)
        elif lease.lease in self.adopted:
            self.adopted.discard(lease.lease)
            back = events.InputsReturned(worker.id, lease.lease, 0, EVERYTHING)
        if back is not None:
            self.after(2 * LATENCY_SECONDS, lambda: self.feed(back))

    # -- brokers that are killed

    def restart(self, *, lives_on: bool) -> None:
        """Kill the broker: alone, or the whole machine. The next one has what is in the journal."""
        self.keep()
        self.store.close()
        self.store = Store.open(self.path)
        survivors = [
            found
            for worker in list(self.workers.values())
            if not worker.dead and (found := self._outlives(worker, lives_on=lives_on))
        ]
        self.brokers += 1
        self.core = Scheduler(f"t{self.brokers}", self.brokers << 32)
        self.steadiness = Steadiness()
        facts = [fact.record for fact in self.store.open_facts()]
        resources = make_resources(4)
        rejoined = events.HostRejoined(HOST, resources, tuple(survivors)) if lives_on else None
        self.take(self.core.restore(facts, self.now, [rejoined] if rejoined else []))
        if rejoined is None:
            self.feed(events.HostJoined(HOST, resources))
        for client, specs in self.notebooks.items():
            self.feed(events.ClientConnected(client))
            for spec in specs.values():
                self.feed(events.FunctionDefined(client, spec))
        self.go_by_the_clock()
        for survivor in survivors:
            worker = self.workers[survivor.worker]
            self.after(DIALS_SECONDS, lambda w=worker, s=survivor: self._catch_up(w, s))  # type: ignore[misc]
        for call, asked in list(self.open.items()):
            if asked.attached:  # its client says it again, as far as it has no outcome
                del self.open[call]
                if not asked.streams:
                    self.ask(asked.pool, self.left[call], client=asked.client)

    def _outlives(self, worker: FakeWorker, *, lives_on: bool) -> Survivor | None:
        """Return what a worker holds that lives on; the others are dead from now on."""
        spec = next(
            (one[worker.pool] for one in self.notebooks.values() if worker.pool in one), None
        )
        is_plain = worker.pool in self.constant and worker.pool not in self.shared
        lent = bool(worker.leases) and worker.leases[0].lends
        if not (lives_on and worker.ready and is_plain and spec) or lent:
            self._dies(worker)
            return None
        self.dialling.add(worker.id)
        held = None
        if worker.leases:
            for lease in worker.leases[1:]:
                del worker.stops[lease.lease]
            del worker.leases[1:]
            (lease,) = worker.leases
            stop, index = worker.stops[lease.lease], worker.position + 1
            held = Held(lease.lease, lease.call, lease.start, stop, lease.attempt, index, runs=True)
            self.adopted.add(lease.lease)
        return Survivor(worker.id, spec, (), 1, "forked", 1, held)

    def _dies(self, worker: FakeWorker) -> None:
        """Let a process end with whoever would have told of that."""
        worker.dead = True
        worker.token += 1
        self._end_inputs(worker)

    def _become_ready(self, worker: FakeWorker) -> None:
        if self.chance.random() > 0.01:  # or else it hangs as it starts
            super()._become_ready(worker)

    def _catch_up(self, worker: FakeWorker, survivor: Survivor) -> None:
        """Say what a worker says that has found the next broker: what it has answered before."""
        if worker.dead:
            return
        self.dialling.discard(worker.id)
        self.feed(events.WorkerReady(worker.id))
        held = survivor.held
        if held is None or worker.dead:
            return
        is_over = not worker.leases or worker.leases[0].lease != held.lease
        stop = held.stop if is_over else worker.unreported
        if stop > held.start:
            count = stop - held.start
            self.feed(events.RangeSucceeded(worker.id, held.lease, held.start, count, 1.0))
        if is_over:
            self.feed(events.InputsReturned(worker.id, held.lease, 0, EVERYTHING))

    # -- what must be so when nobody calls

    def rows(self, table: str) -> int:
        (count,) = self.store._db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return int(count)

    def look(self) -> int:
        """Look at an hour's end: everything is over. Return how much hangs on the core."""
        self.keep()
        check(self.core)
        state = self.core._state
        assert not self.open
        assert not state.calls
        assert [state.loans, state.backlogged, state.called] == [{}, {}, {}]
        assert all(not worker.leases for worker in state.workers.values())
        assert all(host.cpu_used == 0 for host in state.hosts.values())
        assert state.clients == {CLIENT}
        assert state.nested_clients == set()
        assert not any(pool.turns or pool.nested for pool in state.pools.values())
        assert set(state.pools) == {spec.pool for spec, _ in self.functions.values()}
        floors = sum(pool.settings.min_containers for pool in state.pools.values())
        assert len(state.workers) == floors
        assert set(state.workers) == {one.id for one in self.workers.values() if not one.dead}
        assert len(state.recent) <= RECENT_CALLS
        assert state.recent_bytes == sum(
            len(one.trace) + one.history_bytes for one in state.recent.values()
        )
        assert state.recent_bytes <= RECENT_BYTES
        assert not list(self.store.open_facts())
        for table in ("objects", "call_objects"):
            assert self.rows(table) == 0, "what only open calls need"
        for call, count in self.spawned.items():
            assert sum(self.outcomes(call).values()) == count, call
        return weight(self.core)


def weight(core: Scheduler) -> int:
    """Return how many objects hang on a core, but for the traces that are remembered."""
    skipped = type, types.ModuleType, types.FunctionType, types.MethodType
    seen = {id(core._state.recent)}
    found: list[object] = [core._state]
    while found:
        one = found.pop()
        if id(one) not in seen and not isinstance(one, skipped):
            seen.add(id(one))
            found += gc.get_referents(one)
    return len(seen)


def _functions(week: Week) -> dict[str, tuple[FunctionSpec, object]]:
    """Return what the notebook defines, and how each behaves."""

    def outer(_call: CallId, _index: int, _attempt: int) -> Script:
        yield 0.5
        yield Nested(week.pool("quick"), 2)
        yield 0.5
        return ""

    def stream(call: CallId, index: int, _attempt: int) -> Script:
        for number in range(ITEMS):
            yield 1.0
            lease = next(
                (worker.id, lease.lease)
                for worker in week.workers.values()
                for lease in worker.leases
                if lease.call == call and not worker.dead
            )
            week.feed(events.ItemsYielded(*lease, index, number, 1))
        return ""

    def fails(_call: CallId, index: int, attempt: int) -> float | str:
        return "fail" if index % 7 == 3 and attempt == 1 else 8.0

    def dies(_call: CallId, index: int, _attempt: int) -> float | str:
        return "crash" if index == 0 else 1.0

    window = PoolSettings(scaledown_window_seconds=WINDOW_SECONDS)
    some = PoolSettings(max_containers=3, buffer_containers=1)
    return {
        "quick": (make_spec("quick", "0", retries=RetryPolicy(2, 2.0, 1.0)), 0.2),
        "nightly": (make_spec("nightly", settings=window), 15.0),
        "outer": (make_spec("outer", retries=RetryPolicy(1, 1.0, 1.0)), outer),
        "many": (make_spec("many", max_inputs=4, target_inputs=2), 3.0),
        "group": (make_spec("group", max_batch_size=5, batch_wait_seconds=0.5), 2.0),
        "once": (make_spec("once", rerun_on_crash=False), 4.0),
        "stream": (make_spec("stream"), stream),
        "warm": (make_spec("warm", settings=PoolSettings(min_containers=1)), 0.05),
        "hangs": (make_spec("hangs"), lambda *_: "hang"),
        "dies": (make_spec("dies"), dies),
        "deaf": (make_spec("deaf", settings=some, retries=RetryPolicy(2, 2.0, 1.0)), fails),
    }


@pytest.fixture
def week(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Week]:
    made = Week(tmp_path / "journal.db", request.param)
    yield made
    made.store.close()


def spend_an_hour(week: Week, hour: int) -> int:
    """Let an hour pass, the end of which is quiet; return how much hangs on the core then.

    Four brokers die in the first hours of a day; the last one lives on, and must not grow.
    """
    week.until = week.now + BUSY_SECONDS
    end = week.now + HOUR
    week.go_on_calling()
    if hour in {2, 3, 5, 6}:
        lives_on = hour in {2, 5}
        week.after(week.chance.uniform(0, BUSY_SECONDS), lambda: week.restart(lives_on=lives_on))
    if hour == 9:
        week.after(10, lambda: week.keep_warm(2))
    if hour == 17:
        week.after(10, lambda: week.keep_warm(0))
    week.after(week.chance.uniform(0, BUSY_SECONDS), week.edit)
    week.run(end - week.now)
    assert week.now == end
    return week.look()


SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.large) for seed in range(2, 12))]


@pytest.mark.parametrize("week", SEEDS, indirect=True)
def test_nothing_is_left_of_a_day_but_what_is_kept_for_a_week(week: Week) -> None:
    weights = [spend_an_hour(week, hour) for hour in range(24)]
    assert max(weights[18:]) <= max(weights[10:17]), weights
    first_day = dict(week.spawned)
    assert len(first_day) > 200
    assert len(week.moments()) == 24 * 4 - 1
    assert week.moments() <= first_day.keys()
    pages = _pages(week)
    _a_week_passes(week, first_day)
    assert _pages(week) <= 2 * pages, "what is dropped makes room for what comes"
    assert week.moments() <= week.spawned.keys()
    _all_goes_away(week)


def _pages(week: Week) -> int:
    (count,) = week.store._db.execute("PRAGMA page_count").fetchone()
    return int(count)


def _a_week_passes(week: Week, first_day: dict[CallId, int]) -> None:
    """Now and then somebody calls; what is older than a week is not kept, all else is."""
    week.pause = 600.0
    for part in range(3 * 8):
        spend_an_hour(week, part)
        week.run(7 * HOUR)
        week.look()
        for call, count in week.spawned.items():
            age = week.now - week.finished_at[call]
            found, _ = week.store.outcomes(call, 0, 1 << 30)
            assert bool(found) == (age <= TTL), (call, age / DAY)
            ended = week.store.ended_call(call)
            assert ended is not None
            assert ended.expired == (age > TTL)
            assert sum(ended.tally) == count
    assert set(first_day) <= set(week.expired)


def _all_goes_away(week: Week) -> None:
    """Who calls no more leaves nothing: in the end not even that it was there."""
    week.feed(events.ClientLost(CLIENT))
    week.shop = msgspec.structs.replace(week.shop, functions=())
    week.run(TTL + HOUR)
    week.keep()
    for table in ("records", "frames", "objects", "call_objects", "logs"):
        assert week.rows(table) == 0, table
    week.run(10 * TTL)
    week.keep()
    assert week.rows("calls") == 0
    state = week.core._state
    assert week.core.is_idle()
    left = [state.pools, state.pools_of_key, state.workers, state.calls, state.hosts[HOST].workers]
    assert left == [{}] * 5
    assert state.clients == set()
    assert not state.timers._heap
    assert not [worker for worker in week.workers.values() if not worker.dead]
