"""Prints, as JSON, how many calls of Python functions a client makes for what it is asked for.

Counted in the thread that calls, as the least of several times: nothing of it depends on the clock,
but that a look at the broker or a rest of another thread's may come between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import notebook_ext as nb
from notebook_ext import process
from tests.counting import called_at_least, counted

TIMES = 30
INPUTS = 100_000
MAPS = 5
"""A loaded machine sends results in smaller portions, and each of them costs some calls."""

app = nb.App("counts")


@app.function(max_containers=1)
def same(x: int) -> int:
    return x


@app.function(max_containers=1, rerun_on_crash=False)
def once(x: int) -> int:
    """By the broker: a function that must not run twice has no line."""
    return x


def least(action: Callable[[], object]) -> int:
    return min(counted(action) for _ in range(TIMES))


def main() -> None:
    nb.config.progress = "off"
    while not process.current().lines.count:
        same.remote(1)
    by_line = least(lambda: same.remote(1))
    once.remote(1)
    by_broker = least(lambda: once.remote(1))
    list(same.map(range(1_000)))
    mapped = min(counted(lambda: list(same.map(range(INPUTS)))) for _ in range(MAPS))
    each = called_at_least(INPUTS // 2, lambda: list(same.map(range(INPUTS))))
    found = {
        "line": by_line,
        "broker": by_broker,
        "mapped input": mapped / INPUTS,
        "each mapped input": each / INPUTS,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
