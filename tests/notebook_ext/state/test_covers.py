"""What lies on a shelf: as it was put, or sealed for its place."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_worker.errors import DeserializationError, RequestSizeError, SerializationError
from kernel_worker.wire import payload
from kernel_worker.wire.payload import OUT_OF_BAND_BYTES
from kernel_worker.wire.sealing import KEY_BYTES, Key
from notebook_ext.state.covers import Cover, packed, unpacked

KEY = Key(b"k" * KEY_BYTES)


def test_values_arrive_as_they_were() -> None:
    for value in (None, 1, {"a": [1]}, bytearray(2 * OUT_OF_BAND_BYTES)):
        assert unpacked(packed(value, "value")) == value


def test_what_is_too_large_or_no_value_is_named() -> None:
    with pytest.raises(RequestSizeError, match=r"the item is 2\.0 MiB, pickled; allowed are 1 MiB"):
        packed(bytes(2**21), "item", 2**20)
    parts = [np.zeros(2 * OUT_OF_BAND_BYTES, "u1") for _ in range(20)]
    pickled = payload.pickled(parts, "item")
    size = len(pickled.data) + sum(map(len, pickled.buffers))
    with pytest.raises(RequestSizeError):  # with what stands between the parts
        packed(parts, "item", size)
    assert len(packed(parts, "item", size + 2**12)) <= size + 2**12 + 1
    with pytest.raises(SerializationError, match=r"value\[0\]"):
        packed([(y for y in "")], "value")
    with pytest.raises(DeserializationError, match="cannot be unpickled here"):
        unpacked(b"\0no pickle")


def test_in_clear_everything_is_what_it_is() -> None:
    cover = Cover("dict", "d", None)
    assert not cover.is_sealed
    assert cover.token(b"n1/1") == Cover("dict", "other", None).token(b"n1/1")
    assert cover.partition("p") == b"p"
    token = cover.token(b"x")
    assert cover.opened_value(cover.value(b"v", token), token) == b"v"


def test_sealed_it_opens_at_its_place_alone() -> None:
    cover, other = Cover("dict", "d", KEY), Cover("dict", "e", KEY)
    token, elsewhere = cover.token(b"secret"), cover.token(b"other")
    assert b"secret" not in token
    assert token not in {
        elsewhere,
        other.token(b"secret"),
        Cover("dict", "d", None).token(b"secret"),
    }
    value = cover.value(b"a value", token)
    assert b"a value" not in value
    assert cover.opened_value(value, token) == b"a value"
    with pytest.raises(DeserializationError):
        cover.opened_value(value, elsewhere)
    with pytest.raises(DeserializationError):
        other.opened_value(value, token)
    with pytest.raises(DeserializationError, match="in clear, and should be sealed"):
        cover.opened_value(b"\0a value", token)
    assert cover.opened_key(cover.key(b"a key")) == b"a key"
    queue = Cover("queue", "q", KEY)
    name = queue.partition("people")
    assert (b"people" in name, queue.partition("")) == (False, b"")
    assert queue.opened_item(queue.item(b"i", name), name) == b"i"
