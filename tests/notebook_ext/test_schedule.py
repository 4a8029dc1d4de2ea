"""Schedules as users write them."""

from __future__ import annotations

from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext import options
from notebook_ext.exception import InvalidError
from notebook_ext.schedule import read


def test_both_kinds_become_what_travels() -> None:
    cron = nb.Cron("0 9 * * 1-5", timezone="Europe/Berlin").schedule
    assert (cron.cron, cron.timezone) == ("0 9 * * 1-5", "Europe/Berlin")
    period = nb.Period(weeks=1, days=1, hours=1, minutes=1, seconds=1.5)
    assert period.schedule.period_seconds == 8 * 86_400 + 3600 + 60 + 1.5
    assert read("schedule", None) is None
    parsed = options.parse({"schedule": nb.Cron("* * * * *")})
    assert parsed.schedule is not None
    assert options.parse({"schedule": None}, parsed).schedule is None


def test_it_makes_no_other_pool() -> None:
    plain, scheduled = options.parse({}), options.parse({"schedule": nb.Period(hours=1)})
    assert plain.changes_pool() == scheduled.changes_pool()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "Period of 0 seconds: allowed is 1 second"),
        ({"seconds": 0.5}, "Period of 0.5 seconds: allowed is 1 second"),
        ({"days": 1.5}, r"Period\(days=1.5\): allowed is an int from 0 on"),
        ({"hours": True}, r"Period\(hours=True\): allowed is an int"),
        ({"seconds": float("nan")}, r"Period\(seconds=nan\): allowed is a number from 0 on"),
        ({"minutes": -1}, r"Period\(minutes=-1\)"),
        ({"months": 1}, r"Period\(months=1\): .* use Cron\('0 0 1 \* \*'\)"),
        ({"years": 1, "days": 2}, r"Period\(years=1, days=2\)"),
    ],
)
def test_lengths_that_cannot_be(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        nb.Period(**given)


def test_expressions_that_cannot_be() -> None:
    with pytest.raises(InvalidError, match=r"Cron\('5 4 \* \*'\) has 4 fields: allowed are five"):
        nb.Cron("5 4 * *")
    with pytest.raises(InvalidError, match=r"Cron\(cron_string=5\): allowed is a non-empty str"):
        nb.Cron(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match=r"timezone='Mars'\): no such time zone"):
        nb.Cron("5 4 * * *", timezone="Mars")


def test_what_is_called_by_itself_has_no_arguments() -> None:
    app = nb.App()

    def sized(size: int, *, unit: str = "m") -> None: ...

    with pytest.raises(InvalidError, match=r"sized would be called without arguments: missing a"):
        app.function(schedule=nb.Period(hours=1))(sized)
    assert app.registered_functions == {}
    app.function(schedule=nb.Period(hours=1), name="max")(max)  # which does not say
    with pytest.raises(InvalidError, match=r"schedule='every 3600 s': a class has none"):
        app.cls(schedule=nb.Period(hours=1))
    plain: Any = app.function(name="plain")(lambda: 1)
    with pytest.raises(InvalidError, match=r"plain.with_options\(schedule=Period.*not deployed"):
        plain.with_options(schedule=nb.Period(hours=1))
