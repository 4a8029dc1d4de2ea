"""What a view hears of a tree is enough to show it: played back, it is the tree."""

from __future__ import annotations

import array
from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_worker.model import Outcome, WorkerId
from kernel_worker.traces import CallTrace
from notebook_ext.widgets.call_rows import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    UNKNOWN,
    WAITING,
    CallRows,
    Delta,
)
from tests.notebook_ext.widgets.trees import BEGAN, call, tree

OK, BAD, CUT = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED
WORKER = WorkerId("ta-i-2")


class Page:
    """What the front end keeps, in a few lines: see `call_tree.js`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.parents: list[int] = []
        self.functions: list[int] = []
        self.counts: dict[int, list[int]] = {}
        self.times: dict[int, tuple[float, float]] = {}
        self.strips: dict[int, list[int]] = {}

    def hear(self, delta: Delta) -> None:
        self.names += delta.names
        added = array.array("I", delta.added)
        self.parents += [word - 1 for word in added[::2]]
        self.functions += added[1::2]
        changed, times = array.array("I", delta.changed), array.array("d", delta.times)
        for i in range(len(changed) // 6):
            row, *counts = changed[6 * i : 6 * i + 6]
            self.counts[row] = counts
            self.times[row] = times[2 * i], times[2 * i + 1]
            strip = self.strips.setdefault(row, [])
            strip += [WAITING] * (sum(counts) - len(strip))
        painted = array.array("I", delta.painted)
        for i, state in enumerate(delta.states):
            row, start, stop = painted[3 * i : 3 * i + 3]
            self.strips[row][start:stop] = [state] * (stop - start)


def hear(rows: CallRows, page: Page, *calls: CallTrace) -> Delta:
    delta = rows.take(tree(*calls))
    page.hear(delta)
    return delta


def test_a_row_is_a_call_with_its_parent_and_its_function() -> None:
    rows, page = CallRows(), Page()
    hear(rows, page, call("root"), call("leaf1", "root"), call("leaf2", "root"))
    assert page.names == ["root", "leaf"]
    assert (page.parents, page.functions) == ([-1, 0, 0], [0, 1, 1])
    assert page.counts[1] == [1, 0, 0, 0, 0]
    assert page.times[1] == (UNKNOWN, UNKNOWN)


def test_what_did_not_change_is_not_said_again() -> None:
    rows, page = CallRows(), Page()
    first = call("root", ended=[(0, 1, OK)])
    hear(rows, page, first)
    assert rows.take(tree(first)).is_empty
    delta = hear(rows, page, first, call("leaf", "root"))
    assert delta.names == ["leaf"]
    assert (len(delta.added), len(delta.changed)) == (2 * 4, 6 * 4)
    assert not delta.is_empty


def test_counts_times_and_the_state_of_every_input() -> None:
    rows, page = CallRows(), Page()
    ended = [(0, 2, OK), (2, 3, BAD), (5, 6, CUT), (6, 7, Outcome.TIMED_OUT)]
    running = ((WORKER, 3, 5, 1, BEGAN + 3.5), (WORKER, 2, 3, 1, BEGAN + 2))
    hear(rows, page, call("f", ended=ended, total=9, running=running))
    assert page.strips[0] == [DONE, DONE, FAILED, RUNNING, WAITING, CANCELLED, FAILED, 0, 0]
    assert page.counts[0] == [3, 1, 2, 2, 1]
    assert page.times[0] == (1.0, UNKNOWN), "began; not all have ended"
    assert not rows.has_ended


def test_an_ended_call_has_its_end() -> None:
    rows, page = CallRows(), Page()
    hear(rows, page, call("f", ended=[(0, 3, OK)], total=3))
    assert page.times[0] == (1.0, 4.0)
    assert rows.has_ended
    assert rows.counts() == (0, 0, 3, 0, 0)


def test_an_input_that_is_tried_again_waits_again() -> None:
    rows, page = CallRows(), Page()
    running = ((WORKER, 1, 2, 1, BEGAN + 1),)
    hear(rows, page, call("f", total=3, running=running))
    assert page.strips[0] == [WAITING, RUNNING, WAITING]
    hear(rows, page, call("f", total=3))
    assert page.strips[0] == [WAITING, WAITING, WAITING]


def test_no_calls_are_no_counts() -> None:
    rows = CallRows()
    assert rows.counts() == (0, 0, 0, 0, 0)
    assert not rows.has_ended
    assert rows.whole().is_empty


def _outcomes(states: Iterable[Outcome | None]) -> list[tuple[int, int, Outcome]]:
    return [(i, i + 1, state) for i, state in enumerate(states) if state is not None]


histories = st.lists(
    st.lists(st.sampled_from([None, OK, BAD, CUT]), min_size=12, max_size=12),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(histories)
def test_deltas_and_the_whole_are_the_same_to_a_view(
    history: list[list[Outcome | None]],
) -> None:
    rows, page = CallRows(), Page()
    for states in history:
        hear(rows, page, call("f", ended=_outcomes(states), total=12), call("g", "f"))
    late = Page()
    late.hear(rows.whole())
    assert vars(late) == vars(page)
