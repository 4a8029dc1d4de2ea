"""What a worker that has a memory limit may allocate, and what it says where there is no more.

Theory. The host agent measures what a worker uses and stops one that is over its limit. Between two
looks a function can ask for any amount; the kernel's limit on private memory (`RLIMIT_DATA`) is the
belt: it lies as far above the agent's limit as one allocation may reasonably be reserved and not
used (thread stacks, buffers of numeric libraries), so that `bytearray(50_000_000_000)` raises where
it stands, an ordinary exception, and the machine never feels it.

A worker with devices gets no belt: their drivers reserve far more than they ever use.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernel_worker.model import FunctionSpec, Resources

_MIB = 1 << 20
_SAID_OF_DEVICE_MEMORY: Final = (
    "CUDA out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "RESOURCE_EXHAUSTED",
)
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
    """Name the limit, or say how the devices stand, where an allocation failed there."""
    limit_mib = spec.resources.memory_limit_mib
    if limit_mib and isinstance(error, MemoryError):
        error.add_note(f"{spec.name} may use {limit_mib} MiB: the limit in its option memory=.")
    elif spec.resources.gpu and _lacks_device_memory(error):
        error.add_note(_devices_now() or "How full the devices are is not known.")


def _lacks_device_memory(error: BaseException) -> bool:
    """Say whether it is what PyTorch, CuPy, Numba, JAX or TensorFlow raise then."""
    kind, said = type(error).__name__, str(error)
    named = kind in ("OutOfMemoryError", "ResourceExhaustedError")
    return named or any(word in said for word in _SAID_OF_DEVICE_MEMORY)


def _devices_now() -> str:
    from kernel_worker import gpus  # noqa: PLC0415  hardly ever

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    mine = [int(each) for each in visible if each.isdigit()]
    lines = []
    for index, use in gpus.uses(mine).items():
        own = use.by_process.get(os.getpid())
        by = "" if own is None else f", {own:,} of them by this worker"
        lines.append(f"GPU {index}: {use.used_mib:,} of {use.total_mib:,} MiB in use{by}.")
    return "\n".join(lines)


def _allocated_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
