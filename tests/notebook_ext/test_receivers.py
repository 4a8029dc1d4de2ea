"""What the receiver of a spawned call makes of outcomes that it is told again."""

from __future__ import annotations

from contextvars import copy_context

from kernel_worker.model import Outcome
from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_VALUE
from notebook_ext.output import CallOutput, Printer
from notebook_ext.receivers import Outcomes
from notebook_ext.submission import Ended

VALUES = [bytes(each) for each in payload.encode_batch([1, 2], FORM_VALUE)]


def test_a_call_is_over_when_each_input_has_ended_however_often_that_is_told() -> None:
    """All is told again after a restart of the broker, or where somebody else attaches."""
    printer = Printer()
    left: list[str] = []
    outcomes = Outcomes(CallOutput(printer, copy_context(), "f"), "f", 4)
    outcomes.succeeded(0, 2, 0, VALUES)
    outcomes.let_go(lambda: left.append("left"))
    outcomes.succeeded(0, 2, 0, VALUES)
    failed = Ended(2, 1, Outcome.FAILED, 1, "", None)
    outcomes.ended(failed)
    outcomes.ended(failed)
    assert left == [], "the last one still writes"
    outcomes.succeeded(2, 2, 0, VALUES)
    assert left == ["left"]
    printer.close()
