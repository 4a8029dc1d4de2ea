from __future__ import annotations

import math
import pickle
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import (
    DeserializationError,
    ProtocolError,
    RequestSizeError,
    SerializationError,
)
from kernel_worker.wire import frames, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL, FORM_COLUMNS, FORM_VALUE

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Holder:
    """Has attributes."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


class Poisoned:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def items_of(parts: Any) -> list[object]:
    reader = payload.BatchReader(parts)
    return [reader[i] for i in range(len(reader))]


@given(values)
def test_one_value(value: object) -> None:
    parts = payload.dumps(value)
    assert frames.check(parts, 1).form == FORM_VALUE
    assert payload.loads(parts) == value


@given(st.lists(values, max_size=5))
def test_a_batch(items: list[object]) -> None:
    assert items_of(payload.encode_batch(items, FORM_VALUE)) == items


@given(st.lists(st.tuples(plain, st.tuples(plain)), max_size=5))
def test_plain_items_are_one_pickle(items: list[object]) -> None:
    parts = payload.encode_batch(items, FORM_ARGS)
    assert frames.header(parts).whole
    assert items_of(parts) == items


@pytest.mark.parametrize("item", [[1], {1: 2}, (1, [2]), {1}, frozenset(), 1j, Holder, len])
def test_anything_else_is_itemised(item: object) -> None:
    assert not frames.header(payload.encode_batch([1, item], FORM_VALUE)).whole


def test_a_subclass_of_int_is_not_plain() -> None:
    class Number(int):
        pass

    assert not frames.header(payload.encode_batch([Number(1)], FORM_VALUE)).whole


def test_deep_tuples_are_itemised() -> None:
    deep: object = 1
    for _ in range(40):
        deep = (deep,)
    assert items_of(payload.encode_batch([deep], FORM_VALUE)) == [deep]


def test_big_plain_items_are_itemised() -> None:
    parts = payload.encode_batch([bytes([i]) * 100_000 for i in range(5)], FORM_VALUE)
    assert not frames.header(parts).whole
    assert len(frames.cut(parts, 0, 1)[1][1]) < 110_000


def test_no_item_shares_with_another_nor_with_the_next_access() -> None:
    config: dict[str, list[int]] = {"a": []}
    reader = payload.BatchReader(payload.encode_batch([config] * 3, FORM_VALUE))
    first: Any = reader[0]
    first["a"].append(1)
    assert reader[0] == reader[1] == reader[2] == {"a": []}


def test_arrays_are_writable_and_each_access_has_its_own() -> None:
    np = pytest.importorskip("numpy")
    for size in (10, 100_000):
        reader = payload.BatchReader(payload.dumps(np.zeros(size)))
        array: Any = reader[0]
        array += 1
        assert payload.loads(payload.dumps(array)).sum() == size  # type: ignore[attr-defined]
        assert reader[0].sum() == 0  # type: ignore[attr-defined]


def test_large_buffers_are_not_copied_into_the_pickle() -> None:
    np = pytest.importorskip("numpy")
    array = np.zeros(100_000)
    parts = payload.encode_batch([(array,), (1,), (array, array)], FORM_ARGS)
    assert len(parts) == 2 + 2
    assert len(parts[1]) < 1000
    assert all(np.shares_memory(np.frombuffer(part), array) for part in parts[2:])


@pytest.mark.parametrize(
    ("item", "form", "path"),
    [
        ((1, Holder(client=Holder(_lock=threading.Lock()))), FORM_ARGS, "args[1].client._lock"),
        (((1,), {"x": [threading.Lock()]}), FORM_CALL, "kwargs['x'][0]"),
        (((threading.Lock(),), {}), FORM_CALL, "args[0]"),
        ([threading.Lock()], FORM_VALUE, "value[0]"),
    ],
)
def test_an_error_names_the_culprit(item: object, form: int, path: str) -> None:
    with pytest.raises(SerializationError) as caught:
        payload.encode_batch([1, item], form)
    assert str(caught.value).startswith(f"{path} (a _thread.lock) cannot be pickled: TypeError")


def test_an_error_names_the_value_as_asked() -> None:
    with pytest.raises(SerializationError, match=r"^result \(a _thread.lock\)"):
        payload.dumps(threading.Lock(), "result")


def test_an_item_that_only_fails_in_company_is_still_an_error() -> None:
    class Moody:
        calls = 0

        def __reduce__(self) -> tuple[Any, ...]:
            Moody.calls += 1
            if Moody.calls < 4:
                raise ValueError("not now")
            return int, ()

    with pytest.raises(SerializationError, match="not now"):
        payload.encode_batch([((Moody(),), {})], FORM_CALL)


def test_what_names_main_travels_by_value() -> None:
    assert payload.loads(payload.dumps(["__main__", bytearray(100_000)])) == [
        "__main__",
        bytearray(100_000),
    ]


def test_what_cannot_be_loaded_says_why() -> None:
    parts = [frames.itemised_header(FORM_VALUE, [0, 23], [0, 0]), b"cno_such_module\nthing\n."]
    with pytest.raises(DeserializationError, match="no_such_module"):
        payload.loads(parts)


class Leaving:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def test_a_value_cannot_end_the_process_that_loads_it() -> None:
    with pytest.raises(DeserializationError, match="SystemExit: 3"):
        payload.loads(payload.dumps(Leaving()))


def test_a_whole_batch_that_is_no_list() -> None:
    with pytest.raises(DeserializationError, match="no list of 1"):
        payload.loads([frames.whole_header(FORM_VALUE, 1), pickle.dumps((1,))])
    with pytest.raises(DeserializationError, match="no list of 2"):
        payload.loads([frames.whole_header(FORM_VALUE, 2), pickle.dumps([1])])


def test_reading_beyond_the_end() -> None:
    for items in ([[1]], [1]):
        with pytest.raises(IndexError):
            payload.BatchReader(payload.encode_batch(items, FORM_VALUE))[1]


def test_reading_no_batch() -> None:
    with pytest.raises(ProtocolError):
        payload.BatchReader([b"what"])


# ---- the writer -----------------------------------------------------------------------------


@given(st.lists(values, max_size=12), st.integers(1, 5))
def test_a_writer_gives_all_items_in_order(items: list[object], step: int) -> None:
    writer = payload.BatchWriter(FORM_VALUE)
    for item in items:
        writer.add(item)
    found: list[object] = []
    while len(writer):
        count, parts = writer.take(step)
        assert frames.check(parts, count).count == count <= step
        found += items_of(parts)
    assert found == items
    assert writer.pending_bytes == 0
    assert writer.take(step) == (0, [])


def test_a_writer_pickles_at_once() -> None:
    writer = payload.BatchWriter(FORM_VALUE)
    item = [1]
    writer.add(item)
    item.append(2)
    assert items_of(writer.take(1)[1]) == [[1]]


def test_a_writer_takes_many_and_refuses_a_bad_one() -> None:
    writer = payload.BatchWriter(FORM_ARGS)
    writer.extend([(1,), (2,)])
    with pytest.raises(SerializationError):
        writer.extend([([3],), (threading.Lock(),), (4,)])
    assert len(writer) == 3
    assert items_of(writer.take(9)[1]) == [(1,), (2,), ([3],)]


def test_a_whole_batch_gives_many_items_at_once() -> None:
    reader = payload.BatchReader(payload.encode_batch([1, 2, 3], FORM_VALUE))
    assert reader.plain_items(1, 3) == [2, 3]
    assert list(reader.items(0, 2)) == [1, 2]


@given(st.lists(st.tuples(plain, st.tuples(plain)), min_size=1, max_size=5))
def test_columns_are_tuples_of_arguments(rows: list[tuple[object, ...]]) -> None:
    first, second = [row[0] for row in rows], tuple(row[1] for row in rows)
    parts = payload.encode_columns([first, second, range(len(rows))])
    assert parts is not None
    assert frames.check(parts, len(rows)).form == FORM_COLUMNS
    expected = [(*row, at) for at, row in enumerate(rows)]
    assert items_of(parts) == expected
    reader = payload.BatchReader(parts)
    assert list(reader.items(1, len(rows))) == expected[1:]
    assert list(reader.items(0, 1)) == expected[:1]


def test_a_range_is_not_unrolled() -> None:
    parts = payload.encode_columns([range(3, 10**9)])
    assert parts is not None
    assert sum(map(len, parts)) < 100
    assert payload.BatchReader(parts)[10**8] == (10**8 + 3,)


def test_a_column_is_given_where_it_is_the_only_one() -> None:
    def reader(*columns: Any) -> payload.BatchReader:
        parts = payload.encode_columns(list(columns))
        assert parts is not None
        return payload.BatchReader(parts)

    assert reader(range(10)).column(2, 5) == range(2, 5)
    assert reader(["a", "b", "c"]).column(1, 3) == ["b", "c"]
    assert reader(["a"], ["b"]).column(0, 1) is None
    rows = payload.encode_batch([(1,), (2,)], FORM_ARGS)
    assert payload.BatchReader(rows).column(0, 2) is None


@pytest.mark.parametrize(
    "columns",
    [[[1, [2]]], [[1, 2], [{}, None]], [[b"a" * 300_000]], [[f"{at:01000}" for at in range(300)]]],
    ids=["no plain item", "one column that is not plain", "one large item", "large items"],
)
def test_what_cannot_travel_whole_is_in_no_columns(columns: list[list[object]]) -> None:
    assert payload.encode_columns(columns) is None


@pytest.mark.parametrize("content", [[], [[1, 2]], [[1, 2, 3], {1, 2, 3}], "abc", [[1], [1, 2, 3]]])
def test_a_batch_without_its_columns(content: object) -> None:
    reader = payload.BatchReader([frames.whole_header(FORM_COLUMNS, 3), pickle.dumps(content)])
    with pytest.raises(DeserializationError, match="no columns of 3"):
        reader[0]
    with pytest.raises(DeserializationError, match="no columns of 3"):
        reader.items(0, 3)


def test_items_are_unpickled_when_they_are_asked_for() -> None:
    reader = payload.BatchReader(payload.encode_batch([[1], Poisoned(), [3]], FORM_VALUE))
    items = iter(reader.items(0, 3))
    assert next(items) == [1]
    with pytest.raises(DeserializationError):
        next(items)
    assert list(reader.items(2, 3)) == [[3]]


def test_a_writer_takes_many_that_are_not_plain() -> None:
    writer = payload.BatchWriter(FORM_VALUE)
    writer.extend([[1], [2]])
    assert items_of(writer.take(9)[1]) == [[1], [2]]


def test_a_writer_counts_bytes() -> None:
    writer = payload.BatchWriter(FORM_VALUE)
    writer.add("x" * 1000)
    writer.add([bytearray(100_000)])
    assert 101_000 <= writer.pending_bytes <= 102_000


def test_a_writer_refuses_what_is_too_large() -> None:
    writer = payload.BatchWriter(FORM_ARGS, 2 << 20)
    writer.add((bytes(2_000_000),))
    for large in (bytes(3_000_000), bytearray(3_000_000)):
        with pytest.raises(RequestSizeError, match=r"2\.9 MiB, pickled; allowed are 2 MiB"):
            writer.add((large,))
    assert len(writer) == 1


def test_a_writer_serves_threads() -> None:
    writer = payload.BatchWriter(FORM_VALUE)

    def add_all() -> None:
        for i in range(2000):
            writer.add(i)

    threads = [threading.Thread(target=add_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    found: list[object] = []
    while any(thread.is_alive() for thread in threads) or len(writer):
        count, parts = writer.take(100)
        found += items_of(parts) if count else []
    assert sorted(found) == sorted(list(range(2000)) * 3)  # type: ignore[type-var]


def test_a_million_numbers_take_a_fraction_of_a_second() -> None:
    items = [(i,) for i in range(100_000)]
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        for k in range(0, len(items), 1000):
            payload.encode_batch(items[k : k + 1000], FORM_ARGS)
        best = min(best, time.perf_counter() - start)
    assert len(items) / best > 1e6, f"{len(items) / best / 1e6:.1f} M/s"


class Shelf:
    """Keeps buffers, as a store does."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.is_full = False

    def __call__(self, buffers: Sequence[memoryview]) -> list[frames.Stored] | None:
        if self.is_full:
            return None
        named: list[frames.Stored] = []
        for buffer in buffers:
            place = frames.Place(f"b-{len(self.kept)}", 0, buffer.nbytes)
            named.append(OnShelf(frames.reference(place)))
            named[-1].place = place
            self.kept.append(bytes(buffer))
            named[-1].shelf = self  # type: ignore[attr-defined]
        return named


class OnShelf(frames.Stored):
    """A buffer there."""

    shelf: Shelf

    def fetched(self) -> bytearray:
        return bytearray(self.shelf.kept[int(frames.place_of(self).name.removeprefix("b-"))])


LARGE = bytes(range(256)) * 2_000
ARRAY = np.arange(50_000)


@pytest.mark.parametrize(
    ("item", "form", "count"),
    [
        (LARGE, FORM_VALUE, 1),
        ((LARGE, 1), FORM_ARGS, 1),
        ((1, ARRAY, LARGE, b"small"), FORM_ARGS, 2),
        (((ARRAY,), {"x": LARGE, "y": 1}), FORM_CALL, 2),
        ([LARGE, ARRAY], FORM_VALUE, 1),
    ],
)
def test_large_buffers_are_kept_elsewhere_bytes_near_the_surface_too(
    item: Any, form: int, count: int
) -> None:
    shelf = Shelf()
    writer = payload.BatchWriter(form, keep=shelf)
    writer.add(item)
    full = writer.pending_bytes
    assert writer.pending_message_bytes < full
    ways = [payload.encode_batch([item], form, shelf), writer.take(9)[1]]
    assert writer.pending_bytes == 0
    assert full > 400_000
    assert len(shelf.kept) == 2 * count
    for parts in ways:
        assert frames.check(parts, 1).stored
        assert len(parts) == 2 + count
        assert repr(payload.BatchReader(parts)[0]) == repr(item)


def test_what_is_plain_and_small_is_kept_nowhere() -> None:
    shelf = Shelf()
    assert payload.encode_batch([1, "a"], FORM_VALUE, shelf) == payload.encode_batch(
        [1, "a"], FORM_VALUE
    )
    assert payload.encode_batch([b"a"], FORM_VALUE, shelf) == payload.dumps(b"a")
    assert payload.loads(payload.encode_batch([[1]], FORM_VALUE, shelf)) == [1]
    assert shelf.kept == []


def test_where_nothing_can_be_kept_all_goes_along() -> None:
    shelf = Shelf()
    writer = payload.BatchWriter(FORM_VALUE, keep=shelf)
    writer.add(ARRAY)
    shelf.is_full = True
    writer.add(ARRAY + 1)
    writer.add(3)
    parts = writer.take(9)[1]
    assert frames.check(parts, 3).stored
    reader = payload.BatchReader(parts)
    assert (reader[0] == ARRAY).all()
    assert (reader[1] == ARRAY + 1).all()
    assert reader[2] == 3
    assert not frames.is_stored(payload.encode_batch([ARRAY], FORM_VALUE, shelf))


def test_what_lies_elsewhere_is_read_by_nobody_who_has_not_looked_there() -> None:
    parts = [bytes(part) for part in payload.encode_batch([ARRAY], FORM_VALUE, Shelf())]
    with pytest.raises(DeserializationError, match="nobody has looked into"):
        payload.loads(parts)


def test_what_is_kept_elsewhere_is_within_no_limit() -> None:
    writer = payload.BatchWriter(FORM_ARGS, 100_000, Shelf())
    writer.add((ARRAY,))
    with pytest.raises(RequestSizeError):
        writer.add(("x" * 200_000,))
