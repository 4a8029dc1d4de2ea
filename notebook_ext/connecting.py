"""`%remote_connect`: another broker for this process's calls."""

from __future__ import annotations

from pathlib import Path

from kernel_worker import keys, rendezvous
from kernel_worker.errors import ConnectionError, Error  # noqa: A004  ours
from notebook_ext import inquiry, process
from notebook_ext.config import config, current


def connect(file: str | None) -> str:
    """Have calls go to the broker of this machine, or to that of a connection file.

    The session that there was is closed: its attached calls end. Where there is no answer, all
    stays as it was.

    Args:
        file: its path; None for this machine's.

    Returns:
        What to tell the user.

    Raises:
        InvalidError: it is no connection file, or others can read it.
        AuthError: its key is not let in.
        ConnectionError: nobody answers there.
    """
    before = current().connection_file
    wanted = None if file is None else Path(file).expanduser().absolute()
    if wanted is not None:
        keys.read(wanted)
    try:
        config.connection_file = wanted or "local"
        if wanted is None:
            rendezvous.find_or_start(current())
        found = inquiry.status()
        if found is None:
            raise ConnectionError("no broker answers")
    except Error:
        config.connection_file = before or "local"
        raise
    if wanted != before:
        process.close()
    if wanted is None:
        return f"Connected to the broker of this machine, pid {found.pid}."
    where = keys.read(wanted).address
    return f"Connected to the broker at {where}, with {len(found.hosts)} host(s)."
