"""Cancellation: a request. What waits ends at once, what runs is asked, and its answer counts.

A worker may be anywhere in its lease, so it is asked for what it has not started and the input
that should be running is interrupted at the same time; its answer to the first question says which
one does run. A worker that answers neither is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernel_worker import records
from kernel_worker.core import effects
from kernel_worker.core.ending import finish_if_over, report_end
from kernel_worker.core.pools import Condition
from kernel_worker.core.transitions import Cause, InputState
from kernel_worker.model import Outcome

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.leases import Lease
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State

KILL_AFTER_SECONDS: Final = 7.0
"""The host kills what does not heed an interrupt after 5 s; this is for what it did not see."""
LINGER_SECONDS: Final = 30.0
"""How long a cancelled call that was never closed takes (and cancels) inputs on their way."""


def cancel_call(state: State, call: Call, *, terminate: bool) -> None:
    """Cancel a call and everything that was made inside its unfinished inputs."""
    todo = [call]
    while todo:
        one = todo.pop()
        todo += _children_of_live_inputs(state, one)
        _cancel_one(state, one, terminate=terminate)


def end_waiting(state: State, call: Call, outcome: Outcome, message: str = "") -> None:
    """End what waits of a call; CANCELLED, or INIT_FAILED without a payload."""
    _end_waiting(state, call, outcome, message, has_payload=False)


def end_pool_waiting(state: State, pool: Pool, message: str, *, has_payload: bool = False) -> None:
    """End everything that waits for a pool whose function cannot be set up."""
    for call in list(pool.calls.values()):
        _end_waiting(state, call, Outcome.INIT_FAILED, message, has_payload=has_payload)
        finish_if_over(state, call)


def evict(state: State, worker: Worker) -> None:
    """Have a worker end because somebody asks for it; its inputs run again, elsewhere."""
    if worker.condition is Condition.STOPPING:
        return
    worker.evicted = worker.draining = True
    if worker.condition is Condition.STARTING:
        state.kill_worker(worker)
    elif worker.condition in {Condition.IDLE, Condition.PARKED}:
        state.stop_worker(worker)
    for lease in reversed(list(worker.leases.values())):
        _ask(state, lease)


def interrupt_rest(state: State, lease: Lease) -> None:
    """Interrupt what a worker has started of a lease that is to end, now that the rest is back."""
    if lease.outstanding > 0:
        _interrupt(state, lease, lease.stop - 1)


def kill_if_deaf(state: State, worker: Worker) -> None:
    """Kill a worker that has still not answered for an input that is to end."""
    asked = [lease.cancelled_at for lease in worker.leases.values() if lease.is_to_end]
    if not asked:
        return
    due = min(asked) + KILL_AFTER_SECONDS
    if state.now >= due:
        state.kill_worker(worker)
    else:
        state.timers.set(("cancel", worker.id), due)


def _cancel_one(state: State, call: Call, *, terminate: bool) -> None:
    if not call.cancelled:
        call.cancelled = True
        if call.leases or not call.closed:
            state.record(call, records.CallCancelled(call.id))
        if not call.closed:
            state.timers.set(("linger", call.id), state.now + LINGER_SECONDS)
        end_waiting(state, call, Outcome.CANCELLED)
        # A worker's last lease first: it must not begin that once the first is interrupted.
        for lease in reversed(list(call.leases.values())):
            call.states.move(lease.next, lease.stop, Cause.CANCEL_REQUESTED)
            if not terminate:
                _ask(state, lease)
    if terminate:
        for lease in list(call.leases.values()):
            state.kill_worker(lease.worker)
    finish_if_over(state, call)


def _ask(state: State, lease: Lease) -> None:
    worker = lease.worker
    if worker.condition is Condition.STOPPING:
        return
    is_news = not lease.cancelled_at
    lease.cancelled_at = state.now
    if lease.call.pool.is_shared:
        _interrupt(state, lease, lease.next)  # all that it holds runs, or is about to
    else:
        # Also where it was asked back for others: that lets it begin, if it has not yet.
        if is_news and not lease.returned:
            lease.asked_back = True
            state.emit(effects.TakeBack(worker.id, worker.host.id, lease.id, ends=True))
        if next(iter(worker.leases.values())) is lease:
            _interrupt(state, lease, lease.stop - 1 if lease.returned else lease.next)
    state.timers.set_if_earlier(("cancel", worker.id), state.now + KILL_AFTER_SECONDS)


def _interrupt(state: State, lease: Lease, index: int) -> None:
    worker = lease.worker
    if lease.interrupted != index and worker.condition is not Condition.STOPPING:
        lease.interrupted = index
        state.emit(effects.Interrupt(worker.id, worker.host.id, lease.id, index))


def _end_waiting(
    state: State, call: Call, outcome: Outcome, message: str, *, has_payload: bool
) -> None:
    cause = Cause.CANCEL_REQUESTED if outcome is Outcome.CANCELLED else Cause.INIT_FAILED
    pending = call.backlog.drain()
    state.add_backlog(call, -sum(waiting.stop - waiting.start for waiting in pending))
    ends = [(waiting.start, waiting.stop, waiting.attempt) for waiting in pending]
    ends += [(i, i + 1, call.attempt_of(i)) for _, i in call.delays]
    call.delays.clear()
    for start, stop, attempt in sorted(ends):
        call.states.move(start, stop, cause)
        report_end(state, call, (start, stop), outcome, attempt, message, has_payload=has_payload)
    state.note_waiting(call)
    state.touch(call.pool)


def _children_of_live_inputs(state: State, call: Call) -> list[Call]:
    live = {InputState.PENDING, InputState.DELAYED, InputState.LEASED, InputState.CANCELLING}
    return [
        state.calls[child]
        for index, children in sorted(call.children.items())
        if call.states.at(index) in live
        for child in sorted(children)
        if child in state.calls and not state.calls[child].cancelled
    ]
