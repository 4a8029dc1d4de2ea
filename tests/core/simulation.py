"""Fake hosts and workers in virtual time that answer the core's effects.

A simulated worker runs its leases as `wire/PROTOCOL.md` says: in order, reporting a run of values
at the end of a lease or every 10 ms, handing back what it has not started when it is asked. One of
a shared pool runs its leases, or a group of them, at once.
Every turn is checked: `invariants.check` on the state, `History` on the effects.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from kernel_worker.core import effects, events
from kernel_worker.core.invariants import History, Steadiness, check
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallId,
    ClientId,
    Device,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostId,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    RetryPolicy,
    WorkerId,
)

LATENCY_SECONDS = 0.0001
REPORT_SECONDS = 0.01

Script = Generator["float | Nested", None, str]
"""What an input does: seconds to run, calls to wait for, and how it ends at last."""
Behaviour = Callable[[CallId, int, int], "float | str | Script"]
"""(call, index, attempt) to seconds, `crash`, `fail`, `hang`, or a script."""

CLIENT = ClientId("cl-test")
HOST = HostId("ho-test")


@dataclass(frozen=True)
class Nested:
    """A call that the input makes and waits for."""

    pool: PoolId
    count: int = 1
    halts: bool = False
    """It waits so that nothing else in its worker runs."""


def make_spec(
    name: str = "f",
    version: str = "1",
    *,
    resources: Resources = Resources(),
    settings: PoolSettings = PoolSettings(),
    retries: RetryPolicy = RetryPolicy(),
    rerun_on_crash: bool = True,
    single_use: bool = False,
    max_inputs: int = 1,
    target_inputs: int = 0,
    max_batch_size: int = 0,
    batch_wait_seconds: float = 0.0,
) -> FunctionSpec:
    """Return a spec whose pool is named after function and version."""
    return FunctionSpec(
        pool=PoolId(f"po-{name}-{version}"),
        key=FunctionKey(f"cl/app/{name}"),
        name=name,
        module="__main__",
        version=Digest(version),
        code=Digest(version),
        environment=Digest("e"),
        resources=resources,
        settings=settings,
        retries=retries,
        timeout_seconds=10,
        rerun_on_crash=rerun_on_crash,
        single_use=single_use,
        max_inputs=max_inputs,
        target_inputs=target_inputs,
        max_batch_size=max_batch_size,
        batch_wait_seconds=batch_wait_seconds,
    )


def make_resources(cpu: float = 2.0, memory_mib: int = 4000, gpus: int = 0) -> HostResources:
    """Return what a host has; its devices are H200s."""
    return HostResources(cpu, memory_mib, tuple(Device(i, "NVIDIA H200") for i in range(gpus)))


@dataclass
class FakeWorker:
    """A worker process."""

    id: WorkerId
    pool: PoolId
    ready: bool = False
    dead: bool = False
    leases: list[effects.GrantLease] = field(default_factory=list)
    stops: dict[LeaseId, int] = field(default_factory=dict)
    position: int = -1
    """The input that runs, or -1."""
    unreported: int = 0
    """The first input of the first lease that has no answer."""
    work_since: float = 0.0
    token: int = 0
    """Changes when what was scheduled for the running input is void."""
    script: Script | None = None
    awaits: CallId | None = None
    halted: bool = False
    held: list[effects.GrantLease] = field(default_factory=list)
    """What arrived while an input that waits keeps everything else from running."""


class FakeInput:
    """An input, or a group of them, that runs in a worker beside others."""

    def __init__(self, worker: FakeWorker, leases: list[effects.GrantLease], began: float) -> None:
        self.worker = worker
        self.leases = leases
        self.began = began
        self.token = 0
        self.script: Script | None = None
        self.awaits: CallId | None = None

    @property
    def parent(self) -> ParentInput:
        lease = self.leases[0]
        return ParentInput(lease.call, lease.start, lease.attempt, lease.worker, lease.lease)


class Simulation:
    """One broker, one host, any number of fake workers."""

    def __init__(
        self, resources: HostResources | None = None, *, checked: bool = True, start: float = 0.01
    ) -> None:
        self.core = Scheduler("t")
        self.now = 100.0
        self.start_seconds = start
        self.checked = checked
        self.history = History()
        self.steadiness = Steadiness()
        self.workers: dict[WorkerId, FakeWorker] = {}
        self.behaviours: dict[PoolId, Behaviour] = {}
        self.constant: dict[PoolId, float] = {}
        self.effects: Counter[str] = Counter()
        self.log: list[effects.Effect] = []
        self.started: Counter[tuple[CallId, int]] = Counter()
        self.begun_at: dict[tuple[CallId, int], float] = {}
        self.finished_at: dict[CallId, float] = {}
        self.pool_of: dict[CallId, PoolId] = {}
        self.left: dict[CallId, int] = {}
        self.running_most: Counter[PoolId] = Counter()
        self.shared: dict[PoolId, FunctionSpec] = {}
        self.inputs: dict[LeaseId, FakeInput] = {}
        """What runs in workers of shared pools, by each of its leases."""
        self.groups: list[list[effects.GrantLease]] = []
        """The groups that began, in order."""
        self.alive_most = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.next_call = CallId("fc-1")
        self.feed(events.ClientConnected(CLIENT))
        self.feed(events.HostJoined(HOST, resources or make_resources()))

    # -- driving it

    def define(self, spec: FunctionSpec, behaviour: Behaviour | float = 0.001) -> PoolId:
        """Define a function; a number is the seconds that every input takes."""
        if callable(behaviour):
            self.behaviours[spec.pool] = behaviour
        else:
            self.constant[spec.pool] = behaviour
        if spec.max_inputs > 1 or spec.max_batch_size:
            self.shared[spec.pool] = spec
        self.feed(events.FunctionDefined(CLIENT, spec))
        return spec.pool

    def submit(self, pool: PoolId, count: int, *, attached: bool = True, batch: int = 0) -> CallId:
        """Submit a closed call of `count` inputs, in batches of `batch` if given."""
        call = self._new_call()
        self.pool_of[call] = pool
        self.left[call] = count
        batch = batch or count or 1
        self.feed(
            events.CallSubmitted(
                CLIENT, call, pool, attached, min(batch, count), closed=batch >= count
            )
        )
        for start in range(batch, count, batch):
            self.feed(events.InputsAdded(call, start, min(batch, count - start), indivisible=True))
        if batch < count:
            self.feed(events.InputsClosed(call, count))
        return call

    def feed(self, event: events.Event) -> None:
        """Give the core an event and perform what it says."""
        self.take(self.core.handle(event, self.now))

    def take(self, turn: Sequence[effects.Effect]) -> None:
        """Look at what the core says, and perform it."""
        if self.checked:
            check(self.core)
            self.history.observe(turn)
            self.steadiness.observe(self.core, turn)
        for effect in turn:
            self.effects[type(effect).__name__] += 1
            self.log.append(effect)
            self._perform(effect)
        self.alive_most = max(self.alive_most, sum(not w.dead for w in self.workers.values()))

    def run(self, seconds: float = 1_000.0, until: Callable[[], bool] | None = None) -> None:
        """Let time pass until nothing is scheduled, `until` is true or `seconds` are over."""
        end = self.now + seconds
        while not (until and until()):
            deadline = self.core.next_deadline()
            next_event = self._heap[0][0] if self._heap else None
            times = [time for time in (deadline, next_event) if time is not None]
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times))
            if next_event is not None and next_event <= self.now:
                heapq.heappop(self._heap)[2]()
            else:
                self.feed(events.TimePassed())

    def run_call(self, call: CallId) -> float:
        """Let time pass until the call has finished; return how long that took in seconds."""
        begun = self.now
        self.run(until=lambda: call in self.finished_at)
        return self.finished_at[call] - begun

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule something."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), action))

    def outcomes(self, call: CallId) -> Counter[str]:
        """Return how many inputs of the call ended how."""
        return Counter(self.history.reported.get(call, {}).values())

    def kill(self, worker: FakeWorker, cause: str = "killed by SIGKILL") -> None:
        """Let the process die, and the host notice."""
        if worker.dead:
            return
        worker.dead = True
        worker.token += 1
        lease = worker.leases[0].lease if worker.leases and worker.position >= 0 else LeaseId(0)
        position = worker.position
        also: tuple[LeaseId, ...] = ()
        if runs := self._end_inputs(worker):
            first = runs[0].leases[0]
            lease, position = LeaseId(first.group or first.lease), first.start
            also = tuple(one.leases[0].lease for one in runs[1:])
        event = events.WorkerExited(worker.id, cause, lease, position, started=also)
        self.after(LATENCY_SECONDS, lambda: self.feed(event))

    def alive(self, pool: PoolId) -> list[FakeWorker]:
        """Return the pool's processes that live."""
        return [w for w in self.workers.values() if w.pool == pool and not w.dead]

    def _new_call(self) -> CallId:
        call = self.next_call
        self.next_call = CallId(f"fc-{int(call[3:]) + 1}")
        return call

    # -- performing effects

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.StartWorker():
                worker = FakeWorker(effect.worker, effect.spec.pool)
                self.workers[effect.worker] = worker
                self.after(self.start_seconds, lambda: self._become_ready(worker))
            case effects.StopWorker() | effects.KillWorker():
                stopped = self.workers[effect.worker]
                if isinstance(effect, effects.StopWorker):
                    assert not stopped.leases
                self.after(LATENCY_SECONDS, lambda: self.kill(stopped, "stopped"))
            case effects.GrantLease():
                self.after(LATENCY_SECONDS, lambda: self._receive(effect))
            case effects.TakeBack():
                self.after(LATENCY_SECONDS, lambda: self._hand_back(effect))
            case effects.Interrupt():
                self.after(LATENCY_SECONDS, lambda: self._interrupt(effect))
            case effects.ReportRange(call=call, start=start, stop=stop):
                self._deliver(call, stop - start)
            case effects.ReportEnd(call=call, count=count):
                self._deliver(call, count)
            case effects.FinishCall():
                self.finished_at[effect.call] = self.now
            case _:
                pass

    def _become_ready(self, worker: FakeWorker) -> None:
        if worker.dead:
            return
        behaviour = self.behaviours.get(worker.pool)
        if behaviour is not None and behaviour(CallId(""), -1, 0) == "crash":
            self.kill(worker, "exit code 1")
            return
        worker.ready = True
        self.feed(events.WorkerReady(worker.id))

    def _receive(self, lease: effects.GrantLease) -> None:
        worker = self.workers[lease.worker]
        if worker.dead:
            return
        if worker.pool in self.shared:
            self._receive_shared(worker, lease)
            return
        worker.leases.append(lease)
        worker.stops[lease.lease] = lease.stop
        if len(worker.leases) == 1:
            self._begin_lease(worker)

    def _begin_lease(self, worker: FakeWorker) -> None:
        if not worker.leases:
            worker.position = -1
            return
        lease = worker.leases[0]
        worker.unreported = worker.position = lease.start
        worker.work_since = self.now
        seconds = self.constant.get(worker.pool)
        count = worker.stops[lease.lease] - lease.start
        if seconds is not None and count * seconds < 2 * REPORT_SECONDS:
            worker.position = lease.stop - 1
            self._schedule(worker, count * seconds, lambda: self._end_input(worker))
        else:
            self._begin_input(worker)

    def _begin_input(self, worker: FakeWorker) -> None:
        lease = worker.leases[0]
        if worker.position >= worker.stops[lease.lease]:
            self._report(worker)
            self._end_lease(worker)
            return
        self.started[lease.call, worker.position] += 1
        self.begun_at.setdefault((lease.call, worker.position), self.now)
        running = sum(
            w.position >= 0 and w.awaits is None and not w.dead for w in self.alive(worker.pool)
        )
        self.running_most[worker.pool] = max(self.running_most[worker.pool], running)
        if worker.pool in self.constant:
            self._schedule(worker, self.constant[worker.pool], lambda: self._end_input(worker))
            return
        does = self.behaviours[worker.pool](lease.call, worker.position, lease.attempt)
        if isinstance(does, str):
            self._end_badly(worker, does)
        elif isinstance(does, (int, float)):
            self._schedule(worker, does, lambda: self._end_input(worker))
        else:
            worker.script = does
            self._continue(worker)

    def _continue(self, worker: FakeWorker) -> None:
        assert worker.script is not None
        try:
            step = next(worker.script)
        except StopIteration:
            worker.script = None
            self._end_input(worker)
            return
        if isinstance(step, Nested):
            self._call_and_wait(worker, step)
        else:
            self._schedule(worker, step, lambda: self._continue(worker))

    def _call_and_wait(self, worker: FakeWorker, step: Nested) -> None:
        lease = worker.leases[0]
        parent = ParentInput(lease.call, worker.position, lease.attempt, worker.id, lease.lease)
        call = self._new_call()
        self.pool_of[call] = step.pool
        self.left[call] = step.count
        worker.awaits = call
        client = ClientId(f"cl-{worker.id}")
        self.feed(
            events.CallSubmitted(
                client, call, step.pool, True, step.count, closed=True, parent=parent
            )
        )
        self.feed(events.WorkerBlocked(parent, (call,)))

    def _deliver(self, call: CallId, count: int) -> None:
        if call not in self.left:
            return
        self.left[call] -= count
        for one in {id(each): each for each in self.inputs.values()}.values():
            if one.awaits == call:
                self.after(LATENCY_SECONDS, lambda one=one: self._wake_input(one))  # type: ignore[misc]
        for worker in self.workers.values():
            if worker.awaits == call and not worker.dead:
                self._schedule(worker, LATENCY_SECONDS, lambda w=worker: self._wake(w))  # type: ignore[misc]

    def _wake(self, worker: FakeWorker) -> None:
        assert worker.awaits is not None
        if self.left[worker.awaits] == 0:
            worker.awaits = None
            self._continue(worker)
            return
        lease = worker.leases[0]
        parent = ParentInput(lease.call, worker.position, lease.attempt, worker.id, lease.lease)
        self.feed(events.WorkerBlocked(parent, (worker.awaits,)))

    def _end_input(self, worker: FakeWorker) -> None:
        worker.position += 1
        if self.now - worker.work_since >= REPORT_SECONDS:
            self._report(worker)
        self._begin_input(worker)

    def _end_badly(self, worker: FakeWorker, how: str) -> None:
        if how == "crash":
            self.kill(worker, "killed by SIGSEGV")
        elif how == "fail":
            self._schedule(worker, 0.0001, lambda: self._answer(worker, Outcome.FAILED))

    def _answer(self, worker: FakeWorker, outcome: Outcome) -> None:
        self._report(worker)
        lease = worker.leases[0]
        elapsed = self.now - worker.work_since
        event = events.InputEnded(worker.id, lease.lease, worker.position, outcome, elapsed)
        worker.position += 1
        worker.unreported = worker.position
        worker.work_since = self.now
        worker.awaits = worker.script = None
        self.after(LATENCY_SECONDS, lambda: self.feed(event))
        self._begin_input(worker)

    def _report(self, worker: FakeWorker) -> None:
        count = worker.position - worker.unreported
        if count:
            event = events.RangeSucceeded(
                worker.id,
                worker.leases[0].lease,
                worker.unreported,
                count,
                self.now - worker.work_since,
            )
            self.after(LATENCY_SECONDS, lambda: self.feed(event))
        worker.unreported = worker.position
        worker.work_since = self.now

    def _end_lease(self, worker: FakeWorker) -> None:
        del worker.stops[worker.leases.pop(0).lease]
        self._begin_lease(worker)

    # -- workers that run several at once

    def _receive_shared(self, worker: FakeWorker, lease: effects.GrantLease) -> None:
        worker.leases.append(lease)
        leases = [lease]
        if lease.group:
            leases = [one for one in worker.leases if one.group == lease.group]
            if len(leases) < lease.group_size:
                return
            self.groups.append(leases)
        elif worker.halted:
            worker.held.append(lease)
            return
        self._begin_shared(worker, leases)

    def _begin_shared(self, worker: FakeWorker, leases: list[effects.GrantLease]) -> None:
        lease = leases[0]
        one = FakeInput(worker, leases, self.now)
        self.inputs.update((each.lease, one) for each in leases)
        for each in leases:
            self.started.update((each.call, index) for index in range(each.start, each.stop))
        running = sum(not each.awaits for each in self._inputs_in(worker.pool))
        self.running_most[worker.pool] = max(self.running_most[worker.pool], running)
        does: float | str | Script = self.constant.get(worker.pool, 0.0)
        if worker.pool in self.behaviours:
            does = self.behaviours[worker.pool](lease.call, leases[0].start, lease.attempt)
        if does == "crash":
            self.kill(worker, "killed by SIGSEGV")
        elif does == "fail":
            self._answer_input(one, Outcome.FAILED)
        elif isinstance(does, (int, float)):
            self._later(one, does, lambda: self._answer_input(one, Outcome.SUCCEEDED))
        elif not isinstance(does, str):
            one.script = does
            self._continue_input(one)

    def _inputs_in(self, pool: PoolId) -> list[FakeInput]:
        return [
            one
            for lease, one in self.inputs.items()
            if one.worker.pool == pool and one.leases[0].lease == lease
        ]

    def _continue_input(self, one: FakeInput) -> None:
        assert one.script is not None
        step = next(one.script, None)
        if step is None:
            self._answer_input(one, Outcome.SUCCEEDED)
        elif isinstance(step, Nested):
            one.worker.halted = step.halts
            call = self._new_call()
            self.pool_of[call] = step.pool
            self.left[call] = step.count
            one.awaits = call
            client = ClientId(f"cl-{one.worker.id}")
            made = events.CallSubmitted(
                client, call, step.pool, True, step.count, closed=True, parent=one.parent
            )
            self.feed(made)
            self.feed(events.WorkerBlocked(one.parent, (call,), step.halts))
        else:
            self._later(one, step, lambda: self._continue_input(one))

    def _wake_input(self, one: FakeInput) -> None:
        if one.awaits is None or one.leases[0].lease not in self.inputs:
            return
        if self.left[one.awaits]:
            self.feed(events.WorkerBlocked(one.parent, (one.awaits,), one.worker.halted))
            return
        one.awaits = None
        one.worker.halted = False
        held = one.worker.held[:]
        one.worker.held.clear()
        for lease in held:
            self._begin_shared(one.worker, [lease])
        self._continue_input(one)

    def _answer_input(self, one: FakeInput, outcome: Outcome) -> None:
        elapsed = self.now - one.began
        for lease in one.leases:
            self._forget_input(lease)
            count = lease.stop - lease.start
            if outcome is Outcome.SUCCEEDED:
                event: events.Event = events.RangeSucceeded(
                    lease.worker, lease.lease, lease.start, count, elapsed
                )
                self.after(LATENCY_SECONDS, lambda event=event: self.feed(event))  # type: ignore[misc]
                continue
            for index in range(lease.start, lease.stop):
                event = events.InputEnded(lease.worker, lease.lease, index, outcome, elapsed)
                self.after(LATENCY_SECONDS, lambda event=event: self.feed(event))  # type: ignore[misc]

    def _forget_input(self, lease: effects.GrantLease) -> None:
        one = self.inputs.pop(lease.lease)
        one.token += 1
        one.worker.leases.remove(lease)

    def _end_inputs(self, worker: FakeWorker) -> list[FakeInput]:
        """Stop what runs in a worker that dies; return it."""
        runs = [one for one in self._inputs_in(worker.pool) if one.worker is worker]
        for one in runs:
            for lease in one.leases:
                self._forget_input(lease)
        return runs

    def _later(self, one: FakeInput, seconds: float, action: Callable[[], None]) -> None:
        token = one.token
        self.after(seconds, lambda: action() if one.token == token else None)

    def _hand_back(self, asked: effects.TakeBack) -> None:
        worker = self.workers[asked.worker]
        held = next((one for one in worker.held if one.lease == asked.lease), None)
        if worker.pool in self.shared:
            start = stop = 0
            if held is not None:
                worker.held.remove(held)
                worker.leases.remove(held)
                start, stop = held.start, held.stop
            returned = events.InputsReturned(worker.id, asked.lease, start, stop)
            self.after(LATENCY_SECONDS, lambda: self.feed(returned))
            return
        if worker.dead or not worker.leases or asked.lease not in worker.stops:
            return
        first = worker.leases[0].lease == asked.lease
        lease = next(one for one in worker.leases if one.lease == asked.lease)
        start = worker.position + 1 if first else lease.start
        stop = worker.stops[asked.lease]
        start = min(start, stop)
        worker.stops[asked.lease] = start
        if not first:
            worker.leases.remove(lease)
            del worker.stops[asked.lease]
        event = events.InputsReturned(worker.id, asked.lease, start, stop)
        self.after(LATENCY_SECONDS, lambda: self.feed(event))

    def _interrupt(self, effect: effects.Interrupt) -> None:
        if (one := self.inputs.get(effect.lease)) is not None and not one.leases[0].group:
            self._answer_input(one, Outcome.CANCELLED)
            return
        worker = self.workers[effect.worker]
        runs = worker.leases and worker.leases[0].lease == effect.lease
        if not worker.dead and runs and worker.position == effect.index:
            worker.token += 1
            self._answer(worker, Outcome.CANCELLED)

    def _schedule(self, worker: FakeWorker, seconds: float, action: Callable[[], None]) -> None:
        worker.token += 1
        token = worker.token
        self.after(seconds, lambda: action() if worker.token == token else None)
