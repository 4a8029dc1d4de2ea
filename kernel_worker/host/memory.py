"""How much memory a worker uses, with everything that it started, and when to look again.

Theory. What a process has resident is quick to read (`statm`, 10 µs) and counts what it shares with
its template in full: as long as the sum stays below the limit, nothing else is read. Above it the
proportional share decides, which is slow to read (`smaps_rollup`, some ms).

The pause until the next look follows the room that is left, at `_FASTEST_MIB_PER_SECOND`, and is
never shorter than fifty times what the look cost: at most 2 % of a core goes into looking.

Not guaranteed: that no worker is ever over its limit. Between two looks it can grow by what the
kernel lets it have (`kernel_worker.worker.memory` bounds that).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MIB = 1 << 20
_FASTEST_MIB_PER_SECOND: Final = 2048
_SHORTEST_SECONDS: Final = 0.05
_LONGEST_SECONDS: Final = 0.25
_COST_FACTOR: Final = 50


def used_mib(pid: int, limit_mib: int) -> int:
    """Return how much a process and its descendants use, exactly only where that is over a limit.

    Args:
        pid: the process; 0 is returned for one that is gone.
        limit_mib: below it, an upper bound is good enough.
    """
    family = _family(pid)
    resident = sum(map(_resident_bytes, family)) // _MIB
    if resident <= limit_mib:
        return resident
    return sum(map(_proportional_bytes, family)) // _MIB


def pause_seconds(room_mib: int, cost_seconds: float) -> float:
    """Return when to look again.

    Args:
        room_mib: how much the worker may still grow.
        cost_seconds: what this look cost.
    """
    pause = max(_SHORTEST_SECONDS, room_mib / _FASTEST_MIB_PER_SECOND)
    return max(min(pause, _LONGEST_SECONDS), _COST_FACTOR * cost_seconds)


def _family(pid: int) -> list[int]:
    family = [pid]
    for member in family:  # grows while it is walked
        try:
            tasks = os.listdir(f"/proc/{member}/task")  # noqa: PTH208  this is not about paths
        except OSError:
            continue
        for task in tasks:
            family += map(int, _text(f"/proc/{member}/task/{task}/children").split())
    return family


def _resident_bytes(pid: int) -> int:
    words = _text(f"/proc/{pid}/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else 0


def _proportional_bytes(pid: int) -> int:
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident_bytes(pid)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
