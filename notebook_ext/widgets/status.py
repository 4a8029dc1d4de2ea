"""How the broker stands, as a table: rich in a notebook, plain text elsewhere.

Two reports over one `messages.Status` (None: no broker runs). `%remote_status`, `%remote_calls` and
the command line show them; the text is what a terminal and a saved notebook's plain form get.
"""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from notebook_ext.widgets.device_use import DeviceUses, of_host
from notebook_ext.widgets.pace import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.messages import CallInfo, HostStatus, PoolStatus, ScheduleInfo, Status

RECENT_CALLS: Final = 10
NO_BROKER: Final = "No broker is running. The first remote call starts one."
_NUMBERS: Final = frozenset("0123456789")
_CELL: Final = "padding:2px 12px 2px 0;text-align:{};vertical-align:top;white-space:nowrap"


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a heading, column names, rows of words."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_text(self) -> str:
        """Return the table in columns of plain text."""
        if not self.rows:
            return f"{self.heading}: none"
        lines = (self.columns, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        body = ["  ".join(map(_aligned, line, widths)).rstrip() for line in lines]
        return "\n".join([self.heading, *(f"  {line}" for line in body)])

    def as_html(self) -> str:
        """Return the table as HTML with inline styles."""
        if not self.rows:
            return f"<div><b>{html.escape(self.heading)}</b>: none</div>"
        head = "".join(_cell("th", name, "opacity:.65;font-weight:400") for name in self.columns)
        body = "".join(
            f"<tr>{''.join(_cell('td', value) for value in row)}</tr>" for row in self.rows
        )
        return (
            f'<div style="margin-top:8px"><b>{html.escape(self.heading)}</b></div>'
            f'<table style="border-collapse:collapse;margin:2px 0"><tr>{head}</tr>{body}</table>'
        )


def _aligned(value: str, width: int) -> str:
    return value.rjust(width) if _is_number(value) else value.ljust(width)


def _is_number(value: str) -> bool:
    return value[:1] in _NUMBERS and value[-1:] in _NUMBERS and " " not in value


def _cell(tag: str, value: str, style: str = "") -> str:
    side = _CELL.format("right" if _is_number(value) else "left")
    return f'<{tag} style="{side};{style}">{html.escape(value)}</{tag}>'


class StatusReport:
    """Broker, hosts, pools with their backlog, and recent calls."""

    def __init__(self, status: Status | None) -> None:
        """Report on `status`, or (None) that no broker runs."""
        self.status = status
        self._devices = DeviceUses()
        if status is not None:
            self._devices.begin(status.hosts, status.workers)

    def __repr__(self) -> str:
        """Return the tables as text."""
        if self.status is None:
            return NO_BROKER
        tables = [table.as_text() for table in _tables(self.status, self._devices)]
        return "\n\n".join([_headline(self.status), *tables])

    def _repr_html_(self) -> str:
        if self.status is None:
            return framed(f"<div>{NO_BROKER}</div>")
        tables = "".join(table.as_html() for table in _tables(self.status, self._devices))
        return framed(f"<div>{html.escape(_headline(self.status))}</div>{tables}")


class CallsReport:
    """Recent calls, with their ids."""

    def __init__(self, calls: Sequence[CallInfo] | None) -> None:
        """Report on `calls`, the newest first, or (None) that no broker runs."""
        self.calls = calls

    def __repr__(self) -> str:
        """Return the table as text."""
        return NO_BROKER if self.calls is None else _calls(self.calls).as_text()

    def _repr_html_(self) -> str:
        if self.calls is None:
            return framed(f"<div>{NO_BROKER}</div>")
        return framed(_calls(self.calls).as_html())


def framed(body: str) -> str:
    """Return HTML in the letters of the notebook."""
    style = "font-family:var(--jp-ui-font-family,sans-serif);font-size:12px;line-height:1.5"
    return f'<div style="{style}">{body}</div>'


def _headline(status: Status) -> str:
    age = format_seconds(max(time.time() - status.started_at, 0.0))
    clients = f"{status.clients} client{'' if status.clients == 1 else 's'}"
    return f"Broker {status.version}, pid {status.pid}, up {age}, {clients}"


def _tables(status: Status, devices: DeviceUses) -> list[Table]:
    current = [pool for pool in status.pools if matters(pool)]
    return [
        Table(
            "Hosts",
            ("host", "cores", "in use", "memory", "devices"),
            tuple(_host(host) for host in status.hosts),
        ),
        Table(
            "Pools",
            ("function", "workers", "busy", "idle", "starting", "backlog", "warm", "most", ""),
            tuple(_pool(pool) for pool in current),
        ),
        _workers(status, devices),
        *_schedules(status.schedules),
        _calls(status.calls[-RECENT_CALLS:][::-1]),
    ]


def matters(pool: PoolStatus) -> bool:
    """Return whether a pool has workers or wants some; one that was only defined does not."""
    wanted = pool.settings.min_containers and not pool.superseded
    return bool(pool.backlog or pool.idle or pool.busy or pool.starting or wanted)


def _host(host: HostStatus) -> tuple[str, ...]:
    resources = host.resources
    devices = of_host(host)
    gib = resources.memory_mib / 1024
    name = f"{host.host} ({host.state})" if host.state else host.host
    return (name, f"{resources.cpu:g}", f"{host.cpu_used:g}", f"{gib:.0f} GiB", devices or "-")


def _pool(pool: PoolStatus) -> tuple[str, ...]:
    most = pool.settings.max_containers
    workers = pool.idle + pool.busy + pool.starting
    name = f"{pool.name} (older version)" if pool.superseded else pool.name
    return (
        name,
        *map(str, (workers, pool.busy, pool.idle, pool.starting)),
        f"{pool.backlog:,}",
        str(pool.settings.min_containers),
        "-" if most is None else str(most),
        f"waits: {pool.waiting_for}" if pool.waiting_for else "",
    )


def _workers(status: Status, devices: DeviceUses) -> Table:
    names = {pool.pool: pool.name for pool in status.pools}
    columns: tuple[str, ...] = ("worker", "function", "state", "pid", "start")
    rows: tuple[tuple[str, ...], ...] = tuple(
        (each.worker, names.get(each.pool, each.pool), each.state, str(each.pid), each.start)
        for each in status.workers
    )
    if any(each.devices for each in status.workers):
        columns += ("devices",)
        rows = tuple(
            (*row, devices.text(each)) for row, each in zip(rows, status.workers, strict=True)
        )
    return Table("Workers", columns, rows)


def _schedules(schedules: Sequence[ScheduleInfo]) -> list[Table]:
    """Return the table of what is called by itself; none where nothing is."""
    rows = tuple((each.app, each.name, each.schedule, next_moment(each)) for each in schedules)
    return [Table("Schedules", ("app", "function", "schedule", "next"), rows)] if rows else []


def next_moment(schedule: ScheduleInfo) -> str:
    """Return when a function is called next, by the clocks here."""
    return "never" if schedule.next_at is None else moment(schedule.next_at)


def moment(seconds: float) -> str:
    """Return a moment (Unix seconds) as the clocks here show it."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _calls(calls: Sequence[CallInfo]) -> Table:
    columns = ("call", "function", "state", "made", "kind", "inputs", "done", "running", "failed")
    return Table("Calls", (*columns, "cancelled"), tuple(map(_call, calls)))


def _call(call: CallInfo) -> tuple[str, ...]:
    counts = (call.succeeded, call.running, call.failed, call.cancelled)
    return (
        call.call,
        call.name,
        call.status,
        f"{format_seconds(max(time.time() - call.submitted_at, 0.0))} ago",
        "attached" if call.attached else "spawned",
        f"{call.total:,}" if call.closed else f"{call.total:,}+",
        *(f"{count:,}" for count in counts),
    )
