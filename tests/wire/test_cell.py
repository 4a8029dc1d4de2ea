"""A result arrives where it is unpickled."""

import pickle
from collections.abc import Iterator

import pytest

from kernel_worker.wire import cell
from kernel_worker.wire.cell import CellResult, NoLast, Packed
from kernel_worker.wire.leaving import CellNames, pack, unpack


@pytest.fixture(autouse=True)
def nobody_receives() -> Iterator[None]:
    yield
    cell.receive_with(None)


def result(**names: object) -> CellResult:
    found, refused, _ = pack(names, 5, {}, ("old",), ("kept",))
    assert refused == {}
    return found


def test_a_receiver_gets_it_wherever_it_is_unpickled() -> None:
    got: list[Packed] = []

    def receive(packed: Packed) -> str:
        got.append(packed)
        return "received"

    cell.receive_with(receive)
    assert pickle.loads(pickle.dumps((1, result(x=2)))) == (1, "received")
    assert unpack(got[0], {}) == ({"x": 2}, 5)
    assert got[0].gone == ("old",)
    assert got[0].kept == ("kept",)


def test_where_nobody_receives_it_is_the_names() -> None:
    names = pickle.loads(pickle.dumps(result(x=2, y=3)))
    assert isinstance(names, CellNames)
    assert names == {"x": 2, "y": 3}
    assert names.value == 5
    assert repr(names) == "<names of a cell: x, y>"


def test_a_cell_without_a_last_expression_has_no_value() -> None:
    found, _, travels = pack({}, NoLast, {})
    assert not travels
    names = pickle.loads(pickle.dumps(found))
    assert names.value is None
    assert repr(names) == "<names of a cell: none>"


def test_buffers_travel_beside_the_pickle() -> None:
    data = bytearray(b"x" * 100_000)
    found, _, _ = pack({"data": pickle.PickleBuffer(data)}, NoLast, {})
    beside: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(found, 5, buffer_callback=beside.append)
    assert len(pickled) < 1000
    names = pickle.loads(pickled, buffers=beside)
    assert bytes(names["data"]) == bytes(data)
