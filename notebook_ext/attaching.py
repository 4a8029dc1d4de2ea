"""`nb.attach(...)`: a live worker as a Jupyter kernel, beside the calls that it runs."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from notebook_ext.call import FunctionCall

LIMIT_SECONDS: Final = 60.0
"""How long a worker may take to import ipykernel and start it, busy as it is."""


@dataclass(frozen=True, slots=True)
class AttachedWorker:
    """A worker that is a kernel; shows how to attach to it.

    Attributes:
        worker: its id.
        function: the name of the function that it runs.
        pid: its process.
        connection_file: what `jupyter console --existing` takes.
        address: of the broker, where that is on another machine: the worker and the file are there.
    """

    worker: str
    function: str
    pid: int
    connection_file: str
    address: str = ""

    @property
    def directory(self) -> str:
        """Where the connection files of this broker's workers are: for JupyterLab."""
        return str(Path(self.connection_file).parent)

    def __repr__(self) -> str:
        console, lab = self._commands()
        there = f"On the machine of {self.address}, where these commands work:\n"
        return (there if self.address else "") + (
            f"Worker {self.worker} ({self.function}, pid {self.pid}) is a Jupyter kernel now, and "
            f"goes on with its calls.\n"
            f"A console on it:\n    {console}\n"
            f"JupyterLab lists it among its kernels if it was started with\n    {lab}\n"
            "Leaving only detaches. In it, inputs() shows what runs, with its variables."
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _commands(self) -> tuple[str, str]:
        lab = "--ServerApp.allow_external_kernels=True --ServerApp.external_connection_dir"
        return (
            f"jupyter console --existing {self.connection_file}",
            f"jupyter lab {lab}={self.directory}",
        )


def attach(worker_or_call: str | FunctionCall[Any]) -> AttachedWorker:
    """Make a live worker a Jupyter kernel too; busy or not, it goes on with its calls.

    Its namespace is the one of the function: what you change there, its next input sees.

    Args:
        worker_or_call: the id of a worker (`nb.calls()`, `%remote_status` and the pool widget show
            them), or a call, or its id: then the worker that runs it, the first of several.

    Returns:
        Where the kernel listens; its `repr` says how to attach.

    Raises:
        InvalidError: it is neither, or that worker does not run yet.
        NotFoundError: there is no such worker, or nothing of the call runs now.
        ExecutionError: the worker cannot become a kernel; the message says why.
    """
    subject = getattr(worker_or_call, "object_id", worker_or_call)
    if not isinstance(subject, str) or not subject.startswith(("fc-", "ta-")):
        raise InvalidError(
            f"attach({worker_or_call!r}): give a worker (ta-…) or a call (fc-…, or the FunctionCall"
            " itself)."
        )
    from notebook_ext import inquiry  # noqa: PLC0415  not for an import alone

    connection = inquiry.find()
    if connection is None:
        raise NotFoundError(f"{subject} is not there: no broker is running.")
    with inquiry.Inquiry(connection, LIMIT_SECONDS) as asking:
        found = asking.attach(subject)
    address = connection.address if connection.keys is not None else ""
    return AttachedWorker(found.worker, found.name, found.pid, found.path, address)
