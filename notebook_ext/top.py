"""`notebook-ext top`: how the broker stands, live on a terminal, or once where there is none.

Each second it asks for the broker's status, which costs that a millisecond. Rates are what ended
between two looks. The memory of a host is that of its workers, where they run on this machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kernel_worker import rendezvous
from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.model import FunctionKey, app_of, is_deployed
from notebook_ext import inquiry
from notebook_ext.widgets.device_use import of_host
from notebook_ext.widgets.line import BAR_CELLS, bar
from notebook_ext.widgets.pace import format_rate, format_seconds
from notebook_ext.widgets.status import NO_BROKER, next_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import ConsoleOptions

    from kernel_worker.model import PoolId
    from kernel_worker.wire.messages import CallInfo, HostStatus, PoolStatus, Status

MOST_CALLS: Final = 12
MOST_SCHEDULES: Final = 5
_HEADS: Final = 2
"""Lines of a table above its rows."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PIPED_COLUMNS: Final = 160
_FIXED_LINES: Final = 9
"""The heading, the title and the names of three tables, what is left out, and how to quit."""
_BARS: Final = (BAR_CELLS, BAR_CELLS // 2, 0)
_ANY_WIDTH: Final = 100_000
_MAY_SHRINK: Final = frozenset({"function", "app", "devices", "waits for"})


class Looks:
    """What the last looks at the broker saw; makes rates of it."""

    def __init__(self) -> None:
        """Start with none."""
        self._ended: dict[str, int] = {}
        self._at = 0.0

    def rates(self, status: Status, now: float) -> dict[PoolId, float]:
        """Return how many inputs ended a second since the last look, by pool.

        Args:
            status: what is seen now.
            now: when, in seconds.
        """
        ended: dict[str, int] = {call.call: _ended(call) for call in status.calls}
        found: Counter[PoolId] = Counter()
        for call in status.calls:
            found[call.pool] += ended[call.call] - self._ended.get(call.call, 0)
        seconds = now - self._at if self._at else 0.0
        self._ended, self._at = ended, now
        return {pool: count / seconds for pool, count in found.items()} if seconds > 0 else {}


def screen(status: Status | None, rates: dict[PoolId, float], lines: int) -> Group:
    """Return what is shown of a status on a terminal: no more than fits, the last line included.

    Args:
        status: what is seen.
        rates: inputs that end a second, by pool.
        lines: how many the terminal has.
    """
    rows = 0 if status is None else len(status.hosts) + min(len(status.calls), MOST_CALLS)
    if status is not None and status.schedules:
        rows += _HEADS + min(len(status.schedules), MOST_SCHEDULES)
    most_pools = max(lines - _FIXED_LINES - rows, 1)
    return Group(drawn(status, rates, most_pools), Text("q quits", style="dim"))


def drawn(
    status: Status | None, rates: dict[PoolId, float], most_pools: int | None = None
) -> Group | Text:
    """Return what is shown of a status: all pools, or so many, first those that have work."""
    if status is None:
        return Text(NO_BROKER)
    age = format_seconds(max(time.time() - status.started_at, 0.0))
    title = f"notebook-ext {status.version}  pid {status.pid}  up {age}  clients {status.clients}"
    return Group(
        Text(title, style="bold"),
        _WithBars(lambda cells: _hosts(status, cells)),
        _pools(status, rates, most_pools),
        *_schedules(status),
        _WithBars(lambda cells: _calls(status, cells)),
    )


class _WithBars:
    """A table whose bars get shorter, and then go, where the terminal is narrow."""

    def __init__(self, draw: Callable[[int], Table]) -> None:
        """Draw with `draw`, which is told how many cells a bar has."""
        self._draw = draw

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table with the longest bars that fit."""
        unbounded = options.update(max_width=_ANY_WIDTH)
        tables = [self._draw(cells) for cells in _BARS]
        fit = (
            table
            for table in tables
            if Measurement.get(console, unbounded, table).maximum <= options.max_width
        )
        yield next(fit, tables[-1])


def run(*, once: bool, interval_seconds: float) -> int:
    """Show it until `q` is pressed, or (`once`, or no terminal) once; return the exit status.

    Raises:
        ConnectionError: the broker runs and does not answer.
    """
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        status = inquiry.status()
        columns = None if sys.stdout.isatty() else _PIPED_COLUMNS
        Console(width=columns, highlight=False).print(drawn(status, {}))
        return 0 if status is not None else 1
    looks = Looks()
    with _keys(), Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_looked(looks, live.console.height), refresh=True)
            if select.select([sys.stdin], [], [], interval_seconds)[0] and _quits():
                return 0


def _looked(looks: Looks, lines: int) -> Group:
    try:
        status = inquiry.status()
    except ConnectionError as error:
        return Group(Text(str(error)))
    rates = looks.rates(status, time.monotonic()) if status is not None else {}
    return screen(status, rates, lines)


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Let keys be read as they are pressed; Ctrl-C too ends the display."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits() -> bool:
    pressed = os.read(sys.stdin.fileno(), 64)
    return not pressed or b"q" in pressed.lower()


def _hosts(status: Status, cells: int) -> Table:
    names = "host", "CPU", "in use", *_bar_name(cells), "memory", "workers'", "devices"
    table = _table("Hosts", *names)
    for host in status.hosts:
        resources = host.resources
        table.add_row(
            f"{host.host} ({host.state})" if host.state else host.host,
            f"{resources.cpu:g}",
            f"{host.cpu_used:g}",
            *_bar(host.cpu_used, resources.cpu, cells),
            f"{resources.memory_mib / 1024:.1f} GiB",
            _resident(status, host),
            of_host(host) or "-",
        )
    return table


def _pools(status: Status, rates: dict[PoolId, float], most: int | None) -> Group:
    names = "function", "app", "pid", "warm", "busy", "starting", "backlog", "rate", "waits for"
    table = _table("Pools", *names)
    pools = [pool for pool in status.pools if _matters(pool)]
    shown, newest = pools, pools[::-1]
    if most is not None and len(pools) > most:
        shown = sorted(newest, key=_only_waits)[:most]
    for pool in shown:
        rate = rates.get(pool.pool, 0.0)
        table.add_row(
            pool.name + (" (older version)" if pool.superseded else ""),
            app_of(FunctionKey(pool.key)),
            _whose(pool),
            *map(str, (pool.idle, pool.busy, pool.starting)),
            f"{pool.backlog:,}",
            format_rate(rate) if rate > 0 else "-",
            pool.waiting_for or "-",
        )
    left = len(pools) - len(shown)
    return Group(table, Text(f"… and {left:,} more", style="dim")) if left else Group(table)


def _schedules(status: Status) -> list[Table]:
    """Return the table of what is called by itself; none where nothing is."""
    table = _table("Schedules", "function", "app", "schedule", "next")
    for each in status.schedules[:MOST_SCHEDULES]:
        table.add_row(each.name, each.app, each.schedule, next_moment(each))
    return [table] if status.schedules else []


def _calls(status: Status, cells: int) -> Table:
    names = "call", "function", *_bar_name(cells), "done", "of", "running", "failed", "age"
    table = _table("Open calls", *names)
    for call in status.calls[-MOST_CALLS:][::-1]:
        table.add_row(
            call.call,
            call.name,
            *_bar(_ended(call), call.total if call.closed else 0, cells),
            f"{_ended(call):,}",
            f"{call.total:,}" + ("" if call.closed else "+"),
            f"{call.running:,}",
            f"{call.failed:,}",
            format_seconds(max(time.time() - call.submitted_at, 0.0)),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, expand=False)
    for name in columns:
        table.add_column(name, no_wrap=name not in _MAY_SHRINK)
    return table


def _bar_name(cells: int) -> list[str]:
    return [""] if cells else []


def _bar(part: float, whole: float, cells: int) -> list[str]:
    """Return what goes into the column of bars: nothing where there is none."""
    return [bar(min(part / whole, 1.0), cells) if whole else ""] if cells else []


def _whose(pool: PoolStatus) -> str:
    """Return which processes a pool is there for: names of functions are not unique."""
    if is_deployed(pool.key):
        return "deployed"
    return ", ".join(map(str, pool.client_pids)) or "-"


def _matters(pool: PoolStatus) -> bool:
    return bool(pool.backlog or pool.idle or pool.busy or pool.starting)


def _only_waits(pool: PoolStatus) -> bool:
    """Return whether it has warm workers and nothing to do."""
    return not (pool.backlog or pool.busy or pool.starting)


def _ended(call: CallInfo) -> int:
    return call.succeeded + call.failed + call.cancelled


def _resident(status: Status, host: HostStatus) -> str:
    if host.machine != rendezvous.machine_id():
        return "-"
    pids = [worker.pid for worker in status.workers if worker.host == host.host and worker.pid]
    return f"{sum(map(_resident_bytes, pids)) / 2**30:.2f} GiB"


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123  fast
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
