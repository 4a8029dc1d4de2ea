"""When deployed functions are due, by a clock that is set, and by brokers that come and go."""

from __future__ import annotations

import logging

import msgspec
import pytest

from kernel_worker import moments
from kernel_worker.broker.timetable import LATE_SECONDS, Timetable, call_of
from kernel_worker.errors import InvalidError
from kernel_worker.model import (
    DeployedFunction,
    Digest,
    FunctionKey,
    FunctionSpec,
    PoolId,
    Schedule,
    deployed_key,
)
from kernel_worker.records import Deployment

MIDNIGHT = 1_800_000_000.0 - 1_800_000_000.0 % 86_400
HOURLY = Schedule(cron="0 * * * *")
HOUR = 3600.0


def function(name: str, schedule: Schedule | None) -> DeployedFunction:
    key, nothing = deployed_key("shop", name), Digest("")
    spec = FunctionSpec(PoolId(f"po-{name}"), key, name, "m", nothing, nothing, nothing)
    return DeployedFunction(name, spec, schedule=schedule)


def deployed(at: float, version: int = 1, **schedules: Schedule | None) -> Deployment:
    functions = tuple(function(name, schedule) for name, schedule in schedules.items())
    return Deployment("shop", version, at, functions)


def known(at: float, *deployments: Deployment) -> Timetable:
    timetable = Timetable()
    timetable.adopt(deployments, at)
    return timetable


def fired(timetable: Timetable, *moments: float) -> list[tuple[str, float]]:
    """Look at these moments; return which functions were due for which."""
    return [
        (due.key.rpartition("/")[2], due.moment - MIDNIGHT)
        for now in moments
        for due in timetable.due(now)
    ]


def test_each_moment_is_due_once_and_a_function_without_a_schedule_never() -> None:
    timetable = known(MIDNIGHT, deployed(MIDNIGHT, f=HOURLY, g=None, h=Schedule(period_seconds=50)))
    assert timetable.next_at() == MIDNIGHT + 50
    assert fired(timetable, MIDNIGHT + 49, MIDNIGHT + 50, MIDNIGHT + 50, MIDNIGHT + 99) == [
        ("h", 50)
    ]
    assert fired(timetable, MIDNIGHT + HOUR) == [("f", HOUR), ("h", HOUR)]
    assert fired(timetable, MIDNIGHT + HOUR) == []
    assert known(MIDNIGHT).next_at() is None


def test_what_was_missed_is_not_made_up_for_unless_it_is_only_late() -> None:
    timetable = known(MIDNIGHT, deployed(MIDNIGHT, f=HOURLY))
    assert fired(timetable, MIDNIGHT + HOUR + LATE_SECONDS) == [("f", HOUR)]
    slept = MIDNIGHT + 5.5 * HOUR
    assert fired(timetable, slept) == []
    assert timetable.next_at() == MIDNIGHT + 6 * HOUR
    often = known(MIDNIGHT, deployed(MIDNIGHT, f=Schedule(period_seconds=5)))
    assert fired(often, MIDNIGHT + 32, slept + 2) == [("f", 30), ("f", 5.5 * HOUR)]


def test_another_broker_is_due_for_the_same_moments_but_for_those_it_missed() -> None:
    shop = deployed(MIDNIGHT, f=HOURLY, g=Schedule(period_seconds=7 * 60.0))
    (before,) = known(MIDNIGHT, shop).due(MIDNIGHT + 7 * 60)
    again = known(MIDNIGHT + 7 * 60 + 5, shop)
    assert again.due(MIDNIGHT + 7 * 60 + 6) == [before], "the same call, which is known or is not"
    later = known(MIDNIGHT + 3.5 * HOUR, shop)
    assert fired(later, MIDNIGHT + 3.5 * HOUR) == [("g", 3.5 * HOUR)]
    assert later.next_at() == MIDNIGHT + 3.5 * HOUR + 7 * 60


def test_nothing_is_due_for_moments_before_it_was_deployed() -> None:
    at = MIDNIGHT + HOUR + 20
    assert fired(known(at, deployed(at, f=HOURLY)), at) == []


def test_a_clock_that_is_set_back_gives_the_same_calls_and_goes_on_from_there() -> None:
    timetable = known(MIDNIGHT, deployed(MIDNIGHT, f=HOURLY))
    calls = [due.call for hour in (1, 2, 3) for due in timetable.due(MIDNIGHT + hour * HOUR)]
    assert timetable.due(MIDNIGHT + 1.5 * HOUR) == []
    again = [due.call for hour in (2, 3, 4) for due in timetable.due(MIDNIGHT + hour * HOUR)]
    assert again[:2] == calls[1:]
    assert again[2] not in calls


def test_a_clock_that_was_years_ahead_when_it_was_deployed_silences_nothing() -> None:
    ahead = MIDNIGHT + 3 * 365 * 24 * HOUR
    shop = deployed(ahead, f=HOURLY, g=Schedule(period_seconds=HOUR))
    timetable = known(ahead, shop)
    assert timetable.due(MIDNIGHT + 1) == []
    assert fired(timetable, MIDNIGHT + HOUR) == [("f", HOUR), ("g", HOUR)]
    assert fired(known(MIDNIGHT + 1, shop), MIDNIGHT + HOUR) == [("f", HOUR), ("g", HOUR)]


def test_a_new_version_counts_from_its_own_and_the_rest_waits_on() -> None:
    period = Schedule(period_seconds=100.0)
    timetable = known(MIDNIGHT, deployed(MIDNIGHT, f=period, g=HOURLY))
    timetable.adopt([deployed(MIDNIGHT, f=period, g=HOURLY)], MIDNIGHT + 70)  # other settings
    assert timetable.next_at() == MIDNIGHT + 100
    timetable.adopt([deployed(MIDNIGHT + 70, 2, f=period)], MIDNIGHT + 70)
    assert timetable.next_at() == MIDNIGHT + 170
    timetable.adopt([], MIDNIGHT + 71)
    assert timetable.next_at() is None
    assert timetable.due(MIDNIGHT + 500) == []


def test_calls_are_named_after_function_schedule_and_moment() -> None:
    key = FunctionKey("deployed/shop/f")
    names = {
        call_of(key, HOURLY, MIDNIGHT),
        call_of(key, HOURLY, MIDNIGHT + 0.5),
        call_of(key, Schedule(period_seconds=5), MIDNIGHT),
        call_of(FunctionKey("deployed/shop/g"), HOURLY, MIDNIGHT),
        call_of(key, HOURLY, MIDNIGHT),
    }
    assert len(names) == 4
    assert all(name.startswith("fc-") and not name.startswith("fc-s") for name in names)


def test_a_time_zone_that_the_system_has_lost_ends_one_schedule_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local = msgspec.structs.replace(HOURLY, timezone="Europe/Berlin")
    timetable = known(MIDNIGHT, deployed(MIDNIGHT, f=local, g=HOURLY))

    def lost(_: object) -> None:
        raise InvalidError("no such time zone")

    monkeypatch.setattr(moments, "_zone", lost)
    with caplog.at_level(logging.ERROR):
        assert fired(timetable, MIDNIGHT + HOUR)[0] == ("f", HOUR)
    assert "f of shop is not called any more: no such time zone" in caplog.text
