"""Ranges of what is known say the same as a table with an entry for each index."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from notebook_ext.known_ranges import KnownRanges, Piece

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=30)


@given(RANGES)
def test_what_was_said_first_stays(said: list[tuple[int, int]]) -> None:
    ranges: KnownRanges[int] = KnownRanges()
    table: dict[int, tuple[int, int]] = {}
    for number, (start, count) in enumerate(said):
        ranges.add(start, start + count, number)
        for index in range(start, start + count):
            table.setdefault(index, (start, number))
    for index in range(-1, 60):
        piece = ranges.at(index)
        assert (None if piece is None else (piece.origin, piece.known)) == table.get(index)
    starts = [piece.start for piece in ranges._pieces]
    assert starts == ranges._starts == sorted(set(starts))
    assert sum(piece.stop - piece.start for piece in ranges._pieces) == len(table)
    ranges.clear()
    assert len(ranges) == 0
    assert ranges.at(0) is None


def test_a_piece_is_all_that_is_kept_of_a_range() -> None:
    ranges: KnownRanges[str] = KnownRanges()
    ranges.add(0, 1_000_000, "values")
    ranges.add(10, 20, "again")
    assert len(ranges) == 1
    assert ranges.at(999_999) == Piece(0, 1_000_000, 0, "values")
