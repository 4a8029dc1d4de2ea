"""How inputs end, are tried again and are reported: each exactly once, after its record.

Answers to a lease come in order. What a lease no longer holds (a late or repeated answer) is
dropped here; what a worker skipped, against the protocol, waits again rather than being lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernel_worker import records
from kernel_worker.core import effects, lending, nesting, retries
from kernel_worker.core.cancelling import cancel_call, interrupt_rest
from kernel_worker.core.ending import (
    finish_if_over,
    report_end,
    resume_waiters,
    settle_outcomes,
)
from kernel_worker.core.leases import smoothed
from kernel_worker.core.pools import Condition
from kernel_worker.core.tracing import Ran, note_end, note_values
from kernel_worker.core.transitions import CAUSE_OF, Cause
from kernel_worker.model import Outcome

if TYPE_CHECKING:
    from kernel_worker.core import events
    from kernel_worker.core.calls import Call
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Worker
    from kernel_worker.core.state import State

LINGERING_SECONDS: Final = 5.0
"""How long a worker is kept in which an input runs on that was answered."""
EVICTED: Final = "it was stopped by hand"
"""Why a worker is gone that was evicted."""
_MEASURED: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})
_ENDS: Final = frozenset(
    {Outcome.FAILED, Outcome.CANCELLED, Outcome.TIMED_OUT, Outcome.INIT_FAILED}
)


def range_succeeded(state: State, event: events.RangeSucceeded) -> None:
    """Report the values that a worker sent, as far as they are still wanted."""
    lease = state.lease_of(event.worker, event.lease)
    if lease is None:
        return
    if lease.id in state.loans:
        lending.reach(state, lease, event.start)
    start, stop = max(event.start, lease.next), min(event.start + event.count, lease.stop)
    if start >= stop:
        return
    call = lease.call
    if lease.next < start:
        _give_back_skipped(state, lease, start)
    elapsed = event.elapsed_seconds * (stop - start) / event.count
    _measure(state, lease, stop - start, elapsed)
    call.states.move(start, stop, Cause.SUCCEEDED)
    lease.next = stop
    if call.attached:
        note_values(state, lease, start, stop, elapsed)
    else:
        who = (lease.attempt, lease.worker.id, state.now - elapsed, state.now)
        fact = records.RangeSucceeded(call.id, start, stop, event.start, *who)
        state.emit(effects.Record(fact))
    state.emit(effects.ReportRange(call.id, start, stop, event.start))
    settle_outcomes(state, call, start, stop)
    _after_answer(state, lease)


def line_reached(state: State, event: events.LineReached) -> None:
    """Note how far a worker that is lent has come."""
    lease = state.loans.get(event.lease)
    if lease is None or lease.worker.id != event.worker:
        return
    count = event.index - lease.next
    if not lease.next or not 0 <= count <= lending.MOST_AHEAD:
        return
    if count:
        _measure(state, lease, count, event.elapsed_seconds)
    if event.runs:
        lending.reach(state, lease, event.index, event.elapsed_seconds)
    else:
        lending.advance(state, lease, event.index, event.elapsed_seconds)
    _after_answer(state, lease)


def items_yielded(state: State, event: events.ItemsYielded) -> None:
    """Report what a generator gave, in order and once; its input goes on."""
    lease = state.lease_of(event.worker, event.lease)
    if lease is None or not lease.call.streams or not lease.next <= event.index < lease.stop:
        return
    call, index = lease.call, event.index
    if event.start != call.has_given(index) or event.count <= 0:
        return
    if event.line_of and (event.line_of != call.id or not call.attached):
        return
    call.life(index).items += event.count
    state.record(call, records.ItemsYielded(call.id, index, event.start, event.count))
    state.emit(effects.ReportItems(call.id, index, event.start, event.count))
    resume_waiters(state, call)


def producer_paused(state: State, event: events.ProducerPaused) -> None:
    """Free the slot of a generator that waits for whoever takes its items."""
    lease = state.lease_of(event.worker, event.lease)
    if lease is None or not lease.call.streams:
        return
    lease.worker.paused = lease.id
    state.settle(lease.worker)


def producer_resumed(state: State, event: events.ProducerResumed) -> None:
    """Give a generator its slot back, whether one is free or not: the handover."""
    worker = state.workers.get(event.worker)
    if worker is None or worker.paused != event.lease:
        return
    worker.paused = None
    worker.resumed = True
    state.settle(worker)


def input_ended(state: State, event: events.InputEnded) -> None:
    """Try an input again, or report how it ended.

    Where a tree is cancelled a child may be quicker than the interrupt of its parent, which then
    fails with the child's cancellation: it was cancelled too.
    """
    lease = state.lease_of(event.worker, event.lease)
    if event.lingers:
        _note_lingering(state, event)
    if lease is not None and lease.id in state.loans:
        lending.reach(state, lease, event.index)
    if event.parks:
        _park(state, event)
    if lease is None or event.outcome not in _ENDS or not lease.next <= event.index < lease.stop:
        return
    _give_back_skipped(state, lease, event.index)
    if event.outcome in _MEASURED:
        _measure(state, lease, 1, event.elapsed_seconds)
    lease.next = event.index + 1
    ran = Ran(lease.worker, state.now - event.elapsed_seconds)
    outcome, has_payload = event.outcome, _has_payload(event)
    if lease.worker.evicted and (outcome is Outcome.CANCELLED or event.cancelled_below):
        if lease.id in state.loans and event.index:  # its client has it, and runs it again
            lose_lent(state, lease.call, event.index, EVICTED, counted=False, ran=ran)
        else:
            lose_attempt(state, lease.call, event.index, EVICTED, counted=False, ran=ran)
        _after_answer(state, lease)
        return
    if event.cancelled_below and lease.call.cancelled:
        outcome, has_payload = Outcome.CANCELLED, False
    end_attempt(state, lease.call, event.index, outcome, has_payload=has_payload, ran=ran)
    _after_answer(state, lease)


def input_left(state: State, event: events.InputLeft) -> None:
    """Free the slot of an input that was answered before it had ended."""
    worker = state.workers.get(event.worker)
    if worker is not None:
        if worker.parked == event.lease:
            worker.parked = worker.parked_call = None
            state.settle(worker)
            state.stop_if_done(worker)
        worker.lingering.discard(event.lease)
        if not worker.lingering:
            state.timers.clear(("lingering", worker.id))


def lingered_on(state: State, worker: Worker) -> None:
    """Give a worker up in which something will not end, once its other inputs have."""
    worker.draining = True
    if worker.condition is Condition.IDLE:
        state.stop_worker(worker)


def inputs_returned(state: State, event: events.InputsReturned) -> None:
    """Let what a worker did not start wait again, before everything else."""
    lease = state.lease_of(event.worker, event.lease)
    if lease is None:
        return
    lease.asked_back = lease.returned = True
    if lease.id in state.loans:
        _end_loan(state, lease, event.start)
    start, stop = max(event.start, lease.next), min(event.stop, lease.stop)
    if start < stop:
        if stop == lease.stop:
            lease.stop = start
        elif start == lease.next:
            lease.next = stop
        else:
            return
        _return(state, lease, start, stop)
        if lease.call.waiters:
            nesting.end_if_impossible(state, lease.call)
    if lease.is_to_end:
        interrupt_rest(state, lease)
    _after_answer(state, lease)


def _end_loan(state: State, lease: Lease, reached: int) -> None:
    """End a loan whose worker has come as far as `reached`."""
    lending.advance(state, lease, reached, 0.0)
    if lease.next:
        lose_outstanding(state, lease, "", counted=False)
    lending.end(state, lease)


def end_attempt(
    state: State, call: Call, index: int, outcome: Outcome, *, has_payload: bool, ran: Ran
) -> None:
    """Decide what becomes of a leased input whose attempt ended with `outcome`."""
    attempt = call.attempt_of(index)
    if outcome is Outcome.TIMED_OUT:
        _cancel_children(state, call, index, attached_only=True)
    if _try_again(state, call, index, outcome):
        return
    call.states.move(index, index + 1, CAUSE_OF[outcome])
    message = ""
    if outcome is Outcome.TIMED_OUT:
        place = 0 if call.lends else index  # to its caller it is a call of its own
        message = retries.timeout_message(call.pool.spec, place, attempt)
    report_end(
        state,
        call,
        (index, index + 1),
        outcome,
        attempt,
        message,
        has_payload=has_payload,
        ran=ran,
    )


def exceed_memory(state: State, call: Call, index: int, used_mib: int, ran: Ran) -> None:
    """End an attempt whose worker was stopped because it was over its memory limit.

    It is the function's failure, not an accident: only `retries` run it again.
    """
    _cancel_children(state, call, index, attached_only=True)
    spec = call.pool.spec
    if spec.rerun_on_crash and _try_again(state, call, index, Outcome.LOST):
        return
    message = retries.memory_message(spec, index, used_mib)
    call.states.move(index, index + 1, Cause.LOST)
    attempt = call.attempt_of(index)
    report_end(state, call, (index, index + 1), Outcome.LOST, attempt, message, ran=ran)


def lose_attempt(
    state: State, call: Call, index: int, cause: str, *, counted: bool, ran: Ran
) -> None:
    """Run a leased input again whose worker is gone, or end it where it may not.

    `counted`: it is known that this input had started when its worker died by itself.
    """
    _cancel_children(state, call, index, attached_only=False)
    spec = call.pool.spec
    life = call.life(index)
    life.deaths += counted
    if call.cancelled:
        call.states.move(index, index + 1, Cause.LOST)
        report_end(state, call, (index, index + 1), Outcome.CANCELLED, life.attempt, ran=ran)
    elif retries.may_rerun(life, rerun_on_crash=spec.rerun_on_crash):
        state.record(call, records.AttemptFailed(call.id, index, life.attempt, lost=True))
        life.attempt += 1
        call.states.move(index, index + 1, Cause.RERUN)
        state.requeue(call, index, index + 1)
    else:
        message = retries.lost_message(spec, index, cause, life.deaths)
        if life.items:
            died = f"its worker died under it ({cause})"
            message = retries.cut_short_message(spec.name, life.items, died)
        call.states.move(index, index + 1, Cause.LOST)
        report_end(state, call, (index, index + 1), Outcome.LOST, life.attempt, message, ran=ran)


def lose_lent(state: State, call: Call, index: int, cause: str, *, counted: bool, ran: Ran) -> None:
    """End an input that came by a line and whose worker is gone: its client runs it again.

    `counted`: as for `lose_attempt`; the client hears of one that is not with the line's end.
    """
    _cancel_children(state, call, index, attached_only=False)
    call.states.move(index, index + 1, Cause.LOST)
    if counted or call.cancelled:
        outcome = Outcome.CANCELLED if call.cancelled else Outcome.LOST
        message = retries.lent_message(call.pool.spec, cause)
        report_end(state, call, (index, index + 1), outcome, 1, message, ran=ran)
    else:
        note_end(state, call, (index, index + 1), Outcome.LOST, 1, ran)
        settle_outcomes(state, call, index, index + 1)


def lose_outstanding(state: State, lease: Lease, cause: str, *, counted: bool) -> None:
    """End what a line's lease still holds: at most the one input that is said to run."""
    start, lease.next = lease.next, lease.stop
    ran = Ran(lease.worker, lease.granted_at)
    for index in range(start, lease.stop):
        lose_lent(state, lease.call, index, cause, counted=counted, ran=ran)


def return_outstanding(state: State, lease: Lease, start: int, stop: int) -> None:
    """Let inputs of a lease whose worker is gone wait again (or end, where cancelled)."""
    if start < stop:
        _return(state, lease, start, stop)


def retries_due(state: State, call: Call) -> None:
    """Let the inputs wait for a worker whose delay is over."""
    for index in reversed(call.due_retries(state.now)):
        call.states.move(index, index + 1, Cause.DUE)
        state.requeue(call, index, index + 1)
    if call.delays:
        state.timers.set(("retry", call.id), call.delays[0][0])


def _try_again(state: State, call: Call, index: int, outcome: Outcome) -> bool:
    if call.cancelled:
        return False
    life = call.lives.get(index)
    if life is not None and life.items:
        return False
    done = 0 if life is None else life.retries
    delay = retries.retry_delay(call.pool.spec.retries, done, outcome)
    if delay is None:
        return False
    life = call.life(index)
    state.record(call, records.AttemptFailed(call.id, index, life.attempt))
    life.retries += 1
    life.attempt += 1
    call.retried += 1
    call.states.move(index, index + 1, Cause.RETRIED)
    call.delay(index, state.now + delay)
    if delay > 0:
        state.timers.set(("retry", call.id), call.delays[0][0])
    else:
        retries_due(state, call)
    return True


def _note_lingering(state: State, event: events.InputEnded) -> None:
    worker = state.workers.get(event.worker)
    if worker is not None:
        worker.lingering.add(event.lease)
        state.timers.set_if_earlier(("lingering", worker.id), state.now + LINGERING_SECONDS)


def _park(state: State, event: events.InputEnded) -> None:
    """Give a worker nothing new while it keeps an input's frames; one of a pool does."""
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    lease = worker.leases.get(event.lease)
    call = None if lease is None else lease.call
    for other in list(worker.pool.workers_in(Condition.PARKED).values()):
        # Of one call the first stays: that is the one which is raised.
        let_go = worker if other.parked_call is call else other
        state.emit(effects.ReleaseWorker(let_go.id, let_go.host.id))
    worker.parked, worker.parked_call = event.lease, call
    state.settle(worker)


def _give_back_skipped(state: State, lease: Lease, start: int) -> None:
    if lease.next < start:
        skipped = lease.next
        lease.next = start
        _return(state, lease, skipped, start)


def _return(state: State, lease: Lease, start: int, stop: int) -> None:
    cancelled = state.give_back(lease, start, stop)
    if cancelled is not None:
        report_end(state, lease.call, cancelled, Outcome.CANCELLED, lease.attempt)


def _after_answer(state: State, lease: Lease) -> None:
    state.close_lease_if_answered(lease)
    finish_if_over(state, lease.call)


def _measure(state: State, lease: Lease, count: int, elapsed_seconds: float) -> None:
    """Learn how long an input takes, and correct what the shares were charged in advance.

    For what comes by a line nothing was charged.
    """
    call, pool = lease.call, lease.call.pool
    sample = elapsed_seconds / count
    call.seconds_per_input = smoothed(call.seconds_per_input, sample)
    pool.seconds_per_input = smoothed(pool.seconds_per_input, sample)
    is_lent = lease.next > 0 and lease.id in state.loans
    correction = elapsed_seconds - (0 if is_lent else count * lease.charge)
    call.served_seconds += correction
    pool.served_seconds += correction * pool.input_cpu


def _has_payload(event: events.InputEnded) -> bool:
    return event.outcome in {Outcome.FAILED, Outcome.INIT_FAILED}


def _cancel_children(state: State, call: Call, index: int, *, attached_only: bool) -> None:
    for child_id in sorted(call.children.get(index, ())):
        child = state.calls.get(child_id)
        if child is not None and (child.attached or not attached_only):
            cancel_call(state, child, terminate=False)
