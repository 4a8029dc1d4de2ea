import pytest

from notebook_ext.widgets.pace import WINDOW_SECONDS, Pace, format_rate, format_seconds


def test_a_steady_map_has_its_rate_and_its_end() -> None:
    pace = Pace(100.0)
    for second in range(1, 30):
        pace.observe(100.0 + second, 5 * second)
    assert pace.rate == pytest.approx(5.0)
    assert pace.eta_seconds(50) == pytest.approx(10.0)


def test_a_pool_that_grew_shows_within_the_window() -> None:
    pace = Pace(0.0)
    for tenth in range(1, 600):
        now = tenth / 10
        pace.observe(now, int(now if now < 50 else 50 + 20 * (now - 50)))
    assert WINDOW_SECONDS < 60 - 50
    assert pace.rate == pytest.approx(20.0, rel=0.05)


def test_nothing_finished_has_no_end() -> None:
    pace = Pace(0.0)
    assert pace.rate == 0.0
    pace.observe(3.0, 0)
    assert pace.eta_seconds(10) is None


def test_without_a_total_there_is_no_end() -> None:
    pace = Pace(0.0)
    pace.observe(1.0, 10)
    assert pace.eta_seconds(None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m 00 s"),
        (185, "3 m 05 s"),
        (3 * 3600 + 420, "3 h 07 m"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.25, "0.25/s"), (12.4, "12/s"), (5230, "5,230/s"), (52_340, "52.3 k/s"), (2.5e6, "2.5 M/s")],
)
def test_rates_read_well(rate: float, text: str) -> None:
    assert format_rate(rate) == text
