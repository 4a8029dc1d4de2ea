"""What a map tells its progress display.

The map keeps these facts up to date from its own threads and never waits for whoever looks at
them; the display looks ten times a second at most. `MapFacts` is the whole contract between the
two: anything with these attributes can be watched.

Facts are watched from another thread, so they hold no reference to the map itself: a map that its
user has dropped must be able to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

PENDING = 0
QUEUED = 1
RUNNING = 2
DONE = 3
FAILED = 4
CANCELLED = 5
"""The states of an input, as `take_changes` gives them."""

FINAL_STATES = frozenset({"done", "failed", "cancelled"})
"""What `MapFacts.state` is once nothing will change any more."""


class MapFacts(Protocol):
    """How one map stands."""

    @property
    def title(self) -> str:
        """Return what is mapped, for people: the function's name."""

    @property
    def total(self) -> int | None:
        """Return how many inputs there are, or None as long as nobody knows."""

    @property
    def done(self) -> int:
        """Return how many inputs succeeded."""

    @property
    def failed(self) -> int:
        """Return how many inputs failed for good."""

    @property
    def cancelled(self) -> int:
        """Return how many inputs were cancelled."""

    @property
    def retried(self) -> int:
        """Return how many attempts were made beyond the first ones."""

    @property
    def running(self) -> int:
        """Return how many inputs run now."""

    @property
    def workers(self) -> int:
        """Return how many workers run them."""

    @property
    def waiting_for(self) -> str:
        """Return why nothing runs, or an empty string."""

    @property
    def again(self) -> int:
        """Return how many failed inputs the user had run again."""

    @property
    def paused(self) -> bool:
        """Return whether nothing more of it starts, because the user wants that."""

    @property
    def was_cancelled(self) -> bool:
        """Return whether the user has asked for its end."""

    @property
    def first_error(self) -> object:
        """Return (index, text) of the first failure, or None."""

    @property
    def started_at(self) -> float:
        """Return when the map began, in seconds of `time.monotonic`."""

    @property
    def finished_at(self) -> float | None:
        """Return when it ended, in the same seconds, or None while it runs."""

    @property
    def state(self) -> str:
        """Return `running`, or one of `FINAL_STATES`."""

    def take_changes(self) -> Sequence[tuple[int, int, int]]:
        """Return the ranges [start, stop) that changed since the last look, and their new state."""


class MapControls(Protocol):
    """What the user can do to a map that runs; returns at once, from any thread."""

    @property
    def can_pause(self) -> bool:
        """Return whether `pause` does anything."""

    @property
    def retryable(self) -> int:
        """Return how many failed inputs can run again."""

    def cancel(self) -> None:
        """End the map."""

    def pause(self, *, paused: bool) -> None:
        """Start nothing more of it, or go on."""

    def retry_failed(self) -> None:
        """Run its failed inputs again."""


def error_of(facts: MapFacts) -> tuple[int | None, str] | None:
    """Return the first failure as (index or None, one line of text), or None."""
    match facts.first_error:
        case None:
            return None
        case (int() as index, error):
            return index, _one_line(error)
        case error:
            return None, _one_line(error)


def _one_line(error: object) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    line = " ".join(text.split())
    return line if len(line) <= 240 else line[:239] + "…"  # noqa: PLR2004  what fits a line
