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
from rich.console import Console

import notebook_ext as nb
from kernel_worker import rendezvous
from kernel_worker.model import CallId, Device, HostResources, PoolId, PoolSettings, WorkerId
from kernel_worker.wire.messages import CallInfo, HostStatus, PoolStatus, Status, WorkerStatus
from notebook_ext.top import Looks, drawn
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
        calls=[CallInfo(CallId("fc-7"), "score", True, True, 200, 10, 2, succeeded, 3, 0)],
    )


def text(found: Status | None, rates: dict[str, float] | None = None) -> str:
    console = Console(width=140, file=StringIO(), force_terminal=False)
    console.print(drawn(found, rates or {}))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_it_shows_hosts_pools_and_calls() -> None:
    shown = text(status(), {"score": 1_234.0})
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


def test_a_host_elsewhere_and_workers_that_are_gone() -> None:
    elsewhere = msgspec.structs.replace(status().hosts[0], machine="elsewhere")
    gone = WorkerStatus(WorkerId("ta-2"), PoolId("po-1"), "ho-1", 2**30, "busy")
    assert "0.00 GiB" in text(msgspec.structs.replace(status(), workers=[gone]))
    assert "0.00 GiB" not in text(msgspec.structs.replace(status(), hosts=[elsewhere]))
    assert "No broker is running" in text(None)


def test_rates_are_what_ended_between_two_looks() -> None:
    looks = Looks()
    assert looks.rates(status(50), 100.0) == {}
    assert looks.rates(status(150), 102.0) == {"score": 50.0}
    assert looks.rates(status(150), 104.0) == {"score": 0.0}


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
