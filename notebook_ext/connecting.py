"""`nb.connect`, `%remote_connect`: another broker for this process's calls, or a cluster for it.

`nb.disconnect` gives the cluster's hosts back.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_worker import keys, rendezvous
from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from notebook_ext import exception, inquiry, process
from notebook_ext.config import config, current

if TYPE_CHECKING:
    from kernel_worker.wire import messages
    from notebook_ext.ssh.tunnel import Tunnel

LOCAL = "local"
SSH = "ssh://"


class _Used:
    """The way to another machine that this process's calls go."""

    tunnel: Tunnel | None = None


def connect(
    target: str | os.PathLike[str] = LOCAL,
    *,
    max_hosts: int | None = None,
    min_hosts: int | None = None,
    idle: int | None = None,
    cpus: int | None = None,
    gpus: int | str | None = None,
    memory: int | None = None,
    account: str | None = None,
    walltime: int | str | None = None,
    scheduler_options: str | None = None,
    worker_init: str | None = None,
    python: str | None = None,
    listen: str | None = None,
) -> str:
    """Have calls go to another broker, or let machines of a cluster run them.

    `local` is the broker of this machine, a path the connection file of another one's
    (`notebook-ext broker invite`). `ssh://[USER@]HOST[:PORT]` is the broker of a machine that ssh
    reaches without asking for a password; it is started there if none runs. Behind that may stand
    where `notebook-ext` is there: `ssh://box/opt/venv/bin/notebook-ext`.

    A cluster, `ray://auto`, `ray://HOST:10001`, `dask://HOST:8786` or, where Slurm's commands are,
    `slurm://PARTITION`, gives this machine's broker hosts while there is more to do than fits those
    that it has, and gets them back when nothing has used them for a while; `notebook-ext provider
    stop` ends that. The notebook is the same, whatever it is connected to.

    Args:
        target: what to connect to.
        max_hosts: how many hosts a cluster may give (8).
        min_hosts: how many are kept, whatever there is to do (0).
        idle: after how many seconds a host is given back that nothing uses (60).
        cpus: how many cores a host has at most; as many as a machine of the cluster, unless given.
        gpus: likewise, a number, or such as `"H200:2"` where the cluster does not say what it has.
        memory: what the cluster is to reserve for a host, in MiB.
        account: of Slurm: who pays.
        walltime: of Slurm: how long a host may last, in minutes or such as `"1-12:00:00"` (4 h).
        scheduler_options: of Slurm: more options of `sbatch`, as `"--qos=high --constraint=a100"`.
        worker_init: of Slurm: lines of the shell before a host starts, as `"module load cuda"`.
        python: of Slurm: the interpreter there; this one's path, unless given.
        listen: where the hosts find the broker, `tcp://ADDRESS:PORT`; a free port of this machine,
            unless given.

    Returns:
        What to tell the user.

    Raises:
        InvalidError: the target or an option is not allowed; a connection file is none, or others
            can read it; calls are open on a broker that has to be started anew.
        AuthError: its key is not let in, or ssh is not.
        NotFoundError: there is no ssh here, no notebook-ext there, or no such partition.
        ConnectionError: nobody answers there.
        VersionError: the cluster, or notebook-ext there, has other versions; the message says what
            to do.
    """
    options = {
        "max_hosts": max_hosts,
        "min_hosts": min_hosts,
        "idle": idle,
        "cpus": cpus,
        "gpus": gpus,
        "memory": memory,
        "account": account,
        "walltime": walltime,
        "scheduler_options": scheduler_options,
        "worker_init": worker_init,
        "python": python,
    }
    word = os.fspath(target)
    if "://" in word and not word.startswith(SSH):
        from notebook_ext import providing  # noqa: PLC0415  only where there is a cluster

        said = providing.begin(word, options, listen)
        return f"{_connect(None)}\n{said}"
    given = [name for name, value in (*options.items(), ("listen", listen)) if value is not None]
    if given:
        raise InvalidError(
            f"connect({word!r}, {given[0]}=…): that is for clusters; allowed with them are "
            f"{', '.join(options)} and listen"
        )
    if word.startswith(SSH):
        return _connect_by_ssh(word)
    return _connect(None if word == LOCAL else word)


def disconnect(cluster: str | None = None) -> str:
    """Give the hosts of a cluster back, and have no more come from it.

    What runs there has 30 s to end, and runs elsewhere then. A broker has its clusters for all
    notebooks that call it: they lose them too. Without a cluster nothing happens.

    Args:
        cluster: as it was given to `connect`; all that there are, unless given.

    Returns:
        What to tell the user.

    Raises:
        InvalidError: `cluster` is none.
        NotFoundError: no host comes from it.
        ConnectionError: what it runs has not ended after a minute.
    """
    from notebook_ext import providing  # noqa: PLC0415  only where there may be a cluster

    living = providing.living()
    names = list(living) if cluster is None else [providing.name_of(cluster)]
    if cluster is not None and names[0] not in living:
        there = ", ".join(living) or "none"
        raise exception.NotFoundError(f"no hosts come from {cluster} (agents that run: {there})")
    for name in names:
        with contextlib.suppress(exception.NotFoundError):  # it has ended by itself just now
            providing.end(name)
    return f"Given back: all hosts of {', '.join(names)}." if names else "No cluster was connected."


def _connect(file: str | None) -> str:
    """Have calls go to the broker of this machine, or to that of a connection file."""
    wanted = None if file is None else Path(file).expanduser().absolute()
    if wanted is not None:
        keys.read(wanted)
    found = _use(wanted)
    _leave_tunnel()
    if wanted is None:
        return f"Connected to the broker of this machine, pid {found.pid}."
    where = keys.read(wanted).address
    return f"Connected to the broker at {where}, with {len(found.hosts)} host(s)."


def _connect_by_ssh(word: str) -> str:
    from notebook_ext.ssh.tunnel import Tunnel  # noqa: PLC0415  only where it is asked for

    tunnel = Tunnel(word)
    try:
        found = _use(tunnel.file)
    except BaseException:
        tunnel.close()
        raise
    _leave_tunnel()
    _Used.tunnel = tunnel
    said = f"Connected to the broker at {tunnel.target}, with {len(found.hosts)} host(s)."
    here = ".".join(map(str, sys.version_info[:2]))
    if tunnel.python.rpartition(".")[0] == here:
        return said
    return (
        f"{said} Python is {tunnel.python} there and {here} here: functions run there only in an "
        "Image, or on hosts that have the same."
    )


def _use(file: Path | None) -> messages.Status:
    """Have calls go by this connection file, if a broker answers; return how that stands.

    The session that there was is closed: its attached calls end. Where there is no answer, all
    stays as it was.
    """
    before = current().connection_file
    try:
        config.connection_file = file or LOCAL
        if file is None:
            rendezvous.find_or_start(current())
        found = inquiry.status()
        if found is None:
            raise ConnectionError("no broker answers")
    except BaseException:
        config.connection_file = before or LOCAL
        raise
    if file != before:
        process.close()
    return found


def _leave_tunnel() -> None:
    """End the way that calls do not go any more, if there was one."""
    tunnel, _Used.tunnel = _Used.tunnel, None
    if tunnel is not None:
        tunnel.close()
