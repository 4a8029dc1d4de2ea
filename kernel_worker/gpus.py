"""The accelerators of this machine, by NVIDIA's management library; no package is needed for it.

The library is asked once, when the agent starts: asking makes no CUDA context.
"""

from __future__ import annotations

import ctypes

from kernel_worker.errors import InvalidError
from kernel_worker.model import Device
from kernel_worker.settings import DEVICE

_NAME_BYTES = 96
_MIB = 1 << 20


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def devices(spec: str = "") -> tuple[Device, ...]:
    """Return the devices that may be used.

    Args:
        spec: empty or `auto`: all that are found; `none`: none; else indices such as `0,2`, or
            `0:H200` for a device that is not looked for but believed.

    Raises:
        InvalidError: `spec` is none of these, or names one that is not there.
    """
    text = spec.strip().lower()
    if text == "none":
        return ()
    if text in ("", "auto"):
        return _found()
    chosen = []
    found = {device.index: device for device in _found()}
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


def _found() -> tuple[Device, ...]:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ()
    if library.nvmlInit_v2() != 0:
        return ()
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return ()
        return tuple(_device(library, index) for index in range(count.value))
    finally:
        library.nvmlShutdown()


def _device(library: ctypes.CDLL, index: int) -> Device:
    handle, memory = ctypes.c_void_p(), _Memory()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
    library.nvmlDeviceGetName(handle, name, _NAME_BYTES)
    library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    return Device(index, name.value.decode(errors="replace"), memory.total // _MIB)
