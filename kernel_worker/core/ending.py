"""Reports: what everybody who waits is told, in the order record, report, drop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import records
from kernel_worker.core import effects

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.state import State
    from kernel_worker.model import Outcome


def report_end(  # noqa: PLR0917  the six things that a report says
    state: State,
    call: Call,
    indices: tuple[int, int],
    outcome: Outcome,
    attempt: int,
    message: str = "",
    *,
    has_payload: bool = False,
) -> None:
    """Report that the inputs `[start, stop)`, terminal by now, ended without a value."""
    start, stop = indices
    count = stop - start
    fact = records.InputEnded(call.id, start, count, outcome, attempt, message)
    state.record(call, fact)
    state.emit(effects.ReportEnd(call.id, start, count, outcome, attempt, message, has_payload))
    settle_outcomes(state, call, start, stop)


def settle_outcomes(state: State, call: Call, start: int, stop: int) -> None:
    """Let the payloads of reported inputs go, and those run on who waited for an outcome."""
    if not call.is_over:
        state.emit(effects.DropInputs(call.id, start, stop))
    if call.lives:
        call.forget_lives(start, stop)
    if not call.waiters:
        return
    for worker_id in sorted(call.waiters):
        worker = state.workers[worker_id]
        state.stop_awaiting(worker)
        # It runs on whether there is a slot or not: the handover.
        worker.resumed = True
        state.settle(worker)


def finish_if_over(state: State, call: Call) -> None:
    """Forget the call if every input is reported and no more come."""
    if not call.is_over or call.id not in state.calls:
        return
    state.emit(effects.FinishCall(call.id, () if call.attached else call.states.tally()))
    state.dismiss(call)
