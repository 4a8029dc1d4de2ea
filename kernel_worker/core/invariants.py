"""What is always true, as sentences with code. Tests run `check` after every event.

`check` looks at the state. `History` looks at what went in and came out, for what no state shows:
that every input is reported once, and nothing dispatched or reported before its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeGuard

from kernel_worker import records, traces
from kernel_worker.core import effects
from kernel_worker.core.granting import unstarted
from kernel_worker.core.hosts import EPSILON
from kernel_worker.core.pools import Condition
from kernel_worker.core.sharing import next_shared
from kernel_worker.core.transitions import TERMINAL, InputState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kernel_worker.core.calls import Call
    from kernel_worker.core.pools import Worker
    from kernel_worker.core.scheduler import Scheduler
    from kernel_worker.core.state import State
    from kernel_worker.model import CallId, WorkerId


class InvariantBroken(AssertionError):  # noqa: N818  reads as the fact that it is
    """A sentence of this module is not true."""


def check(scheduler: Scheduler) -> None:
    """Raise `InvariantBroken` unless every sentence holds of the scheduler's state."""
    state = scheduler._state  # noqa: SLF001  the one reader of another room's inside
    for sentence, holds in SENTENCES.items():
        trouble = holds(state)
        if trouble:
            message = f"not true: {sentence}: {trouble}"
            raise InvariantBroken(message)


def _one_live_lease_per_input(state: State) -> str:
    for call in state.calls.values():
        held = _joined([(lease.next, lease.stop) for lease in call.leases.values()])
        if held is None:
            return f"{call.id}: an input is leased twice"
        leased = _joined(
            [
                (low, high)
                for low, high, one in call.states.runs(call.states.begin, call.states.end)
                if one in {InputState.LEASED, InputState.CANCELLING}
            ]
        )
        if leased != held:
            return f"{call.id}: leased are {leased}, leases hold {held}"
    return ""


def _backlog_is_what_is_pending(state: State) -> str:
    for call in state.calls.values():
        waiting = _joined([(one.start, one.stop) for one in call.backlog])
        pending = _joined(call.states.pending_runs())
        count = sum(one.stop - one.start for one in call.backlog)
        if waiting != pending or call.backlog.count != count:
            return f"{call.id}: {waiting} wait, {pending} are PENDING"
        if call.eligible and not call.in_turn:
            return f"{call.id} waits and has no turn"
    for pool in state.pools.values():
        if pool.backlog != sum(call.eligible for call in pool.calls.values()):
            return f"{pool.id} counts {pool.backlog}"
        if bool(pool.backlog) != (pool.id in state.backlogged):
            return f"{pool.id} is misfiled"
    return ""


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """Return ranges sorted, neighbours joined and empty ones left out; None where two overlap."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(one for one in ranges if one[0] < one[1]):
        if joined and start < joined[-1][1]:
            return None
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _delays_are_what_is_delayed(state: State) -> str:
    for call in state.calls.values():
        if call.states.counts[InputState.DELAYED] != len(call.delays):
            return f"{call.id}: {call.delays}"
    return ""


def _counts_are_true(state: State) -> str:
    for call in state.calls.values():
        found = [0] * len(InputState)
        for low, high, one in call.states.runs(call.states.begin, call.states.end):
            found[one] += high - low
        counted = call.states.counts
        over = sum(counted[one] - found[one] for one in TERMINAL)
        live = [one for one in InputState if 0 < one < min(TERMINAL)]
        same = all(found[one] == counted[one] for one in live)
        same = same and sum(found[one] for one in live) == call.states.live
        if not same or not 0 <= over <= call.states.begin:
            return f"{call.id}: {found}, counted {counted}"
    return ""


def _open_calls_are_not_over(state: State) -> str:
    return ", ".join(call.id for call in state.calls.values() if call.is_over)


def _ceilings_hold(state: State) -> str:
    for pool in state.pools.values():
        granted = sum(not worker.resumed for worker in pool.workers_in(Condition.BUSY).values())
        if granted > pool.ceiling and pool.settings == pool.spec.settings:
            return f"{pool.id} runs {granted} of {pool.ceiling}"
    return ""


def _cpus_are_not_oversubscribed(state: State) -> str:
    for host in state.hosts.values():
        on_cpu = [w for w in host.workers.values() if w.on_cpu]
        used = sum(w.pool.spec.resources.cpu for w in on_cpu)
        granted = sum(w.pool.spec.resources.cpu for w in on_cpu if not w.resumed)
        if abs(used - host.cpu_used) > EPSILON * 100:
            return f"{host.id} counts {host.cpu_used}, used are {used}"
        if granted > host.resources.cpu + EPSILON * 100:
            return f"{host.id} gave {granted} of {host.resources.cpu}"
    return ""


def _memory_and_devices_are_not_oversubscribed(state: State) -> str:
    for host in state.hosts.values():
        memory = sum(w.pool.spec.resources.memory_mib for w in host.workers.values())
        if memory > host.resources.memory_mib:
            return f"{host.id} gave {memory} MiB"
        over = {i: use for i, use in host.device_use().items() if use > 1 + EPSILON * 100}
        if over:
            return f"{host.id} gave {over}"
    return ""


def _who_was_refused_has_another_host(state: State) -> str:
    pools = state.pools.values()
    return ", ".join(p.id for p in pools if p.refusals and not state.has_host_for(p))


def _conditions_are_true(state: State) -> str:
    for pool in state.pools.values():
        found = sum(worker.condition < Condition.BLOCKED for worker in pool.workers.values())
        if found != pool.unblocked:
            return f"{pool.id} counts {pool.unblocked} unblocked workers, there are {found}"
        if sum(map(len, pool.by_condition)) != len(pool.workers):
            return f"{pool.id} files a worker twice"
    for worker in state.workers.values():
        if worker.id not in worker.pool.workers_in(worker.condition):
            return f"{worker.id} is misfiled"
        if worker.waiting != sum(bool(lease.awaited) for lease in worker.leases.values()):
            return f"{worker.id} counts {worker.waiting} blocked leases"
        expected = bool(worker.leases) and not worker.waits
        if worker.on_cpu != expected:
            return f"{worker.id}: on a CPU {worker.on_cpu}"
        if worker.condition in {Condition.STARTING, Condition.IDLE} and worker.leases:
            return f"{worker.id} is {worker.condition.name} with leases"
    return ""


def _waiters_are_blocked_workers(state: State) -> str:
    for call in state.calls.values():
        if bool(call.waiters) != (call.id in call.pool.nested):
            return f"{call.id} is misfiled"
        for lease in call.waiters.values():
            worker = state.workers.get(lease.worker.id)
            if worker is None or lease.id not in worker.leases or call.id not in lease.awaited:
                return f"lease {lease.id} does not wait for {call.id}"
    return ""


def _generators_that_gave_do_not_run_again(state: State) -> str:
    for call in state.calls.values():
        for index, life in call.lives.items():
            runs = call.states.at(index) in {InputState.LEASED, InputState.CANCELLING}
            if life.items and not runs:
                return f"{call.id} {index} gave {life.items} items and does not run"
    return ""


def _paused_are_those_that_stream(state: State) -> str:
    for worker in state.workers.values():
        if worker.paused is None:
            continue
        lease = worker.leases.get(worker.paused)
        if lease is None or not lease.call.streams:
            return f"{worker.id} is paused in {worker.paused}"
    return ""


def _nothing_runnable_waits(state: State) -> str:
    for pool in state.backlogged.values():
        if pool.is_shared:
            if (found := next_shared(state, pool)) is not None:
                return f"{found[0].id} could run {found[1].id}"
            continue
        for worker in pool.workers_in(Condition.IDLE).values():
            free = worker.host.has_cpu(pool.spec.resources.cpu) and not worker.draining
            if free and pool.count(Condition.BUSY) < pool.ceiling:
                return f"{worker.id} is idle"
    return ""


def _traces_tell_of_what_has_ended(state: State) -> str:
    for call in state.calls.values():
        if not call.attached:
            continue
        told = _joined([(r.start, r.start + r.size) for r in traces.rows_of(call.trace)])
        if told is None:
            return f"{call.id}: its trace tells of an input twice"
        count, ended = sum(stop - start for start, stop in told), call.states.ended
        if count != ended:
            return f"{call.id}: {ended} inputs have ended, its trace tells of {count}"
    return ""


def _workers_share_what_they_may(state: State) -> str:
    for worker in state.workers.values():
        pool, leases = worker.pool, worker.leases.values()
        if not pool.is_shared:
            continue
        if len({lease.call.kinship for lease in leases}) > 1:
            return f"{worker.id} runs inputs of calls that are not kin"
        granted = sum(not lease.awaited and not lease.resumed for lease in leases)
        if pool.is_concurrent and granted > pool.spec.max_inputs:
            return f"{worker.id} runs {granted} of {pool.spec.max_inputs} inputs"
        if not pool.is_concurrent:
            count = sum(lease.stop - lease.start for lease in leases)
            if count > pool.spec.max_batch_size or len({lease.group for lease in leases}) > 1:
                return f"{worker.id} runs {count} inputs, a group is {pool.spec.max_batch_size}"
    return ""


def _loans_are_what_calls_lend(state: State) -> str:
    for lease in state.loans.values():
        worker = state.workers.get(lease.worker.id)
        if worker is None or list(worker.leases) != [lease.id] or lease.id not in lease.call.leases:
            return f"{lease.id} is no live lease, or not the only one of {lease.worker.id}"
    lending = {call.id for call in state.calls.values() if call.lends}
    lent = {lease.call.id for lease in state.loans.values()}
    return "" if lending == lent else f"{lending} lend, lent are {lent}"


def _nobody_waits_for_what_is_lent(state: State) -> str:
    if not state.backlogged:
        return ""
    return ", ".join(f"{one.id} is lent" for one in state.loans.values() if not one.asked_back)


def _divisible_are_known(state: State) -> str:
    for pool in state.pools.values():
        held = {
            lease.id: unstarted(lease)
            for worker in pool.workers.values()
            for lease in worker.leases.values()
        }
        if not pool.divisible.keys() <= held.keys():
            return f"{pool.id}: of {[*pool.divisible]} some are no live lease"
        if any(count > 0 and lease not in pool.divisible for lease, count in held.items()):
            return f"{pool.id}: of {held} only {[*pool.divisible]} are known"
    return ""


SENTENCES: Final[dict[str, Callable[[State], str]]] = {
    "an input is leased exactly while one live lease holds it": _one_live_lease_per_input,
    "the backlog is what is PENDING": _backlog_is_what_is_pending,
    "what is DELAYED has a time": _delays_are_what_is_delayed,
    "the counts of states are true": _counts_are_true,
    "the trace of an attached call tells of what has ended": _traces_tell_of_what_has_ended,
    "a call that is over is forgotten": _open_calls_are_not_over,
    "a pool runs no more inputs at once than its ceiling": _ceilings_hold,
    "a worker runs no more inputs at once than it may": _workers_share_what_they_may,
    "who was refused by hosts has another one": _who_was_refused_has_another_host,
    "CPUs are not given twice": _cpus_are_not_oversubscribed,
    "memory and devices are not given twice": _memory_and_devices_are_not_oversubscribed,
    "a worker's condition follows from its leases": _conditions_are_true,
    "who waits for a call is blocked on it": _waiters_are_blocked_workers,
    "a generator that has given items is never waiting to run": (
        _generators_that_gave_do_not_run_again
    ),
    "a pool knows its leases of which something has not begun": _divisible_are_known,
    "only the generator of a live lease is paused": _paused_are_those_that_stream,
    "no input waits while a worker could run it": _nothing_runnable_waits,
    "a loan is the only lease of its worker, and lives as long as its call lends": (
        _loans_are_what_calls_lend
    ),
    "what is lent was asked back where anybody waits": _nobody_waits_for_what_is_lent,
}


class History:
    """What went out, checked against what no state remembers."""

    def __init__(self) -> None:
        """Make an empty history."""
        self.reported: dict[CallId, dict[int, str]] = {}
        self.finished: set[CallId] = set()
        self.items: dict[tuple[CallId, int], int] = {}
        """How many items of each generator were reported."""
        self._recorded_items: dict[tuple[CallId, int], int] = {}
        self._recorded: dict[CallId, set[int]] = {}
        self._spawned: set[CallId] = set()

    def observe(self, turn: Iterable[effects.Effect], open_calls: Iterable[Call] = ()) -> None:
        """Take the effects of one turn in, or raise `InvariantBroken`."""
        self._spawned.update(call.id for call in open_calls if not call.attached)
        for effect in turn:
            match effect:
                case effects.Record(record=record):
                    self._record(record)
                case effects.ReportRange(call=call, start=start, stop=stop):
                    self._report(call, start, stop, "SUCCEEDED")
                case effects.ReportItems():
                    self._report_items(effect)
                case effects.ReportEnd(call=call, index=index, count=count, outcome=outcome):
                    self._report(call, index, index + count, outcome.name)
                case effects.GrantLease(call=call) | effects.AcceptCall(call=call):
                    self._check_submitted(call)
                case effects.FinishCall(call=call):
                    if call in self.finished:
                        raise InvariantBroken(f"{call} is finished twice")
                    self.finished.add(call)
                case _:
                    pass

    def _record(self, record: records.Record) -> None:
        recorded = self._recorded.setdefault(record.call, set())
        self._spawned.add(record.call)
        match record:
            case records.RangeSucceeded(start=start, stop=stop):
                recorded.update(range(start, stop))
            case records.InputEnded(index=index, count=count):
                recorded.update(range(index, index + count))
            case records.ItemsYielded(call=call, index=index, start=start, count=count):
                self._recorded_items[call, index] = start + count
            case _:
                pass

    def _report(self, call: CallId, start: int, stop: int, outcome: str) -> None:
        reported = self.reported.setdefault(call, {})
        for index in range(start, stop):
            if index in reported:
                raise InvariantBroken(f"{call} {index} is reported twice")
            if call in self.finished:
                raise InvariantBroken(f"{call} {index} is reported after the end")
            if call in self._spawned and index not in self._recorded.get(call, ()):
                raise InvariantBroken(f"{call} {index} is reported before its record")
            reported[index] = outcome

    def _report_items(self, effect: effects.ReportItems) -> None:
        call, index, stop = effect.call, effect.index, effect.start + effect.count
        if effect.start != self.items.get((call, index), 0):
            raise InvariantBroken(f"{call} {index}: items {effect.start} to {stop} out of order")
        if index in self.reported.get(call, ()):
            raise InvariantBroken(f"{call} {index}: items after its outcome")
        if call in self._spawned and self._recorded_items.get((call, index), 0) < stop:
            raise InvariantBroken(f"{call} {index}: items before their record")
        self.items[call, index] = stop

    def _check_submitted(self, call: CallId) -> None:
        if call in self._spawned and call not in self._recorded:
            raise InvariantBroken(f"{call} is dispatched before its record")


class Steadiness:
    """No flapping: scale-down ends only workers that nothing has needed for a whole window.

    It follows that a load which repeats itself within the window starts workers once. Ends that
    something asks for are no scale-down: a new version, a lower ceiling, a single use, another
    pool's work that needs the memory or the device.
    """

    def __init__(self) -> None:
        """Know of no idle worker yet."""
        self._idle_since: dict[WorkerId, float] = {}

    def observe(self, scheduler: Scheduler, turn: Iterable[effects.Effect]) -> None:
        """Take one turn in, or raise `InvariantBroken`."""
        state = scheduler._state  # noqa: SLF001  as `check` does
        for effect in turn:
            worker = state.workers.get(effect.worker) if _stops(effect) else None
            if worker is not None and not _is_asked_for(state, worker):
                window = worker.pool.settings.scaledown_window_seconds
                idle = state.now - self._idle_since.get(worker.id, state.now)
                if idle < window - EPSILON:
                    raise InvariantBroken(f"{worker.id} was stopped after {idle:g} s of idleness")
        self._idle_since = {
            worker.id: worker.since
            for pool in state.pools.values()
            for worker in pool.workers_in(Condition.IDLE).values()
        }


def _stops(effect: effects.Effect) -> TypeGuard[effects.StopWorker]:
    return isinstance(effect, effects.StopWorker)


def _is_asked_for(state: State, worker: Worker) -> bool:
    pool, held = worker.pool, worker.pool.spec.resources
    if worker.draining or pool.spec.single_use or pool.over_since is not None:
        return True
    if pool.superseded and not pool.calls:
        return True
    others = [other for other in state.backlogged.values() if other is not pool]
    return any(
        (held.gpu and other.spec.resources.gpu)
        or (held.memory_mib and other.spec.resources.memory_mib)
        for other in others
    )
