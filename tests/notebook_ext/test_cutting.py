from __future__ import annotations

import numpy as np
import pytest

from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from notebook_ext.cutting import cut, picked

PLAIN = list(range(10))
ITEMISED = [[n] * n for n in range(10)]
BUFFERS = [np.full(n + 1, n) for n in range(10)]


@pytest.mark.parametrize("values", [PLAIN, ITEMISED, BUFFERS], ids=["plain", "itemised", "buffers"])
@pytest.mark.parametrize("positions", [[0], [9], [3, 4, 5], [0, 2, 9], list(range(10))])
def test_what_is_picked_is_a_batch_of_that(values: list[object], positions: list[int]) -> None:
    frames = payload.encode_batch(values, FORM_VALUE)
    reader = payload.BatchReader(picked(frames, positions))
    assert len(reader) == len(positions)
    assert [repr(reader[at]) for at in range(len(positions))] == [
        repr(values[at]) for at in positions
    ]


def test_a_part_keeps_its_form() -> None:
    frames = payload.encode_batch([(1,), (2,), (3,)], FORM_ARGS)
    assert payload.BatchReader(cut(frames, 1, 3)).header.form == FORM_ARGS
    assert payload.BatchReader(picked(frames, [0, 2])).header.form == FORM_ARGS


def test_a_part_of_columns_is_tuples() -> None:
    frames = payload.encode_columns([range(4), list("abcd")])
    assert frames is not None
    for part in cut(frames, 1, 3), picked(frames, [1, 2]):
        reader = payload.BatchReader(part)
        assert (reader.header.form, reader[0], reader[1]) == (FORM_ARGS, (1, "b"), (2, "c"))
    assert payload.BatchReader(picked(frames, [0, 3]))[1] == (3, "d")
