from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from io import StringIO

import msgspec
import pytest
from rich.console import Console

import notebook_ext as nb
from kernel_worker import rendezvous
from kernel_worker.model import CallId, Device, HostResources, PoolId, PoolSettings, WorkerId
from kernel_worker.wire.messages import (
    CallInfo,
    HostStatus,
    PoolStatus,
    ScheduleInfo,
    Status,
    WorkerStatus,
)
from notebook_ext.top import MOST_SCHEDULES, Looks, drawn, screen
from notebook_ext.widgets.line import bar
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "notebook_ext.cli", "top"]


def status(succeeded: int = 50) -> Status:
    pool = {"backlog": 1250, "running": 2, "idle": 1, "busy": 2, "starting": 0, "waiting_for": ""}
    host = HostResources(8, 65_536, (Device(0, "H200"),))
    settings = PoolSettings()
    return Status(
        incarnation="i",
        pid=4321,
        version="0.1.0",
        started_at=time.time() - 65,
        clients=1,
        hosts=[HostStatus("ho-1", rendezvous.machine_id(), 1, host, 2.0)],
        pools=[
            PoolStatus(PoolId("po-1"), "k", "score", False, settings, **pool),  # type: ignore[arg-type]
            PoolStatus(PoolId("po-2"), "k", "idle", False, settings, 0, 0, 0, 0, 0),
        ],
        workers=[WorkerStatus(WorkerId("ta-1"), PoolId("po-1"), "ho-1", os.getpid(), "busy")],
        calls=[
            CallInfo(
                CallId("fc-7"),
                "score",
                True,
                True,
                200,
                10,
                2,
                succeeded,
                3,
                0,
                pool=PoolId("po-1"),
            )
        ],
    )


def text(found: Status | None, rates: dict[PoolId, float] | None = None, width: int = 140) -> str:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    console.print(drawn(found, rates or {}))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_it_shows_hosts_pools_and_calls() -> None:
    shown = text(status(), {PoolId("po-1"): 1_234.0})
    for word in (
        "pid 4321",
        "64.0 GiB",
        "1 H200",
        "score",
        "1,250",
        "1,234/s",
        "fc-7",
        "53",
        "200",
    ):
        assert word in shown
    assert "po-2" not in shown
    assert "idle" not in shown
    assert "0.00 GiB" not in shown, "this process stands for a worker"


def test_what_is_called_by_itself_is_shown_and_takes_its_lines() -> None:
    daily = ScheduleInfo("shop", "report", "0 9 * * * (UTC)", 1_000.0)
    found = msgspec.structs.replace(status(), schedules=[daily] * 9)
    shown = text(found)
    assert shown.count("0 9 * * * (UTC)") == MOST_SCHEDULES
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_000)) in shown
    console = Console(width=140, file=StringIO(), force_terminal=False)
    console.print(screen(found, {}, 24))
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("\n") <= 24


def test_a_host_elsewhere_and_workers_that_are_gone() -> None:
    elsewhere = msgspec.structs.replace(status().hosts[0], machine="elsewhere")
    gone = WorkerStatus(WorkerId("ta-2"), PoolId("po-1"), "ho-1", 2**30, "busy")
    assert "0.00 GiB" in text(msgspec.structs.replace(status(), workers=[gone]))
    assert "0.00 GiB" not in text(msgspec.structs.replace(status(), hosts=[elsewhere]))
    assert "No broker is running" in text(None)


def test_rates_are_what_ended_between_two_looks() -> None:
    looks = Looks()
    assert looks.rates(status(50), 100.0) == {}
    assert looks.rates(status(150), 102.0) == {PoolId("po-1"): 50.0}
    assert looks.rates(status(150), 104.0) == {PoolId("po-1"): 0.0}


def two_alike() -> Status:
    """Return what is seen of two notebooks with a function each, of the same name."""
    first = status()
    mine = msgspec.structs.replace(first.pools[0], key="0a/-/score", client_pids=(4_001,))
    pool = PoolId("po-3")
    theirs = msgspec.structs.replace(mine, pool=pool, key="0b/demo/score", client_pids=(4_002,))
    other = CallInfo(CallId("fc-8"), "score", True, True, 9, 0, 0, 9, 0, 0, pool=pool)
    return msgspec.structs.replace(first, pools=[mine, theirs], calls=[*first.calls, other])


def rows(shown: str, heading: str) -> list[list[str]]:
    """Return the words of a table's rows."""
    lines = [line.split() for line in shown.splitlines()]
    return [line for line in lines[lines.index(heading.split()) + 2 :] if line]


def test_a_rate_is_that_of_its_pool_and_pools_of_two_notebooks_are_told_apart() -> None:
    looks = Looks()
    before = two_alike()
    looks.rates(before, 100.0)
    calls = [msgspec.structs.replace(before.calls[0], succeeded=70), before.calls[1]]
    now = msgspec.structs.replace(before, calls=calls)
    rates = looks.rates(now, 102.0)
    assert rates == {PoolId("po-1"): 10.0, PoolId("po-3"): 0.0}
    mine, theirs = rows(text(now, rates).partition("Open calls")[0], "Pools")
    assert mine[:3] == ["score", "-", "4001"]
    assert theirs[:3] == ["score", "demo", "4002"]
    assert "10/s" in mine
    assert "10/s" not in theirs


def test_what_is_deployed_is_nobodys() -> None:
    deployed = msgspec.structs.replace(status().pools[0], key="deployed/demo/score")
    shown = text(msgspec.structs.replace(status(), pools=[deployed]))
    assert rows(shown, "Pools")[0][:3] == ["score", "demo", "deployed"]


@pytest.mark.parametrize(("width", "bars"), [(120, 20), (110, 10), (80, 0)])
def test_a_narrow_terminal_costs_the_bars_before_ids_and_numbers(width: int, bars: int) -> None:
    call_id = "fc-" + "f7bd34ed5ec4" * 2
    call = CallInfo(
        CallId(call_id), "score_of_a_long_name", True, True, 1_000_000, 0, 16, 250_000, 3, 0
    )
    call = msgspec.structs.replace(call, submitted_at=time.time() - 185)
    host = msgspec.structs.replace(status().hosts[0], host="ho-0123456789ab")
    pool = msgspec.structs.replace(
        status().pools[0],
        name="score_of_a_long_name",
        waiting_for="no free CPU: pool score runs 2 of 2",
        client_pids=(123_456,),
    )
    seen = msgspec.structs.replace(status(), hosts=[host], pools=[pool], calls=[call])
    shown = text(seen, {pool.pool: 12_345.0}, width)
    assert all(len(line) <= width for line in shown.splitlines())
    told = rows(shown, "Open calls")[0]
    assert told[0] == call_id
    assert told[-8:] == ["250,003", "1,000,000", "16", "3", "3", "m", "05", "s"]
    for word in ("ho-0123456789ab", "64.0 GiB", "123456", "1,250", "12.3 k/s"):
        assert word in shown
    calls = shown.partition("Open calls")[2]
    assert (bar(0.250003, bars) in calls) if bars else ("▕" not in calls)


def test_in_a_pipe_it_is_printed_once(add: nb.Function[..., int]) -> None:
    assert add.remote(1) == 2
    for arguments in ([], ["--once"]):
        ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
        assert ended.stdout.startswith("notebook-ext ")
        assert add.name in ended.stdout
        assert "\x1b" not in ended.stdout
        assert "Open calls" in ended.stdout


@dataclass
class Terminal:
    """A terminal, and what it shows."""

    shown: bytes = b""
    ends: tuple[int, int] = field(default_factory=pty.openpty)

    def read(self) -> bytes:
        while select.select([self.ends[0]], [], [], 0.05)[0]:
            self.shown += os.read(self.ends[0], 65_536)
        return self.shown


@pytest.mark.parametrize("lines", [24, 40, 200])
def test_pools_that_do_not_fit_on_the_terminal_are_counted(lines: int) -> None:
    seen = status()
    busy = seen.pools[0]
    idle = [msgspec.structs.replace(seen.pools[1], name=f"warm{i}", idle=1) for i in range(60)]
    crowded = msgspec.structs.replace(seen, pools=[*idle[:30], busy, *idle[30:]])
    console = Console(width=160, height=lines, file=StringIO(), force_terminal=False)
    console.print(screen(crowded, {}, lines))
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(shown) == min(lines, 71)
    assert shown[-1].strip() == "q quits"
    text = "\n".join(shown)
    assert "score" in text.partition("Open calls")[0]
    assert "fc-7" in text
    assert (f"… and {61 - (lines - 11)} more" in text) is (lines < 71)
    assert "warm59" in text, "the newest"


def test_on_a_terminal_it_is_live_until_q(add: nb.Function[..., int]) -> None:
    assert add.remote(1) == 2
    terminal = Terminal()
    end = terminal.ends[1]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    command = [*COMMAND, "--interval", "0.1"]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
    try:
        wait_until(lambda: terminal.read().count(b"q quits") > 2, what="it is drawn again")
        os.write(terminal.ends[0], b"x")
        os.write(terminal.ends[0], b"q")
        wait_until(lambda: (terminal.read(), process.poll())[1] is not None, what="it ends")
    finally:
        process.kill()
        process.wait()
        for each in terminal.ends:
            os.close(each)
    assert process.returncode == 0
    assert add.name.encode() in terminal.shown
