"""When a schedule is due: the moments of a cron expression, or of a period.

A moment is Unix seconds, and a function of the schedule alone, so that whoever asks again gets the
same ones. Cron expressions are read by `cronsim`, which goes by Debian's cron:

- what stands at certain hours runs once a day, whatever the clocks do. A local time that does not
  exist (they were set forward) is made up for right behind the gap; of one that exists twice it is
  the first;
- what runs more often (a minute or an hour that begins with `*`) runs by the clock, twice in an
  hour that comes twice and not at all in one that is left out.

A period is so many seconds of Unix time, counted from when the function was deployed; a day has
86,400. The clocks of a place mean nothing to it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from datetime import tzinfo

    from kernel_worker.model import Schedule

SHORTEST_SECONDS = 1.0
"""A function that is to run more often has a loop."""
LONGEST_SECONDS = 366 * 86_400.0
_FIELDS = 5
_ROUNDING = 1e-6
"""A quotient that is so little below a whole number is it: Unix seconds are rounded too."""
_ALLOWED = (
    "allowed are five fields, minute hour day-of-month month day-of-week, as in '0 9 * * MON-FRI': "
    "* or numbers or names, 1,2 for both, 1-5 for a range, */15 for every 15th"
)


def check(schedule: Schedule) -> None:
    """Look at whether a schedule has moments.

    Raises:
        InvalidError: it has none; the message names the expression and what is allowed.
    """
    if not schedule.cron:
        seconds = schedule.period_seconds
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            message = (
                f"Period of {seconds:g} seconds: allowed is {SHORTEST_SECONDS:g} second to "
                f"{LONGEST_SECONDS / 86_400:g} days"
            )
            raise InvalidError(message)
        return
    spelled = f"Cron({schedule.cron!r})"
    if len(schedule.cron.split()) != _FIELDS:
        message = f"{spelled} has {len(schedule.cron.split())} fields: {_ALLOWED}"
        raise InvalidError(message)
    from cronsim import CronSimError  # noqa: PLC0415  as in `following`

    try:
        comes = following(schedule, 0.0, 0.0) is not None
    except CronSimError as error:
        message = f"{spelled}: {str(error).lower()}; {_ALLOWED}"
        raise InvalidError(message) from error
    if not comes:
        message = f"{spelled} never comes: no day is like that; {_ALLOWED}"
        raise InvalidError(message)


def following(schedule: Schedule, counted_from: float, after: float) -> float | None:
    """Return the first moment of a schedule after another one.

    Args:
        schedule: one that `check` has passed.
        counted_from: when it was deployed, in Unix seconds.
        after: Unix seconds.

    Returns:
        Unix seconds; None where there is none in fifty years.

    Raises:
        InvalidError: the time zone is not known (any more).
    """
    if not schedule.cron:
        return _next_period(counted_from, schedule.period_seconds, after)
    from cronsim import CronSim  # noqa: PLC0415  where there is a cron expression, nowhere else

    # What stands at certain hours is read without its zone: in an hour that comes twice it may
    # begin in the first one, before `after`.
    for moment in CronSim(schedule.cron, datetime.fromtimestamp(after, _zone(schedule))):
        if moment.timestamp() > after:
            return moment.timestamp()
    return None


def _next_period(counted_from: float, seconds: float, after: float) -> float:
    """Return `counted_from` and a whole number of periods: never two moments for one number."""
    passed = math.floor((after - counted_from) / seconds + _ROUNDING)
    return counted_from + (passed + 1) * seconds


def _zone(schedule: Schedule) -> tzinfo:
    if schedule.timezone == "UTC":
        return UTC
    import zoneinfo  # noqa: PLC0415  likewise

    try:
        return zoneinfo.ZoneInfo(schedule.timezone)
    except (KeyError, ValueError, OSError) as error:
        message = (
            f"Cron({schedule.cron!r}, timezone={schedule.timezone!r}): no such time zone is known "
            "here; allowed is a name such as 'Europe/Berlin' (where the system has none of them: "
            "pip install tzdata)"
        )
        raise InvalidError(message) from error
