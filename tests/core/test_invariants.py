"""Random histories: whatever happens in whatever order, the sentences of `invariants` hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kernel_worker import records
from kernel_worker.core import effects, events
from kernel_worker.core.invariants import History, InvariantBroken, Steadiness, check
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    NO_CALL,
    CallId,
    ClientId,
    FunctionSpec,
    Held,
    HostId,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    RetryPolicy,
    Survivor,
    WorkerId,
)
from tests.core.simulation import make_resources, make_spec

CLIENTS = [ClientId("cl-a"), ClientId("cl-b")]
HOSTS = [HostId("ho-1"), HostId("ho-2")]
SPECS = [
    make_spec("f", "1", retries=RetryPolicy(2, 2.0, 0.5)),
    make_spec("f", "2", settings=PoolSettings(max_containers=2)),
    make_spec("g", "1", settings=PoolSettings(min_containers=1, buffer_containers=1)),
    make_spec("gpu", "1", resources=Resources(0.5, 1500, 1.0), rerun_on_crash=False),
    make_spec("gpu2", "1", resources=Resources(1.0, 2500, 0.5, "h200")),
    make_spec("once", "1", single_use=True, retries=RetryPolicy(1, 1.0, 0.0)),
    make_spec("many", "1", settings=PoolSettings(max_containers=2), max_inputs=4, target_inputs=2),
    make_spec("group", "1", max_batch_size=5, batch_wait_seconds=0.5),
]

picks = st.integers(0, 1_000_000)


SPEC_OF = {spec.pool: spec for spec in SPECS}
SHARED = {spec.pool: spec for spec in SPECS if spec.max_inputs > 1 or spec.max_batch_size}


class Lease:
    """What a fake worker holds, as it sees it."""

    def __init__(self, grant: effects.GrantLease) -> None:
        self.grant = grant
        self.next = grant.start
        self.stop = grant.stop
        self.is_lent = grant.lends
        """The worker keeps it until it is asked back."""
        self.is_adopted = False
        """The broker that gave it is gone: at its end the worker gives all of it back."""


class AnyHistory(RuleBasedStateMachine):
    """Peers that do anything that the protocol allows, and some things that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Scheduler("h")
        self.now = 1000.0
        self.history = History()
        self.steadiness = Steadiness()
        self.starting: dict[WorkerId, FunctionSpec] = {}
        self.ready: dict[WorkerId, list[Lease]] = {}
        self.leaving: dict[WorkerId, None] = {}
        self.asked: list[effects.TakeBack] = []
        self.interrupted: list[effects.Interrupt] = []
        self.old: list[effects.GrantLease] = []
        self.open: dict[CallId, int] = {}
        self.submitted: dict[CallId, bool] = {}
        self.hosts: set[HostId] = set()
        self.draining: set[HostId] = set()
        self.host_of: dict[WorkerId, HostId] = {}
        self.pool_of: dict[WorkerId, PoolId] = {}
        self.lingering: list[tuple[WorkerId, LeaseId]] = []
        self.records: list[Any] = []
        self.restarts = 0
        self.made = 0

    # -- what goes in and comes out

    def feed(self, event: events.Event) -> None:
        turn = self.core.handle(event, self.now)
        self.history.observe(turn)
        self.steadiness.observe(self.core, turn)
        for effect in turn:
            self.perform(effect)

    def perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.StartWorker(worker=worker, spec=spec, host=host):
                assert host in self.hosts
                self.starting[worker] = spec
                self.host_of[worker] = host
                self.pool_of[worker] = spec.pool
            case effects.StopWorker(worker=worker):
                assert not self.ready[worker]
                self.leaving[worker] = None
            case effects.KillWorker(worker=worker):
                self.leaving[worker] = None
            case effects.GrantLease(worker=worker):
                assert worker not in self.leaving
                self.ready[worker].append(Lease(effect))
                assert self.pool_of[worker] in SHARED or len(self.ready[worker]) <= 2
                self.old.append(effect)
            case effects.TakeBack():
                self.asked.append(effect)
            case effects.Interrupt():
                self.interrupted.append(effect)
            case effects.FinishCall(call=call):
                self.open.pop(call, None)
            case effects.Record(record=record):
                self.records.append(record)
            case effects.RejectCall(call=call):
                self.open.pop(call, None)
                self.submitted.pop(call, None)
            case _:
                pass

    def lease(self, pick: int) -> tuple[WorkerId, Lease] | None:
        busy = [
            (worker, lease)
            for worker, leases in self.ready.items()
            for lease in (leases if self.pool_of[worker] in SHARED else leases[:1])
        ]
        return busy[pick % len(busy)] if busy else None

    def advance(self, worker: WorkerId) -> None:
        leases = self.ready.get(worker, [])
        if self.pool_of[worker] in SHARED:
            leases[:] = [lease for lease in leases if lease.next < lease.stop]
        while leases and leases[0].next >= leases[0].stop and not leases[0].is_lent:
            leases.pop(0)

    def gone(self, worker: WorkerId) -> None:
        self.starting.pop(worker, None)
        self.ready.pop(worker, None)
        self.leaving.pop(worker, None)

    # -- clients

    def new_call(self) -> CallId:
        self.made += 1
        return CallId(f"fc-{self.made}")

    @initialize()
    def begin(self) -> None:
        self.feed(events.ClientConnected(CLIENTS[0]))
        self.join_host(0, gpus=1)
        for spec in SPECS:
            self.feed(events.FunctionDefined(CLIENTS[0], spec))

    @rule(client=st.sampled_from(CLIENTS), spec=st.sampled_from(SPECS), derived=st.booleans())
    def define(self, client: ClientId, spec: FunctionSpec, derived: bool) -> None:
        self.feed(events.ClientConnected(client))
        self.feed(events.FunctionDefined(client, spec, derived))

    @rule(
        client=st.sampled_from(CLIENTS),
        spec=st.sampled_from(SPECS),
        count=st.integers(0, 40),
        attached=st.booleans(),
        closed=st.booleans(),
        pick=st.none() | picks,
    )
    def submit(  # noqa: PLR0917
        self,
        client: ClientId,
        spec: FunctionSpec,
        count: int,
        attached: bool,
        closed: bool,
        pick: int | None,
    ) -> None:
        call = self.new_call()
        found = None if pick is None else self.lease(pick)
        self.open[call] = count
        self.submitted[call] = attached
        parent = None if found is None else self.parent_of(found[0], found[1])
        self.feed(
            events.CallSubmitted(
                client, call, spec.pool, attached, count, closed, parent=parent,
                pools=(SPECS[0].pool,), indivisible=count % 2 == 0,
            )
        )  # fmt: skip
        if parent is not None and pick is not None and pick % 3:
            self.feed(events.WorkerBlocked(parent, (call,), halts=pick % 5 == 0))

    @rule(client=st.sampled_from(CLIENTS), spec=st.sampled_from(SPECS), attached=st.booleans())
    def submit_generator(self, client: ClientId, spec: FunctionSpec, attached: bool) -> None:
        call = self.new_call()
        self.open[call] = 1
        self.submitted[call] = attached
        self.feed(
            events.CallSubmitted(client, call, spec.pool, attached, 1, closed=True, streams=True)
        )

    @rule(client=st.sampled_from(CLIENTS), spec=st.sampled_from(SPECS), deaths=st.integers(0, 2))
    def submit_lending(self, client: ClientId, spec: FunctionSpec, deaths: int) -> None:
        call = self.new_call()
        self.open[call] = 1
        self.submitted[call] = True
        self.feed(
            events.CallSubmitted(
                client, call, spec.pool, True, 1, closed=True, lends=True, deaths=deaths
            )
        )

    @rule(pick=picks, count=st.integers(0, 50), runs=st.booleans())
    def reach(self, pick: int, count: int, runs: bool) -> None:
        found = self.lease(pick)
        if found is None or not found[1].is_lent or not found[1].next:
            return
        worker, lease = found
        lease.next += count
        lease.stop = lease.next
        self.feed(events.LineReached(worker, lease.grant.lease, lease.next, 0.01, runs))

    @rule(pick=picks, ahead=st.integers(-2, 3))
    def cancel_at(self, pick: int, ahead: int) -> None:
        """Cancel what a client waits for on a line, which its worker may never have read."""
        found = self.lease(pick)
        if found is not None and found[1].is_lent:
            _, lease = found
            self.feed(
                events.CallCancelled(lease.grant.call, terminate=False, reached=lease.next + ahead)
            )

    @rule(pick=picks)
    def give_line_back(self, pick: int) -> None:
        found = self.lease(pick)
        if found is not None and found[1].is_lent:
            self.acknowledge(*found)

    def acknowledge(self, worker: WorkerId, lease: Lease) -> None:
        self.ready[worker].remove(lease)
        stop = 1 if not lease.next else lease.next
        self.feed(events.InputsReturned(worker, lease.grant.lease, lease.next, stop))

    @staticmethod
    def parent_of(worker: WorkerId, lease: Lease) -> ParentInput:
        grant = lease.grant
        return ParentInput(grant.call, lease.next, grant.attempt, worker, grant.lease)

    @precondition(lambda self: self.open)
    @rule(pick=picks, count=st.integers(1, 30))
    def add_inputs(self, pick: int, count: int) -> None:
        call = list(self.open)[pick % len(self.open)]
        self.feed(events.InputsAdded(call, self.open[call], count))
        if call in self.open:
            self.open[call] += count

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        call = list(self.open)[pick % len(self.open)]
        self.feed(events.InputsClosed(call, self.open[call]))

    @precondition(lambda self: self.submitted)
    @rule(pick=picks, terminate=st.booleans())
    def cancel(self, pick: int, terminate: bool) -> None:
        call = list(self.submitted)[pick % len(self.submitted)]
        self.feed(events.CallCancelled(call, terminate))

    @precondition(lambda self: self.submitted)
    @rule(pick=picks, goes_on=st.booleans())
    def pause_call(self, pick: int, goes_on: bool) -> None:
        call = list(self.submitted)[pick % len(self.submitted)]
        self.feed(events.CallUnpaused(call) if goes_on else events.CallPaused(call))

    @rule(client=st.sampled_from(CLIENTS))
    def lose_client(self, client: ClientId) -> None:
        self.feed(events.ClientLost(client))

    @rule(client=st.sampled_from(CLIENTS), spec=st.sampled_from(SPECS))
    def release(self, client: ClientId, spec: FunctionSpec) -> None:
        self.feed(events.FunctionReleased(client, spec.pool))

    @rule(
        spec=st.sampled_from(SPECS),
        least=st.none() | st.integers(0, 3),
        most=st.none() | st.integers(1, 3),
        buffer=st.none() | st.integers(0, 2),
        window=st.none() | st.sampled_from([0.0, 1.0, 60.0]),
    )
    def configure(
        self,
        spec: FunctionSpec,
        least: int | None,
        most: int | None,
        buffer: int | None,
        window: float | None,
    ) -> None:
        self.feed(events.PoolConfigured(CLIENTS[0], spec.pool, least, most, buffer, window))

    # -- workers

    @precondition(lambda self: self.starting)
    @rule(pick=picks)
    def become_ready(self, pick: int) -> None:
        worker = list(self.starting)[pick % len(self.starting)]
        if worker not in self.leaving:
            del self.starting[worker]
            self.ready[worker] = []
            self.feed(events.WorkerStarted(worker, 1, "forked"))
            self.feed(events.WorkerReady(worker))

    @precondition(lambda self: self.starting)
    @rule(pick=picks, lack=st.sampled_from(["", "box has no numpy"]))
    def fail_to_start(self, pick: int, lack: str) -> None:
        worker = list(self.starting)[pick % len(self.starting)]
        self.gone(worker)
        self.feed(events.WorkerStartFailed(worker, "no such module", lack))

    @rule(
        pick=picks,
        host=st.integers(0, 1),
        held=st.sets(st.integers(0, 1)),
        refuses=st.booleans(),
    )
    def hear_of_devices(self, pick: int, host: int, held: set[int], refuses: bool) -> None:
        worker = WorkerId("")
        if self.starting and refuses:
            worker = list(self.starting)[pick % len(self.starting)]
            if self.host_of[worker] != HOSTS[host]:
                worker = WorkerId("")
            else:
                self.gone(worker)
        self.feed(events.DevicesHeld(HOSTS[host], tuple(held), worker))

    @rule(
        pick=picks,
        started=st.booleans(),
        timed_out=st.booleans(),
        over=st.sampled_from([0, 0, 512]),
    )
    def exit(self, pick: int, started: bool, timed_out: bool, over: int) -> None:
        alive = [*self.ready, *self.starting]
        if alive:
            worker = alive[pick % len(alive)]
            self.end_worker(worker, started=started, timed_out=timed_out, over=over)

    def end_worker(
        self, worker: WorkerId, *, started: bool, timed_out: bool = False, over: int = 0
    ) -> None:
        leases = self.ready.get(worker, [])
        lease, position = LeaseId(0), -1
        if leases and started:
            first = leases[0].grant
            lease, position = LeaseId(first.group or first.lease), leases[0].next
        also = tuple(one.grant.lease for one in leases[1:] if not one.grant.group)
        also = also if started and self.pool_of[worker] in SHARED else ()
        self.gone(worker)
        gone = events.WorkerExited(worker, "killed", lease, position, timed_out, over, started=also)
        self.feed(gone)

    @precondition(lambda self: self.leaving)
    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        self.end_worker(list(self.leaving)[pick % len(self.leaving)], started=True)

    @rule(pick=picks, count=st.integers(1, 50), elapsed=st.sampled_from([0.0, 1e-5, 0.01, 3.0]))
    def succeed(self, pick: int, count: int, elapsed: float) -> None:
        found = self.lease(pick)
        if found is None:
            return
        worker, lease = found
        if lease.is_lent:
            lease.stop = lease.next + 1
        start, count = lease.next, min(count, lease.stop - lease.next)
        lease.next += count
        self.advance(worker)
        self.feed(events.RangeSucceeded(worker, lease.grant.lease, start, count, elapsed))
        self.give_all_back(worker, lease)

    @rule(
        pick=picks,
        outcome=st.sampled_from(
            [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED, Outcome.INIT_FAILED]
        ),
        lingers=st.booleans(),
    )
    def end_input(self, pick: int, outcome: Outcome, lingers: bool) -> None:
        found = self.lease(pick)
        if found is None:
            return
        worker, lease = found
        index = lease.next
        lease.next += 1
        self.advance(worker)
        lingers = lingers and self.pool_of[worker] in SHARED
        if lingers:
            self.lingering.append((worker, lease.grant.lease))
        self.feed(
            events.InputEnded(worker, lease.grant.lease, index, outcome, 0.001, lingers=lingers)
        )
        self.give_all_back(worker, lease)

    @precondition(lambda self: self.lingering)
    @rule(pick=picks)
    def stop_lingering(self, pick: int) -> None:
        self.feed(events.InputLeft(*self.lingering.pop(pick % len(self.lingering))))

    @precondition(lambda self: self.asked)
    @rule(pick=picks, kept=st.integers(0, 3))
    def hand_back(self, pick: int, kept: int) -> None:
        asked = self.asked.pop(pick % len(self.asked))
        leases = self.ready.get(asked.worker, [])
        lease = next((one for one in leases if one.grant.lease == asked.lease), None)
        if lease is None:
            return
        if lease.is_lent:
            self.acknowledge(asked.worker, lease)
            return
        start, stop = min(lease.next + kept, lease.stop), lease.stop
        lease.stop = start
        if lease is leases[0]:
            self.advance(asked.worker)
        elif lease.next >= lease.stop:
            leases.remove(lease)
        self.feed(events.InputsReturned(asked.worker, asked.lease, start, stop))
        self.give_all_back(asked.worker, lease)

    @precondition(lambda self: self.interrupted)
    @rule(pick=picks)
    def heed(self, pick: int) -> None:
        asked = self.interrupted.pop(pick % len(self.interrupted))
        leases = self.ready.get(asked.worker, [])
        runs = leases if self.pool_of[asked.worker] in SHARED else leases[:1]
        lease = next((one for one in runs if one.grant.lease == asked.lease), None)
        if lease is not None and lease.next == asked.index:
            lease.next += 1
            self.advance(asked.worker)
            ended = events.InputEnded(
                asked.worker, asked.lease, asked.index, Outcome.CANCELLED, 0.1
            )
            self.feed(ended)
            self.give_all_back(asked.worker, lease)

    @rule(pick=picks, more=picks, halts=st.booleans())
    def block(self, pick: int, more: int, halts: bool) -> None:
        found = self.lease(pick)
        if found is not None and self.submitted:
            calls = list(self.submitted)
            elsewhere = (NO_CALL,) if more % 11 == 0 else ()
            awaited = (calls[more % len(calls)], calls[(more // 7) % len(calls)], *elsewhere)
            self.feed(events.WorkerBlocked(self.parent_of(*found), awaited, halts))

    @rule(pick=picks)
    def resume(self, pick: int) -> None:
        found = self.lease(pick)
        if found is not None:
            self.feed(events.WorkerResumed(self.parent_of(*found)))

    @rule(pick=picks, count=st.integers(1, 9), times=st.integers(1, 3), shift=st.integers(0, 9))
    def give_items(self, pick: int, count: int, times: int, shift: int) -> None:
        found = self.lease(pick)
        if found is None:
            return
        worker, lease = found
        for _ in range(times):
            given = self.history.items.get((lease.grant.call, lease.next), 0)
            start = given + (shift == 9) - (shift == 8)
            event = events.ItemsYielded(worker, lease.grant.lease, lease.next, start, count)
            self.feed(event)

    @rule(pick=picks, paused=st.booleans())
    def pause(self, pick: int, paused: bool) -> None:
        found = self.lease(pick)
        if found is not None:
            kind = events.ProducerPaused if paused else events.ProducerResumed
            self.feed(kind(found[0], found[1].grant.lease))

    def give_all_back(self, worker: WorkerId, lease: Lease) -> None:
        """Say what a worker says at the end of a lease that another broker gave."""
        if lease.is_adopted and lease.next >= lease.stop:
            self.feed(events.InputsReturned(worker, lease.grant.lease, 0, 1 << 62))

    # -- the broker is killed, and another one follows

    @precondition(lambda self: any(self.ready.values()))
    @rule(
        ahead=st.integers(0, 9),
        repeated=st.integers(0, 9),
        is_through=st.booleans(),
        dies=st.integers(0, 9),
    )
    def restart(self, ahead: int, repeated: int, is_through: bool, dies: int) -> None:
        """Workers of the first host live on: with answers that no broker kept, some of them lost.

        Args:
            ahead: how much further workers are than the broker had heard.
            repeated: how much of that they say again.
            is_through: whether they have ended their leases by now.
            dies: which of them does not live on.
        """
        self.restarts += 1
        survivors = self.outlive(dies, is_through=is_through)
        for call in [one for one, is_attached in self.submitted.items() if is_attached]:
            del self.submitted[call]
            self.open.pop(call, None)
        self.core = Scheduler(f"h{self.restarts}", self.restarts << 32)
        self.steadiness = Steadiness()
        self.hosts = {HOSTS[0]}
        facts = [one for one in self.records if one.call not in self.history.finished]
        rejoined = events.HostRejoined(HOSTS[0], make_resources(2, 4000, 2), tuple(survivors))
        turn = self.core.restore(facts, self.now, [rejoined])
        self.history.observe(turn)
        for effect in turn:
            self.perform(effect)
        self.sentences_hold()
        self.feed(events.ClientConnected(CLIENTS[0]))
        for spec in SPECS:
            self.feed(events.FunctionDefined(CLIENTS[0], spec))
        for one in survivors:
            if one.held is not None:
                self.catch_up(one, one.held, ahead, repeated)

    def outlive(self, dies: int, *, is_through: bool) -> list[Survivor]:
        """Return those who live on; the others are gone."""
        survivors = []
        for at, worker in enumerate([*self.starting, *self.ready]):
            leases, spec = self.ready.get(worker, []), SPEC_OF[self.pool_of[worker]]
            is_odd = leases and (spec.pool in SHARED or leases[0].is_lent)
            if self.host_of[worker] != HOSTS[0] or worker in self.leaving or is_odd or at == dies:
                self.gone(worker)
                continue
            held = None
            if leases:
                grant, stop = leases[0].grant, leases[0].stop
                index = stop if is_through else leases[0].next + 1
                held = Held(
                    grant.lease, grant.call, grant.start, stop, grant.attempt, index, not is_through
                )
            devices = self.core._state.workers[worker].devices
            survivors.append(Survivor(worker, spec, devices, 1, "forked", 1, held))
            if held is None:
                self.ready.pop(worker, None)
                self.starting[worker] = spec
            else:
                del leases[1:]
        self.asked.clear()
        self.interrupted.clear()
        self.lingering.clear()
        return survivors

    def catch_up(self, survivor: Survivor, held: Held, ahead: int, repeated: int) -> None:
        """Say what a worker says that has found the new broker."""
        worker = survivor.worker
        if worker in self.leaving:
            return
        (lease,) = self.ready[worker]
        first, lease.is_adopted = lease.next, True
        lease.next = min(first + ahead, lease.stop) if held.runs else lease.stop
        is_over = lease.next == lease.stop
        if is_over:
            self.ready[worker].clear()
        self.feed(events.WorkerReady(worker))
        repeated = min(repeated, lease.next - first)
        if repeated:
            start = lease.next - repeated
            self.feed(events.RangeSucceeded(worker, held.lease, start, repeated, 0.1))
        if is_over:
            self.feed(events.InputsReturned(worker, held.lease, 0, 1 << 62))

    # -- what the protocol does not allow, or only late

    @precondition(lambda self: self.old)
    @rule(pick=picks, shift=st.integers(-3, 3), count=st.integers(1, 9))
    def answer_late(self, pick: int, shift: int, count: int) -> None:
        grant = self.old[pick % len(self.old)]
        held = [one.grant for leases in self.ready.values() for one in leases]
        if grant in held:
            return
        start = grant.start + shift
        self.feed(events.RangeSucceeded(grant.worker, grant.lease, start, count, 0.1))
        self.feed(events.InputEnded(grant.worker, grant.lease, start, Outcome.FAILED, 0.1))
        self.feed(events.InputsReturned(grant.worker, grant.lease, start, start + count))

    # -- hosts and time

    @rule(which=st.integers(0, 1), gpus=st.integers(0, 2))
    def join_host(self, which: int, gpus: int) -> None:
        if HOSTS[which] not in self.hosts:
            self.hosts.add(HOSTS[which])
            self.feed(events.HostJoined(HOSTS[which], make_resources(2, 4000, gpus)))

    @rule(which=st.integers(0, 1), rare=st.integers(0, 5))
    def lose_host(self, which: int, rare: int) -> None:
        if HOSTS[which] in self.hosts and not rare:
            self.hosts.discard(HOSTS[which])
            self.draining.discard(HOSTS[which])
            for worker, host in self.host_of.items():
                if host == HOSTS[which]:
                    self.gone(worker)
            self.feed(events.HostLost(HOSTS[which]))

    @rule(which=st.integers(0, 1), rare=st.integers(0, 3))
    def hear_nothing_of_a_host(self, which: int, rare: int) -> None:
        if not rare:
            self.feed(events.HostSilent(HOSTS[which]))

    @rule(which=st.integers(0, 1))
    def hear_of_a_host(self, which: int) -> None:
        self.feed(events.HostHeard(HOSTS[which]))

    @rule(which=st.integers(0, 1), rare=st.integers(0, 9))
    def drain_a_host(self, which: int, rare: int) -> None:
        if not rare:
            self.draining.update(self.hosts & {HOSTS[which]})
            self.feed(events.HostDraining(HOSTS[which]))

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.5, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.feed(events.TimePassed())

    @rule()
    def reach_deadline(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.feed(events.TimePassed())

    @rule()
    def look(self) -> None:
        self.core.status()
        self.core.is_idle()
        for call in self.submitted:
            self.core.call_progress(call, self.now + 5)
            self.core.call_info(call)

    @invariant()
    def sentences_hold(self) -> None:
        check(self.core)

    # -- the end: peers that behave let everything finish

    def teardown(self) -> None:
        self.restore_elsewhere()
        for which, host in enumerate(HOSTS):
            if host in self.draining:  # it was to leave, and does; what needs its devices waits
                self.lose_host(which, 0)
            self.join_host(which, 2)
            self.hear_of_a_host(which)
        for spec in SPECS:
            self.feed(events.PoolConfigured(CLIENTS[0], spec.pool, 0, 4, 0, 0.0))
        for call, count in list(self.open.items()):
            self.feed(events.InputsClosed(call, count))
        for call in self.submitted:
            self.feed(events.CallUnpaused(call))
        for _ in range(2_000):
            if not self.core.status().calls:
                break
            self.behave()
        check(self.core)
        assert not self.core.status().calls
        for call in self.submitted:
            assert call in self.history.finished
        for client in CLIENTS:
            self.feed(events.ClientLost(client))
        for _ in range(50):
            self.behave()
        assert self.core.is_idle()
        assert not self.core.status().workers
        assert not self.core.status().pools

    def behave(self) -> None:
        self.now += 1.0
        self.feed(events.TimePassed())
        for host in HOSTS:
            self.feed(events.DevicesHeld(host, ()))
        for worker in list(self.leaving):
            self.end_worker(worker, started=True)
        for worker in list(self.starting):
            if worker not in self.leaving:
                del self.starting[worker]
                self.ready[worker] = []
                self.feed(events.WorkerReady(worker))
        for worker in list(self.ready):
            while self.ready.get(worker) and worker not in self.leaving:
                lease = self.ready[worker][0]
                if lease.is_lent and lease.next:
                    self.acknowledge(worker, lease)
                    continue
                start, count = lease.next, lease.stop - lease.next
                lease.next = lease.stop
                self.advance(worker)
                self.feed(events.RangeSucceeded(worker, lease.grant.lease, start, count, 0.01))
                self.give_all_back(worker, lease)
        while self.asked:
            self.hand_back(0, 0)
        while self.lingering:
            self.stop_lingering(0)

    def restore_elsewhere(self) -> None:
        """A second scheduler that reads the records knows what is open; what was cancelled ends."""
        other = Scheduler("r")
        told = other.restore(self.records, self.now)
        check(other)
        # A generator that gave items ends, and what must not run twice where it had begun.
        ends = (records.CallCancelled, records.ItemsYielded, records.InputsLeased)
        cancelled = {one.call for one in self.records if isinstance(one, ends)}
        for effect in told:
            if isinstance(effect, effects.FinishCall):
                continue  # it was over, and nobody had said so
            about = effect.record if isinstance(effect, effects.Record) else effect
            assert getattr(about, "call", None) in cancelled
        spawned = {view.call for view in self.core.status().calls if not view.attached}
        spawned -= cancelled
        open_there = [view for view in other.status().calls if view.call not in cancelled]
        assert {view.call for view in open_there} == spawned
        for view in open_there:
            mine = self.core.call_info(view.call)
            assert mine is not None
            assert (view.succeeded, view.failed, view.cancelled) == (
                mine.succeeded, mine.failed, mine.cancelled,
            )  # fmt: skip


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)


def test_what_needs_a_device_of_a_host_that_leaves_waits_for_another() -> None:
    history = AnyHistory()
    history.begin()
    history.lose_host(1, 0)
    history.join_host(1, 0)
    history.drain_a_host(0, 0)
    needy = next(spec for spec in SPECS if spec.resources.gpu)
    history.submit(CLIENTS[0], needy, 3, attached=True, closed=True, pick=None)
    history.sentences_hold()
    history.teardown()


def test_what_a_worker_holds_runs_on_when_the_input_that_waited_for_a_call_ends() -> None:
    history = AnyHistory()
    history.begin()
    pool = {"client": CLIENTS[0], "spec": SPECS[0], "attached": False, "closed": False}
    history.submit(**pool, count=5, pick=None)
    for _ in range(3):
        history.become_ready(0)
    history.end_input(0, Outcome.FAILED, lingers=False)
    history.submit(**pool, count=0, pick=1)
    history.become_ready(0)
    waiting = list(history.ready.values())[2]
    assert len(waiting) == 2, "a second lease behind the one that waits"
    history.end_input(1, Outcome.FAILED, lingers=False)
    history.sentences_hold()
    history.teardown()


def _walk(seed: int) -> AnyHistory:
    """Return a history with many restarts, at all moments of what spawned calls run."""
    chance, history = random.Random(seed), AnyHistory()
    history.begin()

    def pick() -> int:
        return chance.randrange(1000)

    steps: list[Callable[[], object]] = [
        lambda: history.submit(
            CLIENTS[0],
            chance.choice(SPECS),
            chance.randrange(30),
            attached=chance.random() < 0.2,
            closed=True,
            pick=pick() if chance.random() < 0.2 else None,
        ),
        lambda: history.succeed(pick(), chance.randrange(1, 5), chance.choice([1e-5, 0.01, 3.0])),
        lambda: history.end_input(
            pick(), chance.choice([Outcome.FAILED, Outcome.TIMED_OUT]), lingers=False
        ),
        lambda: history.exit(pick(), started=True, timed_out=False, over=0),
        lambda: history.pass_time(chance.choice([0.02, 0.3, 2.5])),
        lambda: history.join_host(1, 0),
        lambda: history.old and history.answer_late(pick(), chance.randrange(3), 3),
        lambda: history.asked and history.hand_back(pick(), chance.randrange(3)),
        lambda: history.submitted and chance.random() < 0.2 and history.cancel(pick(), False),
    ]
    for _ in range(60):
        for _ in range(3):
            if history.starting:
                history.become_ready(pick())
        chance.choice(steps)()
        history.sentences_hold()
        if any(history.ready.values()) and chance.random() < 0.2:
            history.restart(
                chance.randrange(6),
                chance.randrange(6),
                is_through=chance.random() < 0.3,
                dies=chance.randrange(9),
            )
            history.sentences_hold()
    return history


@pytest.mark.parametrize("seed", range(60))
def test_what_runs_when_brokers_die_ends_once(seed: int) -> None:
    _walk(seed).teardown()


def test_a_broken_sentence_is_named() -> None:
    core = Scheduler("x")
    core.handle(events.HostJoined(HOSTS[0], make_resources()), 0.0)
    core._state.hosts[HOSTS[0]].cpu_used = 7.0
    with pytest.raises(InvariantBroken, match="CPUs are not given twice"):
        check(core)


def test_a_stop_before_the_window_is_flapping() -> None:
    core = Scheduler("x")
    steadiness = Steadiness()
    spec = make_spec(settings=PoolSettings(min_containers=1, scaledown_window_seconds=5))
    starting: list[events.Event] = [
        events.HostJoined(HOSTS[0], make_resources()),
        events.FunctionDefined(CLIENTS[0], spec),
        events.WorkerReady(WorkerId("ta-x-1")),
    ]
    for event in starting:
        steadiness.observe(core, core.handle(event, 0.0))
    stop = effects.StopWorker(WorkerId("ta-x-1"), HOSTS[0])
    with pytest.raises(InvariantBroken, match="after 0 s"):
        steadiness.observe(core, [stop])
    core.handle(events.TimePassed(), 5.0)
    steadiness.observe(core, [stop])
