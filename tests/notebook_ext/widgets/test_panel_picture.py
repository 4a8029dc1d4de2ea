from __future__ import annotations

from datetime import datetime

import msgspec

from kernel_worker.wire import messages
from notebook_ext.widgets.board import Board
from notebook_ext.widgets.panel_picture import MOST_ROWS, to_html
from tests.notebook_ext.widgets.boards import NOW, call, pool, status, worker


def board_of(count: int = 1) -> Board:
    board = Board()
    pools = [pool(f"f<{i}>", backlog=1_234) for i in range(count)]
    board.take(
        status(pools, [worker(1, "f<0>")]), [call(1, "f")], lambda _: None, lambda _: "", NOW
    )
    return board


def test_it_says_how_things_stood_in_plain_tables() -> None:
    shown = to_html("Dashboard", board_of())
    assert "<b>Dashboard</b>" in shown
    assert "f&lt;0&gt;" in shown
    assert "1,234" in shown
    assert "3 of 8" in shown
    assert "4 of 10" in shown
    assert f"{datetime.fromtimestamp(NOW - 60):%Y-%m-%d %H:%M:%S}" in shown, "the local time"  # noqa: DTZ006
    assert "class=" not in shown, "no style sheet travels with it"


def test_it_says_when_what_is_called_by_itself_is_called() -> None:
    board = Board()
    found = [
        messages.ScheduleInfo("shop", "report", "every 60 s", NOW),
        messages.ScheduleInfo("shop", "once", "0 9 1 1 * (UTC)", None),
    ]
    board.take(
        msgspec.structs.replace(status(), schedules=found), (), lambda _: None, lambda _: "", NOW
    )
    shown = to_html("Dashboard", board)
    assert f"{datetime.fromtimestamp(NOW):%Y-%m-%d %H:%M:%S}" in shown, "the local time"  # noqa: DTZ006
    assert "never" in shown


def test_it_has_an_end() -> None:
    assert to_html("Dashboard", board_of(100)).count("f&lt;") == MOST_ROWS


def test_nothing_is_its_title_alone() -> None:
    assert "table" not in to_html("Pool of f", Board())
