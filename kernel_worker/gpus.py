"""The accelerators of this machine, as NVIDIA's management library (NVML) counts and measures them.

`nvidia-ml-py`, NVIDIA's own binding, is imported only where the library is there. Asking makes no
CUDA context, so whoever asks may fork. The numbers are those of `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel_worker.errors import InvalidError
from kernel_worker.model import Device
from kernel_worker.settings import DEVICE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_MIB: Final = 1 << 20
_LIBRARY: Final = "libnvidia-ml.so.1"


class DeviceUse(NamedTuple):
    """What goes on on one device now."""

    used_mib: int
    total_mib: int
    busy_percent: int | None
    """How much of the last moment something was computed; None where the driver does not say."""
    by_process: Mapping[int, int]
    """MiB by pid. In a container the driver may know processes by other pids, or by none."""


def devices(spec: str = "") -> tuple[Device, ...]:
    """Return the devices that may be used.

    Args:
        spec: empty or `auto`: all that are found, of which `CUDA_VISIBLE_DEVICES` may leave some
            out as it does for every CUDA program; `none`: none; else indices such as `0,2`, or
            `0:H200` for a device that is not looked for but believed.

    Raises:
        InvalidError: `spec` is none of these, or names one that is not there.
    """
    text = spec.strip().lower()
    if text == "none":
        return ()
    if text in ("", "auto"):
        return tuple(_found(os.environ.get("CUDA_VISIBLE_DEVICES")))
    chosen = []
    found = {device.index: device for device in _found(None)}
    for part in spec.split(","):
        match = DEVICE.fullmatch(part.strip())
        if match is None:
            raise InvalidError(
                f"gpus={spec!r}: allowed are auto, none, indices such as 0,2, and devices that are "
                "believed to be there, such as 0:H200"
            )
        index = int(match[1])
        if match[2] is not None:
            chosen.append(Device(index, match[2]))
        elif index in found:
            chosen.append(found[index])
        else:
            there = ", ".join(map(str, found)) or "none"
            raise InvalidError(
                f"gpus={spec!r}: there is no device {index} here (there is: {there})"
            )
    return tuple(chosen)


def uses(indices: Collection[int]) -> dict[int, DeviceUse]:
    """Return what goes on on these devices, by index; without those of which nothing is known."""
    with _library() as nvml:
        if nvml is None:
            return {}
        return {index: use for index in indices if (use := _use(nvml, index)) is not None}


def names(indices: Collection[int]) -> dict[int, str]:
    """Return what the driver calls these devices, by index; without those that it does not know.

    The name is one device's wherever it is seen: in a container its index may be another.
    """
    known: dict[int, str] = {}
    if not indices:
        return known
    with _library() as nvml:
        if nvml is not None:
            for index in indices:
                with contextlib.suppress(nvml.NVMLError):  # one that was only declared
                    known[index] = nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))
    return known


def _found(visible: str | None) -> Iterator[Device]:
    """Give the devices that are there, and visible where that is said."""
    allowed = None if visible is None else {each.strip() for each in visible.split(",")}
    with _library() as nvml:
        if nvml is None:
            return
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if allowed is None or {str(index), nvml.nvmlDeviceGetUUID(handle)} & allowed:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                yield Device(index, nvml.nvmlDeviceGetName(handle), memory.total // _MIB)


def _use(nvml: Any, index: int) -> DeviceUse | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:  # one that was only declared
        return None
    busy: int | None = None
    with contextlib.suppress(nvml.NVMLError):  # parts of a device do not say
        busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    running = []
    with contextlib.suppress(nvml.NVMLError):
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    by_process = {each.pid: (each.usedGpuMemory or 0) // _MIB for each in running}
    return DeviceUse(memory.used // _MIB, memory.total // _MIB, busy, by_process)


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    """Give the library, begun, or None where there is none or it does not work."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        yield None
        return
    import pynvml as nvml  # noqa: PLC0415  only where there are devices

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # the driver is not loaded, or another version
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
