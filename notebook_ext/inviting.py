"""Who may reach this machine's broker from elsewhere: `notebook-ext broker invite` and the like.

It works on the files of `kernel_worker.keys`, whether a broker runs or not; one that runs looks at
them each time that somebody dials, and is told of keys that are revoked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import stat
from typing import TYPE_CHECKING, TextIO

from kernel_worker import directories, rendezvous, settings
from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from kernel_worker.keys import Keys
from notebook_ext import inquiry
from notebook_ext.config import afresh

if TYPE_CHECKING:
    from kernel_worker.keys import Invitation, Role
    from kernel_worker.rendezvous import Connection

LIMIT_SECONDS = 5.0
"""How long a broker may take to end connections."""
_EVERYWHERE = ("*", "0.0.0.0", "[::]")  # noqa: S104  looked for, not bound


def listen(address: str) -> Connection:
    """Return the broker that listens at `address`; it is started where none runs.

    Raises:
        InvalidError: one runs that does not listen there; or the address is not allowed, or cannot
            be bound.
    """
    wanted = settings.load({"listen": address}).listen
    running = inquiry.find_here()
    if running is None:
        configured = dataclasses.replace(afresh(), listen=wanted)
        running = rendezvous.find_or_start(configured)
    port = _port_of(running)
    if not port or (wanted != port and not str(wanted).endswith(":0")):
        where = f"listens at {port}" if port else "listens for this machine alone"
        raise InvalidError(
            f"--listen {address}: a broker runs already (pid {running.pid}) and {where}; leave it "
            "so, or end it, with what runs there, by `notebook-ext broker stop`"
        )
    return running


def invite(name: str, address: str | None = None, role: Role = "client") -> Invitation:
    """List a new client or host; return what its connection file says.

    Args:
        name: what you call it.
        address: where it finds the broker, `tcp://HOST:PORT`, where that is not what it listens at.
        role: `host`, for a machine that is to run workers.

    Raises:
        InvalidError: the name is taken or not allowed; or there is no address.
    """
    address = _reachable(address)
    return _keys().invite(name, address, role)


def make_private(output: TextIO) -> None:
    """Let nobody else read the file that `output` goes to, if it is one."""
    with contextlib.suppress(OSError):  # it is none
        file = output.fileno()
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.fchmod(file, 0o600)


def revoke(name: str) -> int:
    """Let a client in no more; return how many connections of it have ended.

    Raises:
        NotFoundError: there is none of that name.
        ConnectionError: it is not listed any more, but the broker has not said that it knows.
    """
    _keys().revoke(name)
    running = inquiry.find_here()
    if running is None or not running.door:
        return 0
    try:
        with inquiry.Inquiry(running, LIMIT_SECONDS) as asking:
            return asking.check_keys()
    except ConnectionError as error:
        raise ConnectionError(
            f"{name} is not listed any more, but connections that it has may go on: {error}; end "
            f"the process {running.pid} if it hangs"
        ) from error


def listed(role: Role) -> dict[str, str]:
    """Return the public keys of the clients, or the hosts, that are let in, by name."""
    found = {name: key for key, name in _keys().listed(role).items()}
    return dict(sorted(found.items()))


def _keys() -> Keys:
    configured = directories.on_this_machine(afresh())
    return Keys(rendezvous.prepare_journal(configured).parent)


def _reachable(address: str | None) -> str:
    """Return what a client on another machine dials."""
    if address is not None:
        return str(settings.load({"listen": address}).listen)
    running = inquiry.find_here()
    listens = (_port_of(running) if running is not None else "") or afresh().listen
    if not listens:
        raise InvalidError(
            "no broker of this machine listens for others; start it with `notebook-ext broker "
            "start --listen tcp://ADDRESS`, or give --address, where it will be found"
        )
    host, _, port = listens.removeprefix("tcp://").rpartition(":")
    return f"tcp://{_name() if host in _EVERYWHERE else host}:{port}"


def _port_of(running: Connection) -> str:
    """Return where a broker listens for other machines; a socket (of `ssh://`) is no such place."""
    return running.door if running.door.startswith("tcp:") else ""


def _name() -> str:
    with contextlib.suppress(OSError):
        return socket.getfqdn()
    return os.uname().nodename
