import io

import pytest

from notebook_ext.widgets.line import LineView, bar, one_line
from notebook_ext.widgets.pace import Pace
from notebook_ext.widgets.report import Report, report_on
from tests.notebook_ext.widgets.mapped import Mapped


def report(facts: Mapped) -> Report:
    return report_on(facts, Pace(facts.started_at), facts.started_at + 1.0)


def test_a_terminal_sees_one_line_rewritten_and_left_in_the_end() -> None:
    stream, facts = io.StringIO(), Mapped(4)
    view = LineView(stream, rewrites=True)
    view.update(facts, report(facts))
    facts.succeed(0, 4)
    facts.end()
    view.finish(facts, report(facts))
    first, last = stream.getvalue().removeprefix("\r").split("\r")
    assert "0 / 4" in first
    assert "4 / 4  100 %" in last
    assert last.endswith("\n")
    assert len(last) >= len(first), "nothing of the longer line before may be left"


def test_a_log_gets_one_line_at_the_end() -> None:
    stream, facts = io.StringIO(), Mapped(4)
    view = LineView(stream, rewrites=False)
    view.update(facts, report(facts))
    assert stream.getvalue() == ""
    facts.end("failed")
    view.finish(facts, report(facts))
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_line_fits_the_terminal(columns: int) -> None:
    facts = Mapped(400)
    facts.fail(3, ValueError("long " * 50))
    assert len(one_line(report(facts), columns)) < columns


def test_it_says_what_it_waits_for() -> None:
    facts = Mapped(4)
    facts.waiting_for = "no free CPU"
    assert "waits: no free CPU" in one_line(report(facts), 120)


def test_the_bar_is_as_long_at_both_ends() -> None:
    assert len(bar(0.0)) == len(bar(0.333)) == len(bar(1.0))
