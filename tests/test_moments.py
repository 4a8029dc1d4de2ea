"""The moments of schedules: cron expressions on days that clocks change, and periods."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from kernel_worker import moments
from kernel_worker.errors import InvalidError
from kernel_worker.model import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, fold: int = 0) -> float:
    """Return a local time in Berlin as Unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def comes(cron: str, after: float, count: int, timezone: str = "Europe/Berlin") -> list[str]:
    """Return the next moments, in UTC."""
    schedule, found = Schedule(cron=cron, timezone=timezone), []
    for _ in range(count):
        moment = moments.following(schedule, 0.0, after)
        assert moment is not None
        assert moment > after
        after = moment
        found.append(datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M:%S"))
    return found


def test_a_cron_expression_goes_by_the_clocks_of_its_place() -> None:
    summer = at("2026-07-01 08:59:59.5")
    assert comes("0 9 * * *", summer, 2) == ["07-01 07:00:00", "07-02 07:00:00"]
    assert comes("0 9 * * *", summer, 1, "UTC") == ["07-01 09:00:00"]
    assert comes("30 6 * * mon-fri", at("2026-07-03 07:00"), 2) == [
        "07-06 04:30:00",
        "07-07 04:30:00",
    ]


def test_a_local_time_that_does_not_exist_comes_right_behind_the_gap() -> None:
    """In Berlin 02:00 is 03:00 on 2026-03-29."""
    before = at("2026-03-28 12:00")
    assert comes("30 2 * * *", before, 3) == ["03-29 01:00:00", "03-30 00:30:00", "03-31 00:30:00"]
    hourly = comes("0 * * * *", at("2026-03-29 00:30"), 3)
    assert hourly == ["03-29 00:00:00", "03-29 01:00:00", "03-29 02:00:00"]


def test_a_local_time_that_exists_twice_comes_once_and_each_hour_comes_twice() -> None:
    """In Berlin 03:00 is 02:00 on 2026-10-25."""
    before = at("2026-10-24 12:00")
    assert comes("30 2 * * *", before, 2) == ["10-25 00:30:00", "10-26 01:30:00"]
    between = at("2026-10-25 02:10", fold=1)
    assert comes("30 2 * * *", between, 1) == ["10-26 01:30:00"]
    quarters = comes("*/30 * * * *", at("2026-10-25 01:45"), 4)
    assert quarters == ["10-25 00:00:00", "10-25 00:30:00", "10-25 01:00:00", "10-25 01:30:00"]


def test_a_period_is_counted_from_when_it_was_deployed() -> None:
    schedule = Schedule(period_seconds=0.1 + 1)
    after, found = 1000.3, []
    for _ in range(500):
        moment = moments.following(schedule, 1000.3, after)
        assert moment is not None
        found.append(moment)
        after = moment
    assert all(later > earlier for earlier, later in pairwise(found))
    assert found[-1] == pytest.approx(1000.3 + 500 * 1.1)
    assert moments.following(schedule, 1000.3, 1005.0) == pytest.approx(1005.8)
    early = moments.following(Schedule(period_seconds=10.0), 1000.0, 3.0)
    assert early == 10.0, "the clock was set back to before it was deployed"


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("", "Period of 0 seconds: allowed is 1 second to 366 days"),
        ("* * * *", r"Cron\('\* \* \* \*'\) has 4 fields: allowed are five fields"),
        ("0 * * * * *", "has 6 fields: allowed are five"),
        ("@daily", "has 1 fields"),
        ("61 * * * *", r"Cron\('61 \* \* \* \*'\): bad minute; allowed are"),
        ("0 0 * * XYZ", "bad day-of-week"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("* * */20 * 1L", "never comes"),
    ],
)
def test_what_has_no_moments_says_what_is_allowed(cron: str, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        moments.check(Schedule(cron=cron))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc", "Europe", "\0"])
def test_a_time_zone_that_is_not_known_is_named(zone: str) -> None:
    with pytest.raises(InvalidError, match="no such time zone is known here; allowed is a name"):
        moments.check(Schedule(cron="0 9 * * *", timezone=zone))


def test_a_good_one_passes_and_says_what_it_is() -> None:
    good = Schedule(cron="0 9 * * *", timezone="Europe/Berlin")
    moments.check(good)
    moments.check(Schedule(period_seconds=60.0))
    assert str(good) == "0 9 * * * (Europe/Berlin)"
    assert str(Schedule(period_seconds=60.0)) == "every 60 s"
