"""The calls of a tree as rows of numbers, and what a view must hear of them since the last look.

A row is a call: the row of the call that made it, its function, how many of its inputs are in each
state, when it began and ended. Of a call with many inputs the state of each is kept too, as runs of
neighbours. A view keeps the same rows (`call_tree.js`): it hears new rows, changed rows and changed
runs, each as plain numbers in a buffer.

Nothing here knows of widgets or of brokers.
"""

from __future__ import annotations

import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from notebook_ext.call_graph import InputStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.model import CallId
    from notebook_ext.call_graph import CallTree, KnownCall

WAITING, RUNNING, DONE, FAILED, CANCELLED = range(5)
STATES: Final = ("waiting", "running", "done", "failed", "cancelled")
_STATE: Final = {
    InputStatus.SUCCESS: DONE,
    InputStatus.FAILURE: FAILED,
    InputStatus.INIT_FAILURE: FAILED,
    InputStatus.TERMINATED: CANCELLED,
    InputStatus.TIMEOUT: FAILED,
}
UNKNOWN: Final = -1.0
"""Stands for a time that is not known."""

Part = tuple[int, int, int]
"""Inputs [start, stop) of a call, and their state."""


@dataclass(frozen=True, slots=True)
class Row:
    """One call, as far as a view shows it; times in seconds after the tree began."""

    counts: tuple[int, ...]
    """How many inputs are in each of `STATES`."""
    began: float
    ended: float
    """`UNKNOWN` where they are not known."""
    parts: tuple[Part, ...] = ()
    """Of a call with several inputs; inputs that are in none wait."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a view must hear; arrays as bytes, little-endian."""

    names: list[str]
    """Functions that are new."""
    added: bytes
    """Of each new row (u32): the row of its parent + 1 (0: none), the number of its function."""
    changed: bytes
    """Of each changed row (u32): its number, how many inputs are in each state."""
    times: bytes
    """Of the same rows (f64): began, ended."""
    painted: bytes
    """Of each changed part (u32): its row, start, stop."""
    states: bytes
    """Of the same parts (u8)."""

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to say."""
        return not (self.added or self.changed or self.painted)

    def buffers(self) -> list[bytes]:
        """Return the arrays, in the order in which the view takes them."""
        return [self.added, self.changed, self.times, self.painted, self.states]


class CallRows:
    """The rows of one tree."""

    def __init__(self) -> None:
        """Start with none."""
        self.calls: list[CallId] = []
        """Which call each row is."""
        self.parents: list[int] = []
        """The row of each one's parent, -1 for none."""
        self.names: list[str] = []
        self.functions: list[int] = []
        """The place in `names` of each row's function."""
        self.rows: list[Row] = []
        self.began_at = 0.0
        """Unix seconds: when the first call was made."""
        self._row_of: dict[CallId, int] = {}
        self._name_of: dict[str, int] = {}

    def counts(self) -> tuple[int, ...]:
        """Return how many inputs of all calls are in each of `STATES`."""
        if not self.rows:
            return (0,) * len(STATES)
        return tuple(map(sum, zip(*(row.counts for row in self.rows), strict=True)))

    @property
    def has_ended(self) -> bool:
        """Return whether there are calls, and no input of theirs waits or runs."""
        counts = self.counts()
        return bool(self.rows) and not counts[WAITING] and not counts[RUNNING]

    def take(self, tree: CallTree) -> Delta:
        """Take in how a tree stands; return what changed."""
        in_time = tree.in_time()
        if not self.rows and in_time:
            self.began_at = in_time[0].submitted_at
        known, named = len(self.rows), len(self.names)
        changes: list[tuple[int, Row | None]] = []
        for call in in_time:
            number = self._row_of.get(call.id)
            if number is None:
                number = self._add(call)
            before, now = self.rows[number], _row(call, self.began_at)
            if now != before:
                self.rows[number] = now
                changes.append((number, before))
        return self._delta(known, named, changes)

    def whole(self) -> Delta:
        """Return what a view must hear that knows nothing."""
        return self._delta(0, 0, [(number, None) for number in range(len(self.rows))])

    def _add(self, call: KnownCall) -> int:
        number = self._row_of[call.id] = len(self.rows)
        self.calls.append(call.id)
        self.parents.append(self._row_of.get(call.parent, -1))
        if call.name not in self._name_of:
            self._name_of[call.name] = len(self.names)
            self.names.append(call.name)
        self.functions.append(self._name_of[call.name])
        self.rows.append(Row((), UNKNOWN, UNKNOWN))
        return number

    def _delta(self, known: int, named: int, changes: list[tuple[int, Row | None]]) -> Delta:
        added, changed, painted = array.array("I"), array.array("I"), array.array("I")
        times, states = array.array("d"), bytearray()
        for number in range(known, len(self.rows)):
            added.extend((self.parents[number] + 1, self.functions[number]))
        for number, before in changes:
            row = self.rows[number]
            changed.append(number)
            changed.extend(row.counts)
            times.extend((row.began, row.ended))
            for start, stop, state in _repainted(before.parts if before else (), row.parts):
                painted.extend((number, start, stop))
                states.append(state)
        return Delta(
            self.names[named:],
            added.tobytes(),
            changed.tobytes(),
            times.tobytes(),
            painted.tobytes(),
            bytes(states),
        )


def _row(call: KnownCall, origin: float) -> Row:
    parts = _parts(call)
    counts = [0] * len(STATES)
    for start, stop, state in parts:
        counts[state] += stop - start
    counts[WAITING] += max(0, call.total - sum(counts))
    began = min(_beginnings(call), default=0.0)
    is_over = bool(call.total) and not counts[WAITING] and not counts[RUNNING]
    ended = max((run.ended for run in call.runs), default=0.0) if is_over else 0.0
    return Row(
        tuple(counts),
        max(began - origin, 0.0) if began else UNKNOWN,
        max(ended - origin, 0.0) if ended else UNKNOWN,
        tuple(parts) if call.total > 1 else (),
    )


def _beginnings(call: KnownCall) -> Iterable[float]:
    yield from (run.began for run in call.runs if run.worker)
    yield from (since for *_, since in call.running)


def _parts(call: KnownCall) -> list[Part]:
    """Return the runs of neighbours in one state, in order; what waits is in none."""
    found = [(run.start, run.start + run.size, _STATE[run.status]) for run in call.runs]
    found.sort()
    ended = _joined(found)
    began = sorted(first for _, first, stop, *_ in call.running if first < stop)
    running = [(first, first + 1, RUNNING) for first in began if not _is_in(ended, first)]
    return _joined(sorted(ended + running)) if running else ended


def _joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for start, stop, state in parts:
        if joined and joined[-1][1] >= start and joined[-1][2] == state:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]), state)
        else:
            joined.append((start, stop, state))
    return joined


def _is_in(parts: list[Part], index: int) -> bool:
    low, high = 0, len(parts)
    while low < high:
        middle = (low + high) // 2
        if parts[middle][1] <= index:
            low = middle + 1
        else:
            high = middle
    return low < len(parts) and parts[low][0] <= index


def _repainted(before: tuple[Part, ...], now: tuple[Part, ...]) -> list[Part]:
    """Return what to paint over `before` to get `now`: what is not there any more waits again."""
    kept = set(before) & set(now)
    gone = [(start, stop, WAITING) for start, stop, _ in before if (start, stop, _) not in kept]
    return gone + [part for part in now if part not in kept]
