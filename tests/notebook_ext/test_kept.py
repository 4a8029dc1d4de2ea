from __future__ import annotations

import pytest

from kernel_worker.model import Outcome
from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE, Frame
from notebook_ext import kept as rooms
from notebook_ext.kept import Kept, KeptValues
from notebook_ext.spill import Spilled, Values
from notebook_ext.submission import Ended


def values(*found: object) -> Values:
    return Values(len(found), [bytes(f) for f in payload.encode_batch(found, FORM_VALUE)], 0)


def failed(index: int, frames: list[Frame], position: int) -> Ended:
    return Ended(index, 1, Outcome.FAILED, 1, "", b"x" * 100, frames, position)


def test_results_by_index() -> None:
    kept = Kept()
    kept.keep(5, values("f", "g"))
    kept.keep(0, values("a"))
    read = KeptValues(kept.pieces)
    assert len(read) == 3
    assert list(read.indices()) == [0, 5, 6]
    assert [read.value(at) for at in (6, 0, 5)] == ["g", "a", "f"]
    for absent in (1, 4, 7, -1):
        with pytest.raises(KeyError):
            read.value(absent)


def test_what_has_not_succeeded() -> None:
    kept = Kept()
    kept.note(0, 3)
    kept.note(5, 1)
    assert kept.succeeded == [(0, 3), (5, 6)]
    assert kept.missing(2, 8) == [(3, 5), (6, 8)]


def test_memory_then_a_file_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    size = values(b"\0" * 1000).size_bytes
    monkeypatch.setattr(rooms, "MEMORY_BYTES", size)
    monkeypatch.setattr(rooms, "FILE_BYTES", 2 * size + 100)
    kept = Kept()
    for start in range(3):
        kept.keep(start, values(bytes([start]) * 1000))
    assert [type(piece) for _, piece in kept.pieces] == [Values, Spilled, Spilled]
    read = KeptValues(kept.pieces)
    assert [read.value(at) for at in range(3)] == [bytes([at]) * 1000 for at in range(3)]
    kept.keep(3, values(b"\3" * 1000))
    assert kept.forgot_values
    assert kept.pieces == []
    kept.keep(4, values(1))
    assert kept.pieces == []
    assert read.value(2) == b"\2" * 1000  # who looks at it has it


def test_failures_cost_their_batch_once_then_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = payload.encode_batch([(n, "x" * 100, [n]) for n in range(100)], FORM_ARGS)
    size = sum(map(len, batch))
    monkeypatch.setattr(rooms, "FAILED_BYTES", 2 * size + 6_000)
    kept = Kept()
    kept.fail(failed(7, batch, 7))
    kept.fail(failed(5, batch, 5))
    assert list(kept.failures) == [5, 7]
    assert all(end.inputs is batch for end in kept.failures.values())
    other = payload.encode_batch([(n, "y" * 100, [n]) for n in range(100)], FORM_ARGS)
    kept.fail(failed(103, other, 3))
    alone = kept.failures[103]
    assert sum(map(len, alone.inputs)) < 500
    assert payload.BatchReader(alone.inputs)[alone.position] == (3, "y" * 100, [3])
    for at in range(4, 99):
        kept.fail(failed(100 + at, other, at))
    assert kept.forgot_failures
    assert len(kept.failures) + kept.forgot_failures == 98


def test_a_map_that_ends_well_forgets() -> None:
    kept = Kept()
    kept.keep(0, values(1))
    kept.forget()
    assert kept.pieces == []
