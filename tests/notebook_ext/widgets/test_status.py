import time

import msgspec

from kernel_worker.model import CallId, Device, HostResources, PoolId, PoolSettings, WorkerId
from kernel_worker.wire.messages import (
    CallInfo,
    HostStatus,
    PoolStatus,
    ScheduleInfo,
    Status,
    WorkerStatus,
)
from notebook_ext.widgets.status import CallsReport, StatusReport


def pool(name: str, number: int = 1, **changes: object) -> PoolStatus:
    given = {
        "pool": PoolId(f"po-{number}"),
        "key": f"x/-/{name}",
        "name": name,
        "superseded": False,
        "settings": PoolSettings(min_containers=2, max_containers=4),
        "backlog": 1_250,
        "running": 1,
        "idle": 1,
        "busy": 1,
        "starting": 0,
    }
    return PoolStatus(**(given | changes))  # type: ignore[arg-type]


def call(number: int, *, closed: bool = True) -> CallInfo:
    return CallInfo(CallId(f"fc-{number}"), "score", True, closed, 200, 10, 2, 185, 3, 0)


STATUS = Status(
    incarnation="i",
    pid=4321,
    version="0.1.0",
    started_at=time.time() - 65,
    clients=1,
    hosts=[HostStatus("ho-1", "m", 1, HostResources(8, 65_536, (Device(0, "H200"),)), 1.0)],
    pools=[pool("score"), pool("<old>", 2, superseded=True, busy=0, idle=0, backlog=0)],
    workers=[WorkerStatus(WorkerId("ta-1"), PoolId("po-1"), "ho-1", 99, "busy", "forked")],
    calls=[call(number) for number in range(1, 15)],
)


def test_the_text_has_it_all() -> None:
    status = msgspec.structs.replace(STATUS, started_at=time.time() - 65)
    text = repr(StatusReport(status))
    assert text.startswith("Broker 0.1.0, pid 4321, up 1 m ")
    for word in ("1 client\n", "64 GiB", "1 H200", "score", "1,250", "ta-1", "forked", "fc-14"):
        assert word in text


def test_what_is_called_by_itself_says_when_the_next_time() -> None:
    assert "Schedules" not in repr(StatusReport(STATUS))
    daily = ScheduleInfo("shop", "report", "0 9 * * * (UTC)", 1_000.0)
    once = ScheduleInfo("shop", "once", "0 9 1 1 * (UTC)", None)
    report = StatusReport(msgspec.structs.replace(STATUS, schedules=[daily, once]))
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_000))
    for text in (repr(report), report._repr_html_()):
        for word in ("Schedules", "report", "0 9 * * * (UTC)", local, "never"):
            assert word in text


def test_the_columns_of_numbers_end_together() -> None:
    lines = repr(StatusReport(STATUS)).splitlines()
    head = next(line for line in lines if line.lstrip().startswith("function"))
    row = next(line for line in lines if line.lstrip().startswith("score"))
    assert head.index("backlog") + len("backlog") == row.index("1,250") + len("1,250")


def test_versions_without_work_and_old_calls_are_left_out() -> None:
    text = repr(StatusReport(STATUS))
    assert "<old>" not in text
    assert "fc-1 " not in text
    assert text.index("fc-14") < text.index("fc-13")


def test_the_calls_report_has_every_call() -> None:
    text = repr(CallsReport(STATUS.calls))
    assert all(f"fc-{number} " in text for number in range(1, 15))


def test_a_call_whose_inputs_are_not_all_known_says_so() -> None:
    text = repr(CallsReport([call(1, closed=False)]))
    assert "200+" in text


def test_html_escapes_names() -> None:
    status = Status("i", 1, "0", 0.0, 1, [], [pool("<b>", busy=1)], [], [])
    html = StatusReport(status)._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html.replace("<b>Hosts", "").replace("<b>Pools", "").replace(
        "<b>Workers", ""
    ).replace("<b>Calls", "")


def test_no_broker_is_said_in_both_forms() -> None:
    for report in (StatusReport(None), CallsReport(None)):
        assert "No broker is running" in repr(report)
        assert "No broker is running" in report._repr_html_()
