"""A place: runtime and data directories with a broker of their own, and the processes there."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from pathlib import Path

from kernel_worker import rendezvous, settings
from kernel_worker.rendezvous import Connection
from tests import leftovers
from tests.waiting import wait_until

IDLE_EXIT_SECONDS = 2.0


class Place:
    """One pair of directories; processes that are started with `variables` meet there."""

    def __init__(self, directory: Path) -> None:
        base = Path(os.environ["NOTEBOOK_EXT_RUNTIME_DIR"]).parent
        self.runtime_dir = base / f"p{secrets.token_hex(3)}"
        self.variables = {
            "NOTEBOOK_EXT_RUNTIME_DIR": str(self.runtime_dir),
            "NOTEBOOK_EXT_DATA_DIR": str(directory),
            "NOTEBOOK_EXT_DEVICE_LOCKS": f"{directory}-locks",
            "NOTEBOOK_EXT_IDLE_EXIT_SECONDS": str(IDLE_EXIT_SECONDS),
        }

    def broker(self) -> Connection | None:
        """Return where the living broker listens, if there is one."""
        return rendezvous.find(settings.load(environ=os.environ | self.variables))

    def broker_pid(self) -> int:
        """Return the living broker's process id."""
        broker = self.broker()
        assert broker is not None, "no broker runs"
        return broker.pid

    def kill_broker(self) -> None:
        """Kill the broker, unless it has left by itself since its last client did."""
        broker = self.broker()
        if broker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(broker.pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """Return pid and command line of the processes that were started with `variables`."""
        return leftovers.processes(self.runtime_dir)

    def end(self) -> None:
        """Kill what is left, whatever state the test left it in."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(), what="the killed processes are gone")
