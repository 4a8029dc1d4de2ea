import array
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_ext.widgets import strip as strip_
from notebook_ext.widgets.strip import Strip

ranges = st.tuples(st.integers(0, 60), st.integers(0, 20), st.integers(1, 5)).map(
    lambda each: (each[0], each[0] + each[1], each[2])
)


def replay(states: bytearray, delta: bytes) -> bytearray:
    """Do what the front end does with a delta."""
    count = len(delta) // 9
    starts = array.array("I", delta[: 4 * count])
    stops = array.array("I", delta[4 * count : 8 * count])
    for start, stop, state in zip(starts, stops, delta[8 * count :], strict=True):
        states[start:stop] = bytes((state,)) * (stop - start)
    return states


@given(st.lists(st.lists(ranges, max_size=8), max_size=6))
def test_a_view_that_replays_the_deltas_has_the_same_states(
    ticks: list[list[tuple[int, int, int]]],
) -> None:
    strip = Strip()
    view = bytearray()
    for changes in ticks:
        strip.apply(changes)
        delta = strip.take_delta()
        assert delta is not None
        view.extend(bytes(len(strip) - len(view)))
        replay(view, delta)
        assert bytes(view) == strip.states()
    assert zlib.decompress(strip.snapshot()) == bytes(view)


def test_inputs_that_nothing_was_heard_of_are_pending() -> None:
    strip = Strip(5)
    strip.apply([(1, 3, 3)])
    strip.extend_to(6)
    assert strip.states() == bytes([0, 3, 3, 0, 0, 0])


def test_too_many_ranges_ask_for_a_snapshot() -> None:
    strip = Strip()
    strip.apply((i, i + 1, 3) for i in range(strip_.LARGEST_DELTA + 1))
    assert strip.take_delta() is None
    assert strip.take_delta() == b""


def test_an_endless_map_keeps_its_last_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip_, "LIMIT", 100)
    strip = Strip()
    for i in range(0, 1000, 10):
        strip.apply([(i, i + 10, 3)])
        assert len(strip) <= 100
    assert strip.base + len(strip) == 1000
    strip.take_delta()
    strip.apply([(0, 999, 5)])  # the part that is forgotten stays so
    assert strip.states() == bytes([5] * (len(strip) - 1) + [3])


def test_one_huge_step_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip_, "LIMIT", 100)
    strip = Strip()
    strip.apply([(0, 10_000, 2)])
    assert (strip.base, strip.states()) == (9_950, bytes([2] * 50))
    assert strip.take_delta() is None
