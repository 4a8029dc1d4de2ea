"""Trees of calls as a broker would tell of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kernel_worker import traces
from kernel_worker.model import CallId, Outcome
from kernel_worker.traces import CallTrace
from kernel_worker.wire.messages import Graph
from notebook_ext.call_graph import CallTree, read_tree

BEGAN = 1_000.0
"""When the first call of these trees was made, in Unix seconds."""


def call(
    name: str,
    parent: str = "",
    ended: Iterable[tuple[int, int, Outcome]] = (),
    **fields: Any,
) -> CallTrace:
    """Return a call `fc-<name>` made in `fc-<parent>`; `ended`: (start, stop, outcome) of runs.

    Each run began 1 s after the call was made, and took 1 s an input.
    """
    rows = bytearray()
    for start, stop, outcome in ended:
        taken = float(stop - start)
        traces.add(rows, start, stop, 1, (1 + taken, taken), 1, outcome)
    given: dict[str, Any] = {
        "call": CallId(f"fc-{name}"),
        "parent": CallId(f"fc-{parent}" if parent else ""),
        "parent_index": 0,
        "name": name.rstrip("0123456789"),
        "module": "m",
        "submitted_at": BEGAN,
        "total": 1,
        "workers": "ta-i",
        "rows": bytes(rows),
    }
    return CallTrace(**(given | fields))


def tree(*calls: CallTrace) -> CallTree:
    """Return these calls, as the client reads them."""
    return read_tree(Graph(CallId("fc-r"), []), [msgspec.msgpack.encode(calls)])
