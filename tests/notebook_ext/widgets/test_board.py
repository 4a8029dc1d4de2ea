from __future__ import annotations

from typing import Any

import msgspec

from kernel_worker.model import PoolSettings
from kernel_worker.wire import messages
from notebook_ext.widgets.board import HISTORY_SECONDS, Board, Change
from tests.notebook_ext.widgets.boards import NOW, call, pool, status, worker


def nothing(_worker: object) -> None:
    """Know no worker's memory."""


def nowhere(worker: messages.WorkerStatus) -> str:
    """Know which devices there are, and no more."""
    return ", ".join(f"GPU {device}" for device in worker.devices)


def take(board: Board, *given: Any, at: float = NOW, calls: Any = ()) -> Change:
    return board.take(status(*given), calls, nothing, nowhere, at)


def test_everything_is_told_once_and_then_what_has_changed() -> None:
    board = Board()
    first = take(board, [pool("f"), pool("g")], [worker(1, "f"), worker(2, "g")])
    assert {section: [row["id"] for row in rows] for section, rows in first.changed.items()} == {
        "broker": ["broker"],
        "hosts": ["ho-1"],
        "pools": ["po-f", "po-g"],
        "workers": ["ta-i-1", "ta-i-2"],
    }
    again = take(board, [pool("f"), pool("g")], [worker(1, "f"), worker(2, "g")])
    assert (again.changed, again.gone) == ({}, {})
    then = take(board, [pool("f", backlog=3), pool("g")], [worker(1, "f", "idle")])
    assert [row["backlog"] for row in then.changed["pools"]] == [3]
    assert [(row["id"], row["state"]) for row in then.changed["workers"]] == [("ta-i-1", "idle")]
    assert then.gone == {"workers": ["ta-i-2"]}
    assert then.changed["hosts"][0]["workers"] == 1


def test_a_pool_without_workers_or_work_is_not_shown() -> None:
    board = Board()
    take(board, [pool("f", busy=0), pool("warm", busy=0, settings=PoolSettings(1))])
    assert [row["name"] for row in board.rows("pools")] == ["warm"]


def test_one_function_is_shown_alone() -> None:
    board = Board(lambda each: each.name == "f")
    change = take(board, [pool("f", busy=0), pool("g")], [worker(1, "g")], calls=[call(1, "g")])
    assert sorted(change.changed) == ["broker", "pools"]
    assert [row["name"] for row in board.rows("pools")] == ["f"]


def test_a_pool_has_a_past_of_two_minutes_and_a_new_page_hears_it() -> None:
    board = Board()
    for second in range(200):
        change = take(board, [pool("f", backlog=second)], at=NOW + second)
        assert change.samples == {"po-f": [(NOW + second, 1, 0, 0, second)]}
    past = board.whole().samples["po-f"]
    assert past == board.past("po-f")
    assert past[0][0] == NOW + 199 - HISTORY_SECONDS
    assert past[-1] == (NOW + 199, 1, 0, 0, 199)


def test_a_pool_that_is_gone_has_no_past() -> None:
    board = Board()
    take(board, [pool("f")])
    assert take(board).gone == {"pools": ["po-f"]}
    assert board.past("po-f") == []
    assert board.whole().samples == {}


def test_rows_have_what_is_shown() -> None:
    board = Board()
    workers = [worker(1, "f", devices=(0, 2))]
    board.take(status([pool("f")], workers), [call(1, "f")], lambda each: each.pid, nowhere, NOW)
    (pool_row,), (worker_row,) = board.rows("pools"), board.rows("workers")
    assert (pool_row["app"], pool_row["capacity"], pool_row["max"]) == ("demo", 8, None)
    assert (worker_row["memory"], worker_row["devices"]) == (101, "GPU 0, GPU 2")
    (call_row,) = board.rows("calls")
    assert (call_row["state"], call_row["succeeded"], call_row["made"]) == ("running", 4, NOW - 60)


def test_what_is_called_by_itself_has_a_row() -> None:
    board, state = Board(), status()
    daily = messages.ScheduleInfo("shop", "report", "every 60 s", NOW + 60)
    change = board.take(
        msgspec.structs.replace(state, schedules=[daily]), (), nothing, nowhere, NOW
    )
    (row,) = change.changed["schedules"]
    assert row == {
        "id": "shop/report",
        "name": "report",
        "app": "shop",
        "schedule": "every 60 s",
        "next": NOW + 60,
    }
    assert board.take(state, (), nothing, nowhere, NOW).gone["schedules"] == ["shop/report"]


def test_no_section_has_no_rows() -> None:
    assert Board().rows("pools") == []
    assert Board().whole() == Change()
