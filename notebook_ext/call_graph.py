"""The nouns of a call's tree: `InputInfo` and `InputStatus`.

The tree itself (`FunctionCall.get_call_graph`) is not available yet in this version.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class InputStatus(enum.IntEnum):
    """How an input stands."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    INIT_FAILURE = 3
    TERMINATED = 4
    TIMEOUT = 5


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One input in the tree of a call."""

    input_id: str
    function_call_id: str
    task_id: str
    status: InputStatus
    function_name: str
    module_name: str
    children: list[InputInfo] = field(default_factory=list)
    attempt: int = 1
    started_at: float | None = None
    """Unix seconds."""
    ended_at: float | None = None
    """Unix seconds."""
