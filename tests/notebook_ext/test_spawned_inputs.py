"""The inputs of a spawned call: packed, weighed, refused where they are too many."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

import notebook_ext as nb
from kernel_worker.wire.messages import MOST_INPUTS
from kernel_worker.wire.payload import BatchReader
from notebook_ext import spawned_inputs as rooms
from notebook_ext.exception import RequestSizeError, SerializationError
from notebook_ext.spawned_inputs import batched


@pytest.fixture
def one_mib() -> Any:
    before = nb.config.max_request_mib
    nb.config.max_request_mib = 1
    yield
    nb.config.max_request_mib = before


def test_inputs_that_are_not_plain_stay_one_batch() -> None:
    inputs: list[Any] = [*range(20_001)]
    for sources in [inputs], [iter(inputs)], [inputs, iter(inputs)]:
        count, frames, parts = batched("f.spawn_map", sources)
        assert (count, len(frames), sum(parts), max(parts)) == (20_001, 10, 20_001, 5_000)
    inputs.append({})
    for sources in [inputs], [iter(inputs)]:
        count, frames, parts = batched("f.spawn_map", sources)
        assert (count, len(frames), parts) == (20_002, 2, ())
        assert BatchReader(frames)[20_001] == ({},)
    for sources in [[]], [[], [1]], [iter(())]:
        assert batched("f.spawn_map", sources) == (0, [], ())


def test_a_note_says_which_input_cannot_travel() -> None:
    lock = threading.Lock()
    for sources in [[*range(7_000), lock]], [iter([*range(7_000), lock, lock])]:
        with pytest.raises(SerializationError, match=r"args\[0\] \(a .*lock\)") as caught:
            batched("f.spawn_map", sources)
        assert caught.value.__notes__[0].startswith("in input 7,000 of f.spawn_map: <unlocked")
    with pytest.raises(SerializationError, match=r"args\[1\] ") as caught:
        batched("f.spawn_map", [[list(range(1_000)), 2], [3, lock]])
    assert caught.value.__notes__[0].startswith("in input 1 of f.spawn_map: (2, <unlocked")


def test_more_inputs_than_a_call_may_have_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for sources in [range(10**11)], [range(10**30)], [range(MOST_INPUTS + 1)]:
        with pytest.raises(RequestSizeError, match="more than 10,000,000 inputs; the broker"):
            batched("f.spawn_map", sources)
    monkeypatch.setattr(rooms, "MOST_INPUTS", 30_000)
    assert batched("f.spawn_map", [range(30_000)])[0] == 30_000
    with pytest.raises(RequestSizeError, match="more than 30,000 inputs"):
        batched("f.spawn_map", [itertools.count()])


@pytest.mark.usefixtures("one_mib")
def test_what_is_pulled_is_weighed_as_it_comes() -> None:
    pulled = itertools.count()
    endless = (np.ones(12_500) for _ in pulled)
    with pytest.raises(RequestSizeError, match=r"the first \d+ inputs together are [23]\.\d MiB"):
        batched("f.spawn_map", [endless])
    assert next(pulled) < 64, "100 kB each"
