"""What this machine lets us use: CPU affinity and cgroup limits, never `cpu_count()`."""

from __future__ import annotations

import os
from pathlib import Path

from kernel_worker import gpus
from kernel_worker.model import HostResources

_MIB = 1 << 20
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60


def measure(max_workers: int | None = None, gpu_spec: str = "") -> HostResources:
    """Return what this host has to give.

    Args:
        max_workers: at most this many workers run user code at once.
        gpu_spec: see `gpus.devices`.
    """
    cpu = available_cpu()
    if max_workers is not None:
        cpu = min(cpu, float(max_workers))
    return HostResources(cpu, available_memory_mib(), gpus.devices(gpu_spec))


def available_cpu(root: Path = _CGROUP) -> float:
    """Return how many cores this process may use; at least 1."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in _groups("cpu", root):
        limit = _cpu_limit(group)
        if limit is not None:
            cores = min(cores, limit)
    return max(1.0, cores)


def available_memory_mib(root: Path = _CGROUP) -> int:
    """Return how much memory this process may use, in MiB."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(group / name)
            if limit is not None and limit < _UNLIMITED_BYTES:
                size = min(size, limit)
    return size // _MIB


def _groups(controller: str, root: Path) -> list[Path]:
    """Return the directories of this process's cgroup and of those above it."""
    found: list[Path] = []
    for line in _lines(Path("/proc/self/cgroup")):
        _, names, path = line.split(":", 2)
        if names == "":
            top = root
        elif controller in names.split(","):
            top = root / controller
        else:
            continue
        inner = top / path.lstrip("/")
        found += [inner, *(parent for parent in inner.parents if parent.is_relative_to(top))]
    return found


def _cpu_limit(group: Path) -> float | None:
    words = " ".join(_lines(group / "cpu.max")).split()
    if len(words) == 2 and words[0] != "max":  # noqa: PLR2004  quota and period
        return int(words[0]) / int(words[1])
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)[:1])
    return int(text) if text.lstrip("-").isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
