from __future__ import annotations

import pytest

from kernel_worker.errors import ProtocolError
from kernel_worker.wire.display import Display, decode, encode


class Numbers:
    """Behaves like an array of numpy."""

    def tolist(self) -> list[float]:
        return [1.0, 2.0]


def test_a_display_comes_back_as_it_was() -> None:
    display = Display(
        {"text/plain": "x", "image/png": b"\x89PNG", "application/json": {"a": [1, None, 2.5]}},
        {"image/png": {"width": 3}},
        {"display_id": "1"},
        update=True,
    )
    assert decode(encode(display)) == display
    assert decode(encode(Display(clear=True, wait=True))) == Display(clear=True, wait=True)


def test_numbers_of_numpy_become_plain() -> None:
    assert decode(encode(Display({"application/json": Numbers()}))).data == {
        "application/json": [1.0, 2.0]
    }


@pytest.mark.parametrize("odd", [object(), 1 << 70, {("a", object()): 1}])
def test_what_cannot_travel_is_left_out(odd: object) -> None:
    display = Display({"text/plain": "x", "x/y": odd}, {"x/y": odd, "text/plain": {}})
    left = decode(encode(display))
    assert left.data == {"text/plain": "x"}
    assert left.metadata == {"text/plain": {}}


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\x02\x03"])
def test_what_is_no_display(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no display"):
        decode(data)
