from notebook_ext.widgets.pace import Pace
from notebook_ext.widgets.report import Report, report_on
from tests.notebook_ext.widgets.mapped import Mapped


def report(facts: Mapped, after: float = 10.0) -> Report:
    return report_on(facts, Pace(facts.started_at), facts.started_at + after)


def test_a_map_under_way() -> None:
    facts = Mapped(200)
    facts.start(0, 52)
    facts.succeed(0, 50)
    facts.retried = 1
    seen = report(facts)
    assert (seen.headline(), seen.percent()) == ("50 / 200", "25 %")
    assert seen.timing() == "5/s · 10 s · 30 s left"
    assert seen.summary() == "50 done, 2 running, 1 retried, 52 workers"


def test_a_map_that_is_nearly_done_is_not_done() -> None:
    facts = Mapped(1_000_000)
    facts.succeed(0, 999_999)
    assert report(facts).percent() == "99 %"


def test_an_endless_map_has_no_percentage() -> None:
    facts = Mapped(None)
    facts.succeed(0, 1_234)
    seen = report(facts)
    assert (seen.headline(), seen.percent(), seen.eta) == ("1,234", "", None)


def test_an_empty_map_is_complete() -> None:
    facts = Mapped(0)
    facts.end()
    assert report(facts).percent() == "100 %"


def test_what_was_cancelled_is_not_counted_as_progress() -> None:
    facts = Mapped(10)
    facts.succeed(0, 4)
    facts.cancelled = 6
    facts.end("cancelled")
    seen = report(facts)
    assert (seen.headline(), seen.percent()) == ("4 / 10", "cancelled")


def test_time_stands_still_when_the_map_has_ended() -> None:
    facts = Mapped(10)
    facts.succeed(0, 10)
    facts.finished_at = facts.started_at + 2.0
    facts.state = "done"
    assert report(facts, after=500.0).timing() == "2.0 s · 5/s"


def test_the_first_error_names_its_input_in_one_line() -> None:
    facts = Mapped(10)
    facts.fail(7, ValueError("too\nlong " + "x" * 500))
    line = report(facts).error_line()
    assert line.startswith("input 7: ValueError: too long xxx")
    assert line.endswith("…")
    assert "\n" not in line


def test_an_error_may_be_text_without_an_input() -> None:
    facts = Mapped(10)
    facts.first_error = "workers died"
    assert report(facts).error_line() == "workers died"


def test_everything_that_travels_is_plain() -> None:
    facts = Mapped(10)
    facts.fail(3, ValueError("no"))
    traits = report(facts).as_traits()
    assert traits["error"] == "input 3: ValueError: no"
    assert all(isinstance(value, int | str | None) for value in traits.values())
