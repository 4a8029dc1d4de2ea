"""What lies in a store travels to who cannot look into it."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_worker.errors import DeserializationError
from kernel_worker.store import blobs, carrying
from kernel_worker.store.blobs import Accounts, Content
from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from tests.store.test_blobs import at_once

ARRAY = np.arange(100_000, dtype=np.float64)
SMALL = np.arange(3)


@pytest.fixture
def accounts(directory: str) -> Accounts:
    return Accounts(directory, at_once)


def test_a_batch_brings_its_buffers(directory: str, accounts: Accounts) -> None:
    parts = payload.encode_batch([(ARRAY,), (SMALL,), (1,)], FORM_ARGS, accounts.keep)
    sent = [bytes(part) for part in parts]
    assert sum(map(len, sent)) < ARRAY.nbytes
    found = payload.BatchReader(carrying.batch(directory, sent))
    assert (found[0][0] == ARRAY).all()  # type: ignore[index]
    assert (found[1][0] == SMALL).all()  # type: ignore[index]
    assert found[2] == (1,)
    plain = payload.encode_batch([(1,)], FORM_ARGS)
    assert carrying.batch(directory, plain) is plain  # type: ignore[arg-type]


def test_an_object_brings_its_buffers(directory: str, accounts: Accounts) -> None:
    parts = payload.encode_batch([{"table": ARRAY, "x": SMALL}], FORM_VALUE, accounts.keep)
    carried = carrying.joined(carrying.content(directory, Content.of(parts)))
    assert len(carried) > ARRAY.nbytes
    reader = payload.BatchReader(blobs.opened("/nowhere", bytes(carried)))
    for _ in range(2):
        assert (reader[0]["table"] == ARRAY).all()  # type: ignore[index]
    assert carrying.joined(carrying.content(directory, b"a pickle")) == b"a pickle"


def test_what_is_gone_is_told(directory: str, accounts: Accounts) -> None:
    parts = payload.encode_batch([(ARRAY,)], FORM_ARGS, accounts.keep)
    with pytest.raises(DeserializationError, match="is not there any more"):
        carrying.batch("/nowhere", [bytes(part) for part in parts])
