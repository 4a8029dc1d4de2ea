"""Reports: what everybody who waits is told, in the order record, report, drop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import records
from kernel_worker.core import effects
from kernel_worker.core.tracing import note_end, note_finished
from kernel_worker.model import WorkerId

if TYPE_CHECKING:
    from kernel_worker.core.calls import Call
    from kernel_worker.core.state import State
    from kernel_worker.core.tracing import Ran
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
    ran: Ran | None = None,
) -> None:
    """Report that the inputs `[start, stop)`, terminal by now, ended without a value.

    `ran`: who ran them; None where nobody did.
    """
    start, stop = indices
    count = stop - start
    if call.attached:
        note_end(state, call, indices, outcome, attempt, ran)
    else:
        worker, began_at = (WorkerId(""), state.now) if ran is None else (ran[0].id, ran[1])
        who = (worker, began_at, state.now)
        fact = records.InputEnded(call.id, start, count, outcome, attempt, message, *who)
        state.emit(effects.Record(fact))
    state.emit(effects.ReportEnd(call.id, start, count, outcome, attempt, message, has_payload))
    settle_outcomes(state, call, start, stop)


def settle_outcomes(state: State, call: Call, start: int, stop: int) -> None:
    """Let the payloads of reported inputs go, and those run on who waited for an outcome."""
    if not call.is_over:
        state.emit(effects.DropInputs(call.id, start, stop))
    if call.lives:
        call.forget_lives(start, stop)
    if call.waiters:
        resume_waiters(state, call)


def resume_waiters(state: State, call: Call) -> None:
    """Let those run on who waited for something of the call."""
    for lease in list(call.waiters.values()):
        state.resume(lease)


def finish_if_over(state: State, call: Call) -> None:
    """Forget the call if every input is reported and no more come."""
    if not call.is_over or call.id not in state.calls:
        return
    state.emit(effects.FinishCall(call.id, () if call.attached else call.states.tally()))
    note_finished(state, call)
    state.dismiss(call)
