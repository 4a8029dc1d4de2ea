from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from notebook_ext.numbering import Renumbering, Spans

RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda r: (r[0], r[0] + r[1])),
    max_size=12,
)


@given(RANGES)
def test_spans_say_what_is_new_and_what_is_missing(ranges: list[tuple[int, int]]) -> None:
    spans, plain = Spans(), set[int]()
    for start, stop in ranges:
        new = {i for low, high in spans.add(start, stop) for i in range(low, high)}
        assert new == set(range(start, stop)) - plain
        plain |= set(range(start, stop))
    held = list(spans)
    assert {i for low, high in held for i in range(low, high)} == plain
    assert all(a[1] < b[0] for a, b in pairwise(held))
    missing = {i for low, high in spans.missing(0, 60) for i in range(low, high)}
    assert missing == set(range(60)) - plain


def test_renumbering_translates_by_runs() -> None:
    numbers = Renumbering()
    assert numbers.append(3, 2) == 0
    assert numbers.append(5, 1) == 2
    assert numbers.append(10, 4) == 3
    assert numbers.count == 7
    assert list(numbers.pieces(0, 7)) == [(0, 3, 3), (3, 10, 4)]
    assert list(numbers.pieces(4, 2)) == [(0, 11, 2)]
    assert list(numbers.pieces(6, 9)) == [(0, 13, 1)]
    assert list(numbers.pieces(7, 1)) == []
