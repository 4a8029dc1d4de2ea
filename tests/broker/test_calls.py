"""The frames of a call's inputs: kept while an input of their batch is open."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kernel_worker.broker.calls import Batches, OpenCall
from kernel_worker.model import CallId, ClientId
from kernel_worker.wire import frames, payload


def batch(*items: object) -> list[bytes]:
    return [bytes(part) for part in payload.encode_batch(items, frames.FORM_VALUE)]


def values(parts: Sequence[bytes | memoryview]) -> list[object]:
    reader = payload.BatchReader([bytes(part) for part in parts])
    return [reader[at] for at in range(len(reader))]


@pytest.fixture
def batches() -> Batches:
    made = Batches()
    made.add(3, 2, batch([3], [4]))
    made.add(0, 3, batch([0], [1], [2]))
    return made


def test_a_part_of_an_itemised_batch_is_cut_out(batches: Batches) -> None:
    first, parts = batches.cut(1, 3)
    assert (first, values(parts)) == (1, [[1], [2]])
    first, parts = batches.cut(4, 5)
    assert (first, values(parts)) == (4, [[4]])


def test_a_part_of_a_whole_batch_is_all_of_it() -> None:
    batches = Batches()
    batches.add(10, 3, batch(10, 11, 12))
    first, parts = batches.cut(11, 12)
    assert (first, values(parts)) == (10, [10, 11, 12])


@pytest.mark.parametrize(("start", "stop"), [(2, 4), (5, 6), (4, 6)])
def test_what_no_batch_holds(batches: Batches, start: int, stop: int) -> None:
    with pytest.raises(LookupError, match=f"{start}, {stop}"):
        batches.cut(start, stop)


def test_a_batch_goes_with_its_last_input(batches: Batches) -> None:
    batches.drop(0, 1)
    batches.drop(2, 4)
    assert len(batches) == 2
    batches.drop(1, 2)
    assert len(batches) == 1
    batches.drop(4, 5)
    assert len(batches) == 0


def test_how_many_inputs_arrived_is_known_when_they_have_gone(batches: Batches) -> None:
    arrived = batches.end
    batches.drop(0, arrived)
    assert batches.end == arrived > 0


def test_who_sees_what_a_call_writes() -> None:
    call = OpenCall(CallId("fc-1"), ClientId("cl-1"), attached=False, opened_at=0.0)
    assert call.audience() == ["cl-1"]
    call.listeners.append(ClientId("cl-2"))
    assert call.audience() == ["cl-2", "cl-1"]
    call.listeners.append(ClientId("cl-1"))
    assert call.audience() == ["cl-2", "cl-1"]
