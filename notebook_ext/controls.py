"""What the user can do to a map that runs, from elsewhere than its cell: its buttons.

Controls know the map weakly: a map that its user has dropped must be able to end. They may be used
from any thread and return at once.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notebook_ext.map_run import MapRun


class MapControls:
    """Cancel, pause and retry one map."""

    can_pause = True

    def __init__(self, run: MapRun) -> None:
        """Control `run`."""
        self._run = weakref.ref(run)
        self._facts = run.facts

    @property
    def retryable(self) -> int:
        """How many failed inputs can run again: those that nobody has taken yet."""
        run = self._run()
        return 0 if run is None or self._facts.finished_at is not None else run.retries.count

    def cancel(self) -> None:
        """End the map: what runs is interrupted, nothing further starts."""
        run = self._run()
        if run is not None:
            self._facts.was_cancelled = True
            run.session.post(run.cancel)

    def pause(self, *, paused: bool) -> None:
        """Start nothing more of the map, or go on with it; what runs ends as ever."""
        run = self._run()
        if run is not None and self._facts.finished_at is None:
            self._facts.paused = paused
            run.session.pause(run.call, paused=paused)
            run.session.post(run.retries.pause, paused)

    def retry_failed(self) -> None:
        """Run the failed inputs again that nobody has taken yet; their new outcomes count."""
        run = self._run()
        if run is not None:
            run.session.post(run.retries.begin)
