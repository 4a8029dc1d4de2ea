from __future__ import annotations

from notebook_ext.refeed import Places


def test_places_of_what_was_known_and_of_what_follows() -> None:
    places = Places()
    places.append(3, 2)
    places.append(9, 1)
    assert places.count == 3
    assert list(places.pieces(0, 3)) == [(0, 3, 2), (2, 9, 1)]
    assert places.total(3) is None
    places.go_on(20)
    assert list(places.pieces(1, 5)) == [(0, 4, 1), (1, 9, 1), (2, 20, 3)]
    assert list(places.pieces(7, 2)) == [(0, 24, 2)]
    assert places.total(8) == 25


def test_nothing_known() -> None:
    places = Places()
    places.go_on(4)
    assert list(places.pieces(0, 2)) == [(0, 4, 2)]
    assert places.total(2) == 6
