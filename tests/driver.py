"""A driver with two devices, for machines that have none: NVIDIA's binding, asking nobody.

The second device is a part of one: it tells neither how busy it is nor what runs on it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from kernel_worker import gpus

GIB = 1 << 30
UUIDS = ("GPU-aaaa", "GPU-bbbb")


def install(monkeypatch: pytest.MonkeyPatch, running: dict[int, int | None] | None = None) -> None:
    """Let this process find the devices; `running`: bytes by pid, on the first one."""

    def handle_of(index: int) -> int:
        if index >= len(UUIDS):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def only_whole(handle: int, answer: Any) -> Any:
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer

    processes = [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in (running or {}).items()]
    answers = {
        "Init": lambda: None,
        "Shutdown": lambda: None,
        "DeviceGetCount": lambda: len(UUIDS),
        "DeviceGetHandleByIndex": handle_of,
        "DeviceGetUUID": UUIDS.__getitem__,
        "DeviceGetName": lambda _: "NVIDIA H200",
        "DeviceGetMemoryInfo": lambda _: SimpleNamespace(total=140 * GIB, used=3 * GIB),
        "DeviceGetUtilizationRates": lambda each: only_whole(each, SimpleNamespace(gpu=41)),
        "DeviceGetComputeRunningProcesses": lambda each: only_whole(each, processes),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
    monkeypatch.setattr(gpus, "_LIBRARY", None)  # this program itself, which can be loaded
