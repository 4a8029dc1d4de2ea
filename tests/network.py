"""Machines out of network namespaces, on one switch, with cables to pull. Needs root, iproute2."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from typing import Self

from tests.waiting import wait_until

SUBNET = "10.213.7"


def why_not() -> str:
    """Return why there can be no such network here; empty where there can."""
    if os.geteuid():
        return "namespaces need root"
    if shutil.which("ip") is None:
        return "the command `ip` is not there"
    tried = subprocess.run(["ip", "netns", "add", probe := _name("probe")], check=False)  # noqa: S607
    if tried.returncode:
        return "this machine makes no network namespaces"
    _run("ip", "netns", "del", probe)
    return ""


class Network:
    """A switch and the machines on it; a context manager."""

    def __init__(self, *names: str) -> None:
        """Plan machines of these names."""
        token = secrets.token_hex(2)
        self._switch = f"nbx-{token}-switch"
        self._spaces = {name: f"nbx-{token}-{name}" for name in names}
        self.addresses = {name: f"{SUBNET}.{at}" for at, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        """Lay the cables."""
        for space in (self._switch, *self._spaces.values()):
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for name, space in self._spaces.items():
            ends = ["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space]
            _run("ip", "-n", self._switch, *ends)
            _run("ip", "-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _run("ip", "-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        """Take everything away, whatever still runs there."""
        for name in self._spaces:
            self._kill(name)
        for space in (self._switch, *self._spaces.values()):
            _run("ip", "netns", "del", space)

    def on(self, name: str) -> list[str]:
        """Return what a command begins with that runs on a machine, which has its own name."""
        named = 'echo "$0" >/proc/sys/kernel/hostname; exec "$@"'
        return [
            "ip",
            "netns",
            "exec",
            self._spaces[name],
            "unshare",
            "--uts",
            "sh",
            "-c",
            named,
            name,
        ]

    def cut(self, name: str) -> None:
        """Pull a machine's cable: nothing is heard, and nobody is told."""
        _run("ip", "-n", self._switch, "link", "set", name, "down")

    def heal(self, name: str) -> None:
        """Put it back."""
        _run("ip", "-n", self._switch, "link", "set", name, "up")

    def power_off(self, name: str) -> None:
        """Kill all that runs on a machine, of which nobody hears; `heal` lets it boot again."""
        self.cut(name)
        self._kill(name)

    def pids(self, name: str) -> list[int]:
        """Return the processes of a machine: those that were started on it, and all of theirs."""
        return [int(word) for word in _run("ip", "netns", "pids", self._spaces[name]).split()]

    def _kill(self, name: str) -> None:
        def nothing_runs() -> bool:
            left = self.pids(name)
            for pid in left:  # again and again: they may have started more
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(nothing_runs, 20, f"nothing runs on {name}")


def _name(what: str) -> str:
    return f"nbx-{secrets.token_hex(2)}-{what}"


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
