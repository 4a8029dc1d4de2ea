"""What is sealed opens at its place and with its key, whole or cut, and nowhere else."""

from __future__ import annotations

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import DeserializationError, ProtocolError
from kernel_worker.model import CallId, Digest
from kernel_worker.wire import frames, payload, sealing
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL, FORM_VALUE, Frame

KEY = sealing.Key(b"k" * sealing.KEY_BYTES)
PLACE = sealing.inputs_of(CallId("fc-s1"))
LARGE = payload.OUT_OF_BAND_BYTES


class Block:
    """What travels in a buffer of its own, where it is large enough."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return Block, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.data == other.data

    def __hash__(self) -> int:
        return 0


items = st.one_of(
    st.integers(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.integers(0, 2).map(lambda extra: Block(b"b" * (LARGE + extra))),
    st.just([Block(bytes(LARGE)), Block(bytes(LARGE + 1))]),
)


def plain(parts: list[Frame]) -> list[bytes]:
    return [bytes(part) for part in parts]


def values(parts: list[Frame]) -> list[object]:
    reader = payload.BatchReader(parts)
    return list(reader.items(0, len(reader)))


@given(st.lists(items, min_size=1, max_size=6), st.integers(0, 2**40), st.data())
def test_what_is_cut_while_it_is_sealed_opens_as_what_is_cut_in_clear(
    given_items: list[object], first: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(given_items) - 1))
    stop = data.draw(st.integers(start + 1, len(given_items)))
    batch = payload.encode_batch(given_items, FORM_VALUE)
    sealed = KEY.seal_batch(batch, PLACE, first)
    frames.check(sealed, len(given_items))
    assert frames.plain_bytes(sealed) == frames.plain_bytes(batch) == sum(map(len, batch))
    at, part = frames.cut(sealed, start, stop)
    frames.check(part, frames.header(part).count)
    assert frames.plain_bytes(part) == sum(map(len, frames.cut(batch, start, stop)[1]))
    opened = KEY.open_batch(part, PLACE, first + at)
    assert plain(opened) == plain(frames.cut(batch, start, stop)[1])
    assert values(opened)[start - at : stop - at] == given_items[start:stop]


BATCHES = [
    payload.encode_batch([(1, "two")], FORM_ARGS),
    payload.encode_batch([(1,), (2,)], FORM_ARGS),
    payload.encode_batch(
        [([1],), ([Block(bytes(LARGE)), Block(bytes(LARGE))],), ([3],)], FORM_ARGS
    ),
]


@pytest.mark.parametrize("batch", BATCHES)
def test_any_byte_that_is_changed_is_refused(batch: list[Frame]) -> None:
    sealed = plain(KEY.seal_batch(batch, PLACE, 5))
    for number, frame in enumerate(sealed):
        places = range(len(frame)) if len(frame) < 1000 else (0, 1000, len(frame) - 1)
        for at in places:
            changed = bytearray(frame)
            changed[at] ^= 1
            with pytest.raises((DeserializationError, ProtocolError)):
                KEY.open_batch([*sealed[:number], changed, *sealed[number + 1 :]], PLACE, 5)


@pytest.mark.parametrize("batch", BATCHES)
def test_it_opens_at_its_place_alone_and_with_its_key(batch: list[Frame]) -> None:
    sealed = KEY.seal_batch(batch, PLACE, 5)
    assert plain(KEY.open_batch(sealed, PLACE, 5)) == plain(batch)
    assert sealed != KEY.seal_batch(batch, PLACE, 5), "with a salt of its own each time"
    other = sealing.Key(os.urandom(sealing.KEY_BYTES))
    for key, place, first in (
        (other, PLACE, 5),
        (KEY, sealing.values_of(CallId("fc-s1")), 5),
        (KEY, sealing.inputs_of(CallId("fc-s2")), 5),
        (KEY, PLACE, 6),
        (KEY, PLACE, -1),
        (KEY, PLACE, 2**48),
    ):
        with pytest.raises(DeserializationError, match="cannot be opened: changed on their way"):
            key.open_batch(sealed, place, first)


def test_items_that_change_places_are_refused() -> None:
    batch = payload.encode_batch([[1], [2]], FORM_VALUE)
    front, data = KEY.seal_batch(batch, PLACE, 0)
    half = len(data) // 2
    swapped = bytes(data[half:]) + bytes(data[:half])
    with pytest.raises(DeserializationError):
        KEY.open_batch([front, swapped], PLACE, 0)
    two = payload.encode_batch([[Block(bytes(LARGE)), Block(bytes(LARGE))]], FORM_CALL)
    front, data, one, other = KEY.seal_batch(two, PLACE, 0)
    with pytest.raises(DeserializationError):
        KEY.open_batch([front, data, other, one], PLACE, 0)


def test_nothing_that_is_sealed_is_unpickled_as_if_it_were_clear() -> None:
    for batch in BATCHES:
        sealed = KEY.seal_batch(batch, PLACE, 0)
        assert not frames.is_one_plain(sealed)
        with pytest.raises(DeserializationError, match="is sealed"):
            payload.loads(sealed)
        with pytest.raises(DeserializationError, match="in clear, and should be sealed"):
            KEY.open_batch(batch, PLACE, 0)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200])
def test_a_frame_opens_as_it_was_in_as_many_parts_as_it_needs(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PART_BYTES", 64)
    content, place = os.urandom(size), sealing.object_named(Digest("d"))
    sealed = KEY.seal(content, place)
    assert frames.is_sealed(sealed)
    assert KEY.open(sealed, place) == content
    with pytest.raises(DeserializationError):
        KEY.open(sealed, sealing.object_named(Digest("e")))
    for wrong in (sealed[:-1], sealed[: len(sealed) // 2], sealed[:4], sealed + b"x", sealed[:-80]):
        with pytest.raises(DeserializationError):
            KEY.open(wrong, place)
    with pytest.raises(DeserializationError, match="in clear, and should be sealed"):
        KEY.open(content, place)


def test_each_kind_has_a_place_of_its_own_and_a_key_is_not_shown() -> None:
    call = CallId("fc-s1")
    places = {
        sealing.inputs_of(call),
        sealing.values_of(call),
        sealing.items_of(call),
        sealing.exception_of(call, 0),
        sealing.exception_of(call, 1),
        sealing.output_of(call, 0),
        sealing.object_named(Digest(call)),
        sealing.START,
    }
    assert len(places) == 8
    assert repr(KEY) == "Key(…)"


def test_a_token_is_the_same_at_its_place_with_its_key_alone() -> None:
    other = sealing.Key(b"o" * sealing.KEY_BYTES)
    made = KEY.token("dict d", b"content", 24)
    assert (len(made), made) == (24, KEY.token("dict d", b"content", 24))
    others = {KEY.token("dict e", b"content", 24), KEY.token("dict d", b"x", 24)}
    assert made not in others | {other.token("dict d", b"content", 24)}
