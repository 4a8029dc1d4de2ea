"""The states of a call's inputs: one byte each, moved by the range, forgotten from the front.

Ten million inputs that are over cost nothing: whole blocks of terminal states at the front are
dropped, so that an endless map stays small.
"""

from __future__ import annotations

from kernel_worker.core.transitions import TERMINAL, Cause, InputState, step
from kernel_worker.model import Outcome

_BLOCK = 65_536
# The values of `InputState` are in this order: absent, live ones, terminal ones.
_FIRST_ENDED = int(min(TERMINAL))
_STATE_COUNT = len(InputState)
_STATE_OF = tuple(InputState[outcome.name] for outcome in Outcome)
"""The terminal state of each outcome, by the outcome's value."""


class InputStates:
    """A column of states, and how many inputs are in each."""

    __slots__ = ("_bytes", "_forgotten", "_trim_at", "counts", "live")

    def __init__(self) -> None:
        """Make an empty column."""
        self._bytes = bytearray()
        self._forgotten = 0
        self._trim_at = _BLOCK
        self.counts = [0] * _STATE_COUNT
        """How many inputs are in each state, by its value; forgotten ones included."""
        self.live = 0
        """How many inputs have arrived and have no outcome."""

    @property
    def end(self) -> int:
        """The position after the last one that is known."""
        return self._forgotten + len(self._bytes)

    @property
    def begin(self) -> int:
        """The first position that is not forgotten."""
        return self._forgotten

    @property
    def ended(self) -> int:
        """How many inputs have an outcome."""
        return sum(self.counts[_FIRST_ENDED:])

    def tally(self) -> tuple[int, ...]:
        """Return how many inputs ended in each outcome, by the outcome's value."""
        return tuple(self.counts[state] for state in _STATE_OF)

    def at(self, index: int) -> InputState | None:
        """Return the state at `index`, or None where it has been forgotten."""
        if index < self._forgotten:
            return None
        if index >= self.end:
            return InputState.ABSENT
        return InputState(self._bytes[index - self._forgotten])

    def extend_to(self, stop: int) -> None:
        """Make positions before `stop` known, as absent ones."""
        new = stop - self._forgotten - len(self._bytes)
        if new > 0:
            self._bytes.extend(bytes(new))

    def are(self, state: InputState, start: int, stop: int) -> bool:
        """Whether all of `[start, stop)` are in `state`."""
        low, high = start - self._forgotten, stop - self._forgotten
        if low < 0 or high > len(self._bytes):
            return False
        return self._bytes.count(state, low, high) == high - low

    def runs(self, start: int, stop: int) -> list[tuple[int, int, InputState]]:
        """Return `[start, stop)` as runs of equal states."""
        found: list[tuple[int, int, InputState]] = []
        low, high = start - self._forgotten, stop - self._forgotten
        while low < high:
            state = self._bytes[low]
            end = low + _run_length(self._bytes, low, high)
            found.append((low + self._forgotten, end + self._forgotten, InputState(state)))
            low = end
        return found

    def pending_runs(self) -> list[tuple[int, int]]:
        """Return the inputs that are PENDING, as ranges."""
        runs = self.runs(self._forgotten, self.end)
        return [(low, high) for low, high, state in runs if state is InputState.PENDING]

    def move(self, start: int, stop: int, cause: Cause) -> None:
        """Change the states of `[start, stop)`, or raise `InvalidTransition` and change none."""
        low, high = start - self._forgotten, stop - self._forgotten
        states = self._bytes
        if low < high and (low + 1 == high or states.count(states[low], low, high) == high - low):
            state = states[low]
            target = step(state, cause)
            if low + 1 == high:
                states[low] = target
            else:
                states[low:high] = bytes((target,)) * (high - low)
            self._count(high - low, state, target)
        else:
            runs = self.runs(start, stop)
            targets = [step(state, cause) for _, _, state in runs]
            for (first, last, state), target in zip(runs, targets, strict=True):
                size = last - first
                at = first - self._forgotten
                states[at : at + size] = bytes((target,)) * size
                self._count(size, state, target)
        if len(states) >= _BLOCK:
            self._trim()

    def _count(self, count: int, state: int, target: int) -> None:
        counts = self.counts
        if state:
            counts[state] -= count
        else:
            self.live += count
        counts[target] += count
        if target >= _FIRST_ENDED:
            self.live -= count

    def _trim(self) -> None:
        """Forget blocks at the front in which every input is over."""
        if self.ended < self._trim_at:
            return
        self._trim_at = self.ended + _BLOCK
        while len(self._bytes) >= _BLOCK and not any(
            self._bytes.count(state, 0, _BLOCK) for state in range(_FIRST_ENDED)
        ):
            del self._bytes[:_BLOCK]
            self._forgotten += _BLOCK


def _run_length(states: bytearray, low: int, high: int) -> int:
    """Return how many bytes from `low` on (before `high`) equal the one at `low`."""
    state = states[low]
    end, window = low, high - low
    # The whole first, which is the common case; then windows that halve until one byte differs.
    while window and end < high:
        stop = min(end + window, high)
        if states.count(state, end, stop) == stop - end:
            end = stop
        else:
            window //= 2
    return end - low
