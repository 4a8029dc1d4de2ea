"""On the engine's machine: a host's process, `notebook-ext host start`, as long as it is wanted.

The engine's own process there (an actor, a task) has it as a child, which ends when that does: it
reads a pipe whose other end nobody else has. The connection file, which holds the key, is in memory
alone, and in no command line: nothing is left on a machine that loses its power.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from kernel_worker import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.providers.provider import HostSpec

GIVE_UP_SECONDS: Final = 600.0
"""After so long without its broker a host leaves: nobody is there to give it back."""
_SHOWN_BYTES: Final = 2_000
_ENGINES_OWN: Final = ("RAY_", "DASK_", "SLURM_", "JPY_PARENT_PID")
"""Libraries take a process with them for one that the engine has started for them."""


def command(spec: HostSpec, file: Path, devices: Sequence[str]) -> list[str]:
    """Return what starts a host that has a connection file.

    Args:
        spec: of the host.
        file: the connection file.
        devices: the indices of what it may use of the machine's devices.
    """
    kinds = f":{spec.gpu_kind}" if spec.is_declared else ""
    gpus = ",".join(f"{index}{kinds}" for index in devices) or "none"
    options = {
        "--connect": file,
        "--name": spec.name,
        "--cpus": spec.cpus,
        "--gpus": gpus,
        "--give-up-seconds": GIVE_UP_SECONDS,
    }
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-P", "-m", "kernel_worker.broker.outpost", *words]


def environment() -> dict[str, str]:
    """Return the environment of a host: this one's, without what the engine tells its own."""
    root = str(Path(__file__).parents[2])
    found = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(_ENGINES_OWN)
    }
    found.pop("CUDA_VISIBLE_DEVICES", None)  # the host has its devices by their indices
    if not root.endswith(("site-packages", "dist-packages")):
        paths = [root, *filter(None, [found.get("PYTHONPATH", "")])]
        found["PYTHONPATH"] = os.pathsep.join(paths)
    return found


class HostProcess:
    """A host of this machine; a child of this process."""

    def __init__(self, spec: HostSpec, invitation: bytes, devices: Sequence[str] = ()) -> None:
        """Start it.

        Args:
            spec: what it may use.
            invitation: the content of the connection file.
            devices: the indices of its devices.
        """
        self.devices = tuple(devices)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  until the end is known
        file = keys.in_memory(invitation)
        self._process = subprocess.Popen(
            [*command(spec, Path(f"/proc/self/fd/{file}"), devices), "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
            env=environment(),
            start_new_session=True,
            pass_fds=[file],
        )
        os.close(file)
        self._lock = threading.Lock()
        self._said = ""

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    def wait(self) -> str:
        """Wait for its end; return how it ended, and the end of what it said."""
        code = self._process.wait()
        with self._lock:
            if not self._log.closed:
                self._log.seek(0, os.SEEK_END)
                self._log.seek(max(0, self._log.tell() - _SHOWN_BYTES))
                tail = self._log.read().decode(errors="replace").strip()
                self._log.close()
                if self._process.stdin is not None:
                    self._process.stdin.close()
                self._said = f"{ended(code)}: {tail.splitlines()[-1]}" if tail else ended(code)
        return self._said

    def stop(self, grace_seconds: float) -> None:
        """Let what runs there end, up to a limit; what is left then, or at once for 0, is killed.

        A host that is killed kills its workers: it finds that its pipe is closed, or they do.
        """
        if grace_seconds > 0 and self.is_alive():
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait()


KILL_SECONDS: Final = 10.0
"""How long a host may take to end when its pipe is closed, its workers with it."""


def ended(code: int) -> str:
    """Return how a process has ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
