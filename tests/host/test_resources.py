"""What a machine offers: affinity and limits count."""

from __future__ import annotations

import os
from pathlib import Path

from kernel_worker.host import resources


def own_group(root: Path, controller: str) -> Path:
    """Return where this process's group lies below a made-up cgroup root."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            return root / path.lstrip("/")
        if controller in names.split(","):
            return root / controller / path.lstrip("/")
    return root


def test_without_limits_the_affinity_counts(tmp_path: Path) -> None:
    assert resources.available_cpu(tmp_path) == len(os.sched_getaffinity(0))
    assert resources.available_memory_mib(tmp_path) > 100


def test_a_quota_of_the_first_version_counts(tmp_path: Path) -> None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        group = tmp_path / ("" if names == "" else "cpu") / path.lstrip("/")
        if names == "" or "cpu" in names.split(","):
            group.mkdir(parents=True, exist_ok=True)
            (group / "cpu.cfs_quota_us").write_text("120000\n")
            (group / "cpu.cfs_period_us").write_text("100000\n")
    assert resources.available_cpu(tmp_path) == min(1.2, len(os.sched_getaffinity(0)))


def test_a_quota_of_the_second_version_counts_and_is_at_least_one(tmp_path: Path) -> None:
    group = own_group(tmp_path, "cpu")
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text("50000 100000\n")
    assert resources.available_cpu(tmp_path) == 1.0
    (group / "cpu.max").write_text("max 100000\n")
    assert resources.available_cpu(tmp_path) == len(os.sched_getaffinity(0))


def test_a_limit_of_memory_counts(tmp_path: Path) -> None:
    group = own_group(tmp_path, "memory")
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{64 << 20}\n")
    assert resources.available_memory_mib(tmp_path) == 64
    (group / "memory.max").write_text("max\n")
    assert resources.available_memory_mib(tmp_path) > 64


def test_workers_can_be_limited() -> None:
    assert resources.measure(1, "none").cpu == 1.0
