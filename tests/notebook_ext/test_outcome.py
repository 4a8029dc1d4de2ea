from __future__ import annotations

import pytest

from kernel_worker.errors import (
    CallCancelledError,
    ExecutionError,
    FunctionTimeoutError,
    InternalFailure,
)
from kernel_worker.model import Outcome
from kernel_worker.wire import failures, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL, FORM_VALUE
from notebook_ext.outcome import arguments_of, exception_of, map_note, value_at
from notebook_ext.submission import Ended


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.CANCELLED, CallCancelledError),
        (Outcome.TIMED_OUT, FunctionTimeoutError),
        (Outcome.LOST, InternalFailure),
        (Outcome.INIT_FAILED, ExecutionError),
        (Outcome.FAILED, ExecutionError),
    ],
)
def test_what_has_no_exception_gets_ours(outcome: Outcome, kind: type[Exception]) -> None:
    error = exception_of(Ended(0, 1, outcome, 1, "", None), "f")
    assert type(error) is kind
    assert "f " in str(error)
    assert str(exception_of(Ended(0, 1, outcome, 1, "why", None), "f")) == "why"


def test_the_original_comes_back() -> None:
    frame = failures.capture(KeyError("a"))
    error = exception_of(Ended(0, 1, Outcome.FAILED, 1, "", frame), "f", note="hint")
    assert isinstance(error, KeyError)
    assert error.__notes__ == ["hint"]


def test_a_note_has_index_and_arguments() -> None:
    batch = payload.encode_batch([(1, "x" * 500), (2, "y")], FORM_ARGS)
    end = Ended(11, 1, Outcome.FAILED, 1, "", None, batch, 1)
    assert map_note(end, 11, "f", "f.map") == "in input 11 of f.map: f(2, 'y')"
    long = Ended(10, 1, Outcome.FAILED, 1, "", None, batch, 0)
    assert len(arguments_of(long, 10)) < 80
    calls = payload.encode_batch([((1,), {"k": 2})], FORM_CALL)
    assert arguments_of(Ended(0, 1, Outcome.FAILED, 1, "", None, calls), 0) == "1, k=2"
    bare = Ended(0, 1, Outcome.FAILED, 1, "", None)
    assert map_note(bare, 0, "f", "f.for_each") == "in input 0 of f.for_each"
    broken = Ended(0, 1, Outcome.FAILED, 1, "", None, [b"", b""])
    assert arguments_of(broken, 0) == ""


def test_values() -> None:
    assert value_at(payload.encode_batch(["a", "b"], FORM_VALUE), 1) == "b"
