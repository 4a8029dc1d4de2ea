"""Which deployed functions are due, and when the next one is: pure, time is an argument.

Theory. Time is that of the wall's clock, which may jump: it is set, and it goes on while a laptop
sleeps. A moment is due when the clock has come to it; the call that is made then is named after
function and moment, so that for one moment there is one call, whoever asks how often.

What has passed is not made up for, as with cron and Modal. But a moment that is missed by less than
`LATE_SECONDS` is only late: the broker was killed and is back, or had other things to do. Of
several late ones the newest counts.

Where the clock is set back, moments come again whose calls have been made: they are the same calls,
and nothing happens (`Schedules` sees that by their names, for as long as the journal remembers
them: longer than their results). Where it is set forward, what is jumped over is missed.

A period goes on counting from when its version was deployed, also after a restart; a new version
counts from its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_worker import moments
from kernel_worker.errors import InvalidError
from kernel_worker.model import CallId, FunctionKey, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.model import Schedule
    from kernel_worker.records import Deployment

LATE_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class Due(NamedTuple):
    """A deployed function that is to be called now."""

    key: FunctionKey
    call: CallId
    """The call's id: the same for the same moment."""
    moment: float
    """Unix seconds."""
    schedule: Schedule


@dataclass(slots=True)
class Entry:
    """One function with a schedule."""

    app: str
    name: str
    schedule: Schedule
    counted_from: float
    """When its version was deployed, in Unix seconds."""
    next_at: float | None = None
    """The moment that it waits for, in Unix seconds; None: there is none."""

    def look_on(self, after: float) -> None:
        """Wait for the first moment behind another one."""
        self.next_at = self.following(after)

    def following(self, after: float) -> float | None:
        """Return the first moment behind another one, in Unix seconds."""
        try:
            return moments.following(self.schedule, self.counted_from, after)
        except InvalidError as error:  # the system has lost that time zone
            _log.error("%s of %s is not called any more: %s", self.name, self.app, error)
            return None


class Timetable:
    """The functions with a schedule, and the moment that each waits for."""

    def __init__(self) -> None:
        """Know none."""
        self.entries: dict[FunctionKey, Entry] = {}
        self._looked_at = float("-inf")

    def adopt(self, deployments: Iterable[Deployment], now: float) -> None:
        """Know what is in force now, and nothing else; what was known waits on."""
        found: dict[FunctionKey, Entry] = {}
        for deployment in deployments:
            for function in deployment.functions:
                if function.schedule is None:
                    continue
                key, at = function.spec.key, deployment.deployed_at
                entry = Entry(deployment.app, function.name, function.schedule, at)
                known = self.entries.get(key)
                if known is not None and (known.schedule, known.counted_from) == (
                    entry.schedule,
                    entry.counted_from,
                ):
                    entry = known
                else:
                    entry.look_on(max(at, now - LATE_SECONDS) if at <= now else now)
                found[key] = entry
        self.entries = found
        self._looked_at = max(self._looked_at, now)

    def due(self, now: float) -> list[Due]:
        """Return what is to be called now, each function once at most, and wait for what follows.

        Args:
            now: Unix seconds, by a clock that may have jumped since the last look.
        """
        was_set_back = now < self._looked_at
        self._looked_at = now
        found = []
        for key, entry in self.entries.items():
            if was_set_back:
                entry.look_on(now)
            moment = entry.next_at
            if moment is not None and moment < now - LATE_SECONDS:
                moment = entry.following(now - LATE_SECONDS)
            newest = None
            while moment is not None and moment <= now:
                newest, moment = moment, entry.following(moment)
            entry.next_at = moment
            if newest is not None:
                found.append(Due(key, call_of(key, entry.schedule, newest), newest, entry.schedule))
        return found

    def next_at(self) -> float | None:
        """Return the next moment of all, in Unix seconds, or None."""
        waited_for = (entry.next_at for entry in self.entries.values())
        return min((moment for moment in waited_for if moment is not None), default=None)


def call_of(key: FunctionKey, schedule: Schedule, moment: float) -> CallId:
    """Return the id of the call that a function's schedule makes at a moment."""
    parts = (key, str(schedule), repr(moment))
    return CallId(f"fc-{digest_of(*(part.encode() for part in parts))[:20]}")
