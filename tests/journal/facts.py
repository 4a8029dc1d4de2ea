"""Facts for the journal's tests."""

from __future__ import annotations

from kernel_worker import records
from kernel_worker.journal.store import Fact
from kernel_worker.model import CallContext, CallId, Digest, FunctionKey, FunctionSpec, PoolId

SPEC = FunctionSpec(
    PoolId("po-1"),
    FunctionKey("s/a/f"),
    "f",
    "__main__",
    Digest("version"),
    Digest("code"),
    Digest("environment"),
)


def submitted(call: str, **objects: bytes) -> Fact:
    """Return the fact that `call` was submitted with these objects."""
    record = records.CallSubmitted(
        CallId(call), SPEC, Digest(""), Digest(""), Digest(""), CallContext(), (), (), 1.5
    )
    return Fact(record, (), {Digest(name): content for name, content in objects.items()})


def added(call: str, start: int, *frames: bytes) -> Fact:
    return Fact(records.InputsAdded(CallId(call), start, 1), frames)


def succeeded(call: str, start: int, *frames: bytes) -> Fact:
    return Fact(records.RangeSucceeded(CallId(call), start, start + 1, start), frames)
