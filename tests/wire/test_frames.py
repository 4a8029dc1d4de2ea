from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import frames, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE, BatchHeader, Place

STORED = frames.itemised_header(0, [0, 1], [0, 1], stored=True)
ITEMS = [[1], {"a": 2}, bytearray(200_000), "x", [bytearray(70_000), bytearray(80_000)]]


def test_header_of_whole_and_itemised() -> None:
    assert frames.header(payload.encode_batch([(1,), (2,)], FORM_ARGS)) == BatchHeader(
        whole=True, form=FORM_ARGS, count=2
    )
    assert frames.header(payload.encode_batch([[1]], FORM_VALUE)) == BatchHeader(
        whole=False, form=FORM_VALUE, count=1
    )


@pytest.mark.parametrize(
    "broken",
    [
        [],
        [b""],
        [b"\0" * 7, b""],
        [struct.pack("<BBHI", 2, 0, 0, 0), b""],
        [struct.pack("<BBHI", 0, 4, 0, 0), b""],
        [struct.pack("<BBHI", 1, 3, 0, 0) + bytes(12), b""],
        [struct.pack("<BBHI", 0, 0, 2, 0), b""],
        [struct.pack("<BBHI", 1, 0, 3, 0) + bytes(12), b""],
        [STORED, b"a", b""],
        [STORED, b"a", b"\2" + bytes(16) + b"b-1"],
        [STORED, b"a", b"\1" + bytes(16)],
        [STORED, b"a", b"\1" + bytes(16) + b"../b-1"],
        [STORED, b"a", b"\1" + bytes(16) + b"/etc/passwd"],
        [struct.pack("<BBHI", 0, 0, 1, 0), b""],
        [struct.pack("<BBHI", 0, 0, 0, 0) + b"s" * 16, b""],
        [struct.pack("<BBHI", 0, 0, 0, 0)],
        [struct.pack("<BBHI", 0, 0, 0, 0), b"", b""],
        [struct.pack("<BBHI", 1, 0, 0, 0), b""],
        [frames.itemised_header(0, [0, 2, 1], [0, 0, 0]), b"a"],
        [frames.itemised_header(0, [0, 1, 1], [0, 1, 0]), b"a"],
        [frames.itemised_header(0, [0, 1], [0, 1]), b"a"],
        [frames.itemised_header(0, [1, 1], [0, 0]), b"a"],
    ],
)
def test_check_refuses(broken: list[bytes]) -> None:
    count = struct.unpack_from("<I", broken[0], 4)[0] if broken and len(broken[0]) > 7 else 0
    with pytest.raises(ProtocolError):
        frames.check(broken, count)


def test_check_refuses_another_count() -> None:
    with pytest.raises(ProtocolError, match="says 2 items, its message 3"):
        frames.check(payload.encode_batch([1, 2], FORM_VALUE), 3)


def test_table_refuses_a_short_frame() -> None:
    with pytest.raises(ProtocolError):
        frames.table(b"\0" * 8, 1)


@given(st.lists(st.binary(max_size=80), max_size=4), st.integers(0, 5))
def test_any_bytes_are_a_batch_or_refused(found: list[bytes], count: int) -> None:
    try:
        assert frames.check(found, count).count == count
    except ProtocolError:
        pass
    else:
        for start in range(count + 1):
            for stop in range(start, count + 1):
                first, part = frames.cut(found, start, stop)
                assert frames.check(part, count if first == 0 and part == found else stop - start)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.lists(st.integers(0, 2**20), min_size=1, max_size=6),
    st.binary(max_size=6),
)
def test_any_table_is_valid_or_refused(
    positions: list[int], offsets: list[int], data: bytes
) -> None:
    rows = min(len(positions), len(offsets))
    front = frames.itemised_header(0, offsets[:rows], positions[:rows])
    found = [front, data, b"", b""]
    try:
        frames.check(found, rows - 1)
    except ProtocolError:
        return
    for start in range(rows):
        assert frames.check(frames.cut(found, start, rows - 1)[1], rows - 1 - start)


@given(st.data())
def test_a_cut_holds_the_items(data: st.DataObject) -> None:
    batch = payload.encode_batch(ITEMS, FORM_VALUE)
    start = data.draw(st.integers(0, len(ITEMS)))
    stop = data.draw(st.integers(start, len(ITEMS)))
    first, part = frames.cut(batch, start, stop)
    assert first == start
    assert frames.check(part, stop - start)[:3] == (False, FORM_VALUE, stop - start)
    reader = payload.BatchReader(part)
    assert [reader[i] for i in range(len(reader))] == ITEMS[start:stop]


def test_a_cut_of_a_cut_and_of_memoryviews() -> None:
    batch = [memoryview(frame) for frame in payload.encode_batch(ITEMS, FORM_VALUE)]
    _, part = frames.cut(batch, 1, 5)
    _, inner = frames.cut([memoryview(frame) for frame in part], 1, 3)
    assert [payload.BatchReader(inner)[i] for i in range(2)] == ITEMS[2:4]


def test_a_part_of_a_whole_batch_is_all_of_it() -> None:
    batch = payload.encode_batch([1, 2, 3], FORM_VALUE)
    assert frames.cut(batch, 1, 2) == (0, batch)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 4)])
def test_cut_refuses_what_is_not_there(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="of a batch of 3"):
        frames.cut(payload.encode_batch([[1], 2, 3], FORM_VALUE), start, stop)


def test_a_stored_batch_says_where_its_buffers_lie_also_in_parts() -> None:
    places = [Place("b-1-aa", 0, 100), Place("disk/b-2-bb", 4096, 1 << 40)]
    front = frames.itemised_header(FORM_VALUE, [0, 1, 2], [0, 2, 3], stored=True)
    batch = [front, b"xy", *map(frames.reference, places), frames.inline(b"here")]
    assert frames.check(batch, 2) == BatchHeader(whole=False, form=FORM_VALUE, count=2, stored=True)
    assert frames.is_stored(batch)
    assert [frames.place_of(frame) for frame in batch[2:4]] == places
    assert [frames.inlined(frame) for frame in batch[2:]] == [None, None, b"here"]
    assert frames.plain_bytes(batch) == sum(map(len, batch)) + 100 + (1 << 40)
    _, part = frames.cut(batch, 1, 2)
    assert frames.check(part, 1).stored
    assert part[2:] == batch[4:]


def test_what_has_no_buffers_is_not_stored() -> None:
    assert not frames.is_stored(payload.encode_batch([[1]], FORM_VALUE))
    assert not frames.is_stored(payload.encode_batch([bytearray(200_000)], FORM_VALUE))


def test_what_names_a_buffer_is_read_by_who_can() -> None:
    with pytest.raises(NotImplementedError):
        frames.Stored(b"").fetched()
