"""What a worker that has a memory limit may allocate, and what a `MemoryError` then says.

Theory. The host agent measures what a worker uses and stops one that is over its limit. Between two
looks a function can ask for any amount; the kernel's limit on private memory (`RLIMIT_DATA`) is the
belt: it lies as far above the agent's limit as one allocation may reasonably be reserved and not
used (thread stacks, buffers of numeric libraries), so that `bytearray(50_000_000_000)` raises where
it stands, an ordinary exception, and the machine never feels it.

A worker with devices gets no belt: their drivers reserve far more than they ever use.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernel_worker.model import FunctionSpec, Resources

_MIB = 1 << 20
_LEAST_SLACK_BYTES: Final = 1 << 30


def limit(resources: Resources) -> None:
    """Let this process allocate no more than it can be meant to."""
    if not resources.memory_limit_mib or resources.gpu:
        return
    allowed = resources.memory_limit_mib * _MIB
    most = _allocated_bytes() + allowed + max(allowed, _LEAST_SLACK_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def explain(error: BaseException, spec: FunctionSpec) -> None:
    """Name the limit, where an allocation may have failed for it."""
    limit_mib = spec.resources.memory_limit_mib
    if limit_mib and isinstance(error, MemoryError):
        error.add_note(f"{spec.name} may use {limit_mib} MiB: the limit in its option memory=.")


def _allocated_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
