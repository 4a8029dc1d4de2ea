"""Fake hosts and workers in virtual time that answer the core's effects.

A simulated worker runs its leases as `wire/PROTOCOL.md` says: in order, reporting a run of values
at the end of a lease or every 5 ms, handing back what it has not started when it is asked.
Every turn is checked: `invariants.check` on the state, `History` on the effects.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Generator
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
REPORT_SECONDS = 0.005

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


def make_spec(
    name: str = "f",
    version: str = "1",
    *,
    resources: Resources = Resources(),
    settings: PoolSettings = PoolSettings(),
    retries: RetryPolicy = RetryPolicy(),
    rerun_on_crash: bool = True,
    single_use: bool = False,
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
        turn = self.core.handle(event, self.now)
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
        event = events.WorkerExited(worker.id, cause, lease, position)
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

    def _hand_back(self, asked: effects.TakeBack) -> None:
        worker = self.workers[asked.worker]
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
        worker = self.workers[effect.worker]
        runs = worker.leases and worker.leases[0].lease == effect.lease
        if not worker.dead and runs and worker.position == effect.index:
            worker.token += 1
            self._answer(worker, Outcome.CANCELLED)

    def _schedule(self, worker: FakeWorker, seconds: float, action: Callable[[], None]) -> None:
        worker.token += 1
        token = worker.token
        self.after(seconds, lambda: action() if worker.token == token else None)
