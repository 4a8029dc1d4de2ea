"""Hosts that are processes of this machine: the reference that the other providers are held to.

The machine is divided up as an engine would: a host is placed when its CPUs and devices are free,
in the order of requests. Each has a file with its process, by which a later agent finds it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.model import Device, HostResources
from kernel_worker.providers.node import command, ended, environment
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.providers.target import Target

_MIB: Final = 1 << 20


class _Placed(msgspec.Struct, frozen=True):
    """A host with a process: the content of its file."""

    spec: HostSpec
    pid: int
    birth: str
    """When that began, in ticks since the machine did: pids are used again."""
    devices: tuple[str, ...]


class LocalProvider:
    """The processes of one directory."""

    def __init__(self, target: Target, directory: Path, _prefix: str, invitation: bytes) -> None:
        """Know those that are there already.

        Args:
            target: `cpus` and `gpus` say what there is to give.
            directory: of files that say which hosts there are.
            _prefix: how their names begin; these are all of the directory's.
            invitation: the connection file's content.
        """
        self._cpus = target.cpus or len(os.sched_getaffinity(0))
        self._devices = tuple(str(index) for index in range(max(0, target.gpus)))
        self._kind = target.gpu_kind
        self._directory = directory / "hosts"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._file = directory / "invitation.json"
        _write(self._file, invitation)
        self._waiting: dict[str, Sight] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._kills: dict[str, float] = {}
        """When those are killed that were asked to end."""
        self._placed = {
            path.stem: msgspec.json.decode(path.read_bytes(), type=_Placed)
            for path in self._directory.glob("*.json")
        }

    def shapes(self) -> tuple[HostResources, ...]:
        """Return what this machine has."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
        devices = tuple(Device(int(index), self._kind) for index in self._devices)
        return (HostResources(float(self._cpus), memory, devices),)

    def request(self, spec: HostSpec) -> None:
        """Have a host started when there is room."""
        if spec.name in self._waiting or spec.name in self._placed:
            return
        if spec.cpus > self._cpus or spec.gpus > len(self._devices):
            there = f"{self._cpus} CPUs and {len(self._devices)} GPUs"
            detail = f"{spec.cpus} CPUs and {spec.gpus} GPUs, where there are {there}"
            sight = Sight(spec, Phase.GONE, Cause.UNSCHEDULABLE, detail)
        else:
            sight = Sight(spec, Phase.PENDING)
        self._waiting[spec.name] = sight
        self._place()

    def look(self) -> Mapping[str, Sight]:
        """Return how each host stands."""
        self._kill_overdue()
        self._place()
        found = dict(self._waiting)
        for name, placed in self._placed.items():
            gone = self._how_it_ended(name, placed)
            phase, cause = (Phase.GONE, Cause.ENDED) if gone else (Phase.RUNNING, Cause.NONE)
            node = os.uname().nodename
            found[name] = Sight(placed.spec, phase, cause, gone, node, placed.devices)
        return found

    def release(self, name: str, grace_seconds: float) -> None:
        """End a host, or forget one that has ended."""
        self._waiting.pop(name, None)
        placed = self._placed.get(name)
        if placed is None:
            return
        if self._how_it_ended(name, placed):
            self._forget(name)
        elif grace_seconds > 0:
            _signal(placed.pid, signal.SIGTERM)
            self._kills[name] = time.monotonic() + grace_seconds
        else:
            self._kills[name] = time.monotonic() + _END_SECONDS
            _signal(placed.pid, signal.SIGTERM)
            _signal(placed.pid, signal.SIGINT)  # the second one does not wait for what runs

    def close(self) -> None:
        """Leave the hosts alone."""

    # ---- processes --------------------------------------------------------------------------

    def _place(self) -> None:
        for name, sight in list(self._waiting.items()):
            if sight.phase is not Phase.PENDING:
                continue
            spec = sight.spec
            taken = list(self._placed.values())
            free = self._cpus - sum(one.spec.cpus for one in taken)
            used = {device for one in taken for device in one.devices}
            devices = [device for device in self._devices if device not in used]
            if spec.cpus > free or spec.gpus > len(devices):
                what = "CPU" if spec.cpus > free else "GPU"
                self._waiting[name] = Sight(spec, Phase.PENDING, detail=f"no free {what}")
                return  # in the order of requests
            self._start(spec, tuple(devices[: spec.gpus]))
            del self._waiting[name]

    def _start(self, spec: HostSpec, devices: tuple[str, ...]) -> None:
        log = self._directory / f"{spec.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(spec, self._file, devices),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment(),
                start_new_session=True,
            )
        self._children[spec.name] = process
        placed = _Placed(spec, process.pid, _birth(process.pid), devices)
        self._placed[spec.name] = placed
        _write(self._directory / f"{spec.name}.json", msgspec.json.encode(placed))

    def _how_it_ended(self, name: str, placed: _Placed) -> str:
        """Return how a host has ended; empty where it has not."""
        child = self._children.get(name)
        if child is not None:
            code = child.poll()
            return "" if code is None else f"{ended(code)}{self._last_words(name)}"
        is_alive = _birth(placed.pid) == placed.birth
        return "" if is_alive else f"its process has ended{self._last_words(name)}"

    def _last_words(self, name: str) -> str:
        with contextlib.suppress(OSError, IndexError):
            said = (self._directory / f"{name}.log").read_text(errors="replace")
            return f": {said.strip().splitlines()[-1]}"
        return ""

    def _kill_overdue(self) -> None:
        for name, due in list(self._kills.items()):
            placed = self._placed.get(name)
            if placed is None or self._how_it_ended(name, placed):
                self._forget(name)
            elif time.monotonic() > due:
                _signal(placed.pid, signal.SIGKILL)

    def _forget(self, name: str) -> None:
        self._kills.pop(name, None)
        self._placed.pop(name, None)
        self._children.pop(name, None)
        for ending in ("json", "log"):
            (self._directory / f"{name}.{ending}").unlink(missing_ok=True)


_END_SECONDS: Final = 15.0
"""How long a host may take to kill what it runs."""


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _birth(pid: int) -> str:
    """Return when a process began; empty where there is none, or only what its parent collects."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    words = stat.rpartition(")")[2].split()
    return "" if words[0] == "Z" else words[19]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, that only this user can read."""
    half = path.with_suffix(".half")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    half.rename(path)
