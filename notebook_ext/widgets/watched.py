"""A map and, once it has run for half a second, its display.

A map that ends sooner is never shown. A shown map's last state is always drawn.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from notebook_ext.widgets.facts import FINAL_STATES
from notebook_ext.widgets.pace import Pace
from notebook_ext.widgets.report import report_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.widgets.facts import MapFacts
    from notebook_ext.widgets.report import Report

SHOWN_AFTER_SECONDS: Final = 0.5


class View(Protocol):
    """Something that shows one map."""

    def update(self, facts: MapFacts, report: Report) -> None:
        """Show how it stands."""

    def finish(self, facts: MapFacts, report: Report) -> None:
        """Show how it ended; nothing follows."""


class Watched:
    """What the UI thread looks at for one map (see `ticker.Ticked`)."""

    def __init__(
        self,
        facts: MapFacts,
        open_view: Callable[[MapFacts], View | None],
        after_seconds: float | None = None,
    ) -> None:
        """Look at `facts`; after so many seconds (None: half a second) `open_view` is called.

        Args:
            facts: How the map stands.
            open_view: Makes the view, in the UI thread and in the context of the map's cell.
            after_seconds: When; 0 also shows a map that has ended.
        """
        self.facts = facts
        self._open = open_view
        self._pace = Pace(facts.started_at)
        self._view: View | None = None
        self._always = after_seconds == 0
        delay = SHOWN_AFTER_SECONDS if after_seconds is None else after_seconds
        self._starts_at = time.monotonic() + delay

    @property
    def starts_at(self) -> float:
        """Return when it is to be shown."""
        return self._starts_at

    @property
    def is_shown(self) -> bool:
        """Return whether it has a view."""
        return self._view is not None

    def tick(self, now: float, *, last: bool) -> bool:
        """Show how the map stands; return whether to look at it again."""
        ended = self.facts.state in FINAL_STATES
        if self._view is None:
            if (ended or last) and not self._always:
                return False
            self._view = self._open(self.facts)
            if self._view is None:
                return False
        report = report_on(self.facts, self._pace, now)
        if last or report.state in FINAL_STATES:
            self._view.finish(self.facts, report)
            return False
        self._view.update(self.facts, report)
        return True
