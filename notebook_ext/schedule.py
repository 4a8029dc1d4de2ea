"""`nb.Cron` and `nb.Period`: when a deployed function is called by itself.

They are checked where they are written. What they mean at the edges (clocks that are set, days with
25 hours, a broker that was not there) is said in `kernel_worker.moments` and
`kernel_worker.broker.timetable`.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from kernel_worker import moments
from kernel_worker.errors import InvalidError
from kernel_worker.model import Schedule

_SECONDS = {"weeks": 7 * 86_400, "days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}


class Cron(msgspec.Struct, frozen=True):
    """At the moments of a cron expression.

    Args:
        cron_string: five fields, minute hour day-of-month month day-of-week: `0 9 * * MON-FRI`.
        timezone: by the clocks of which place, as in `Europe/Berlin`.

    Raises:
        InvalidError: no such moment ever comes, or the time zone is not known.
    """

    cron_string: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        given: dict[str, object] = {"cron_string": self.cron_string, "timezone": self.timezone}
        for name, value in given.items():
            if not isinstance(value, str) or not value.strip():
                raise InvalidError(f"Cron({name}={value!r}): allowed is a non-empty str.")
        moments.check(self.schedule)

    @property
    def schedule(self) -> Schedule:
        """The form that travels."""
        return Schedule(cron=self.cron_string, timezone=self.timezone)


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """Again and again, counted from the moment of deploying; 1 second to 366 days.

    A day is 86,400 seconds, whatever the clocks of a place do.

    Raises:
        InvalidError: a length that cannot be.
    """

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: float = 0

    def __post_init__(self) -> None:
        if self.years or self.months:
            raise InvalidError(
                f"{self._spelled()}: months and years are of no one length; use "
                "Cron('0 0 1 * *') for each month, Cron('0 0 1 1 *') for each year."
            )
        for name in _SECONDS:
            value = getattr(self, name)
            kinds = (int, float) if name == "seconds" else (int,)
            if type(value) not in kinds or not 0 <= value < 1e10:  # noqa: PLR2004  centuries
                what = "a number" if name == "seconds" else "an int"
                raise InvalidError(f"Period({name}={value!r}): allowed is {what} from 0 on.")
        moments.check(self.schedule)

    @property
    def schedule(self) -> Schedule:
        """The form that travels."""
        total = sum(getattr(self, name) * seconds for name, seconds in _SECONDS.items())
        return Schedule(period_seconds=float(total))

    def _spelled(self) -> str:
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return f"Period({', '.join(f'{name}={v!r}' for name, v in given.items() if v)})"


def read(name: str, value: object) -> Schedule | None:
    """Return what the option `schedule` was given, in the form that travels."""
    if value is None:
        return None
    if not isinstance(value, Cron | Period):
        raise InvalidError(
            f"{name}={value!r}: allowed is Cron('0 9 * * *', timezone='Europe/Berlin') or "
            "Period(hours=1)."
        )
    return value.schedule


def check_function(raw: Any, schedule: Schedule) -> None:
    """Raise `InvalidError` where a function cannot be called without arguments."""
    try:
        inspect.signature(raw).bind()
    except TypeError as error:
        raise InvalidError(
            f"schedule={str(schedule)!r}: {getattr(raw, '__qualname__', raw)} would be called "
            f"without arguments: {error}; give each parameter a default."
        ) from None
    except ValueError:
        return  # a builtin that does not say
