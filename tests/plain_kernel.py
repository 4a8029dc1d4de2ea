"""An ordinary notebook kernel whose cells a test types: a real process, the real protocol.

A `Cell` collects what a front end would show below it, also what arrives after it has ended.
Nothing is prepared in the kernel: what a test needs in it, it types.
"""

from __future__ import annotations

import os
import queue
import re
import secrets
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from tests.waiting import PATIENCE

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class CellError:
    """The exception that a cell ended with, as the front end got it."""

    name: str
    value: str
    traceback: str
    """Without colours."""


@dataclass
class Cell:
    """One executed (or running) cell and its output so far."""

    source: str
    message_id: str
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    """`text/plain` of the last expression."""
    displays: list[dict[str, Any]] = field(default_factory=list)
    """Mime bundles of `display` calls and of the result, in order."""
    updates: list[dict[str, Any]] = field(default_factory=list)
    """Mime bundles of display updates, in order."""
    error: CellError | None = None
    seconds: float | None = None
    """How long it ran; None while it runs."""
    _started: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        """Whether the kernel has said that it is idle again."""
        return self.seconds is not None


class PlainKernel:
    """One kernel process.

    Args:
        directory: The working directory, as a notebook's.
        variables: Environment variables on top of the test's own.
        interpreter: The Python that runs it, if not the test's own.
    """

    def __init__(
        self,
        directory: Path,
        variables: Mapping[str, str] | None = None,
        interpreter: Path | None = None,
    ) -> None:
        sockets = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"k-{secrets.token_hex(4)}"
        self._manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(sockets))
        if interpreter is not None:
            spec = self._manager.kernel_spec
            assert spec is not None
            spec.argv[0] = str(interpreter)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
        self._manager.start_kernel(cwd=str(directory), env=environment | dict(variables or {}))
        self._client: BlockingKernelClient = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=30 * PATIENCE)
        self._cells: dict[str, Cell] = {}
        self.heard: deque[dict[str, Any]] = deque(maxlen=10_000)
        """What the kernel has published last, whole messages."""

    @property
    def pid(self) -> int:
        """The kernel's process id."""
        provisioner = self._manager.provisioner
        assert isinstance(provisioner, LocalProvisioner)
        assert provisioner.pid is not None
        return provisioner.pid

    def run(self, source: str, timeout: float = 60.0) -> Cell:
        """Execute one cell and return it finished, whether it failed or not."""
        return self.finish(self.begin(source), timeout)

    def begin(self, source: str, *, with_input: bool = False) -> Cell:
        """Send one cell off and return at once; `with_input`: `answer` types what it asks for."""
        cell = Cell(source, self._client.execute(source, allow_stdin=with_input))
        self._cells[cell.message_id] = cell
        return cell

    def answer(self, *lines: str, timeout: float = 30.0) -> list[str]:
        """Type lines into the input field of the cell that runs; return the prompts."""
        prompts = []
        for line in lines:
            prompts.append(self.asked(timeout))
            self._client.input(line)
        return prompts

    def asked(self, timeout: float = 30.0) -> str:
        """Wait until the cell that runs asks for input; return the prompt."""
        asked = self._client.get_stdin_msg(timeout=timeout * PATIENCE)
        return str(asked["content"]["prompt"])

    def finish(self, cell: Cell, timeout: float = 60.0) -> Cell:
        """Wait until the cell has ended, at most `timeout` seconds."""
        end = time.monotonic() + timeout * PATIENCE
        while not cell.finished:
            if not self.listen(end - time.monotonic()):
                raise AssertionError(f"still running after {timeout} s: {cell}")
        return cell

    def listen(self, seconds: float) -> bool:
        """Take one message in, waiting at most `seconds`; false where none came."""
        try:
            message = self._client.get_iopub_msg(timeout=max(seconds, 0.0))
        except queue.Empty:
            return False
        self.heard.append(message)
        cell = self._cells.get(message["parent_header"].get("msg_id", ""))
        if cell is not None:
            _record(cell, message["msg_type"], message["content"])
        return True

    def interrupt(self) -> None:
        """Press the stop button: SIGINT to the kernel's process group."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """End the kernel as a crash does: SIGKILL to it alone."""
        os.kill(self.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Restart it, as the front end's button does."""
        self._manager.restart_kernel(now=False)
        self._client.wait_for_ready(timeout=30 * PATIENCE)

    def close(self) -> None:
        """End it as closing the notebook does; harmless where it is gone."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=not self._manager.is_alive())
        self._manager.context.destroy(linger=0)


def _record(cell: Cell, kind: str, content: dict[str, Any]) -> None:
    if kind == "stream" and content["name"] == "stdout":
        cell.stdout += content["text"]
    elif kind == "stream":
        cell.stderr += content["text"]
    elif kind == "display_data":
        cell.displays.append(content["data"])
    elif kind == "update_display_data":
        cell.updates.append(content["data"])
    elif kind == "execute_result":
        cell.displays.append(content["data"])
        cell.result = content["data"].get("text/plain")
    elif kind == "error":
        text = _COLOURS.sub("", "\n".join(content["traceback"]))
        cell.error = CellError(content["ename"], content["evalue"], text)
    elif kind == "status" and content["execution_state"] == "idle":
        cell.seconds = time.monotonic() - cell._started
