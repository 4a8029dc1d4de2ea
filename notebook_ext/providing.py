"""Machines of a cluster for this machine's broker: a provider's agent is started, listed, ended.

The agent (`kernel_worker.providers`) is a detached process, one for each cluster; it outlives this
one. The broker has to listen for the hosts that come: one that does not is started anew where no
call is open.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kernel_worker import directories, rendezvous, settings
from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from kernel_worker.providers import slurm_commands
from kernel_worker.providers.target import parse
from notebook_ext import exception, inquiry, inviting, process
from notebook_ext.config import afresh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.providers.target import Target

LIMIT_SECONDS: Final = 90.0
"""How long an engine may take to answer: importing its library alone takes some seconds."""
END_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_SOMEWHERE: Final = ("192.0.2.1", 9)
"""An address of nobody (RFC 5737): the way there says which of this machine's others see."""


def begin(target: str, options: Mapping[str, object], listen: str | None = None) -> str:
    """Have hosts come from a cluster when they are needed; return what to tell the user.

    Args:
        target: such as `ray://auto`.
        options: of the target.
        listen: where the broker is to listen for the hosts.

    Raises:
        InvalidError: `target` or an option is not allowed; or the broker does not listen, and calls
            are open on it.
        VersionError: the cluster has other versions.
        ConnectionError: it cannot be reached.
    """
    _let_broker_listen(parse(target, options), target, listen)
    said = _start(target, options)
    word, _, rest = said.partition(" ")
    if word == "ready":
        return rest
    name, _, why = rest.partition(" ")
    if word != "failed":
        raise ConnectionError(f"the agent for {target} died while it started: see {_log()}")
    raise exception.named(name)(why)


def living() -> dict[str, int]:
    """Return the clusters that have an agent here, each with the agent's process id."""
    found = {}
    for directory in sorted(_place().glob("*/")):
        lock = rendezvous.claim(directory)
        if lock is not None:
            os.close(lock)
            continue
        with contextlib.suppress(OSError, ValueError):
            found[directory.name] = int((directory / "lock").read_text(encoding="ascii"))
    return found


def name_of(target: str) -> str:
    """Return what the agent of a cluster is called here."""
    return parse(target).name


def end(name: str) -> int:
    """Have an agent give all hosts back and end; return its process id.

    Raises:
        NotFoundError: there is none of that name.
        ConnectionError: it is still there after `END_SECONDS`.
    """
    agents = living()
    if name not in agents:
        there = ", ".join(agents) or "none"
        raise exception.NotFoundError(f"no agent {name!r} runs here; there is: {there}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(agents[name], signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while agents[name] == living().get(name):
        if time.monotonic() > deadline:
            raise ConnectionError(f"the agent {name} (pid {agents[name]}) is still there")
        time.sleep(_POLL_SECONDS)
    return agents[name]


def _let_broker_listen(cluster: Target, target: str, listen: str | None) -> None:
    running = inquiry.find_here()
    if running is not None and running.door and listen in {None, running.door}:
        return
    if running is not None:
        with inquiry.Inquiry(running) as asking:
            calls = len(asking.status().calls)
        if calls:
            where = f"at {listen}" if listen else "for hosts"
            raise InvalidError(
                f"{target}: the broker of this machine (pid {running.pid}) does not listen {where}"
                f", and {calls} call(s) are open on it; call this again when they have ended"
            )
        process.close()
        inquiry.stop()
    inviting.listen(listen or afresh().listen or f"tcp://{_seen_as(cluster)}:0")


def _seen_as(cluster: Target) -> str:
    """Return the address of this machine that a cluster's machines see."""
    if cluster.engine == "local":
        return "127.0.0.1"
    address = cluster.address
    if cluster.engine == "slurm":
        address = slurm_commands.address(address)
    if address in {"", "auto"}:
        address = os.environ.get("RAY_ADDRESS", "")
    host = address.rpartition(":")[0].strip("[]") if ":" in address else address
    with contextlib.suppress(OSError):
        family, _, _, _, to = socket.getaddrinfo(host or _SOMEWHERE[0], 9, type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(to)  # nothing is sent
            return str(way.getsockname()[0])
    return "127.0.0.1"


def _start(target: str, options: Mapping[str, object]) -> str:
    """Start an agent; return what it says, or nothing."""
    said = [f"{name}={value}" for name, value in options.items() if value is not None]
    ready, answer = os.pipe()
    command = [sys.executable, "-P", "-m", "kernel_worker.providers", target]
    for each in said:
        command += ["--option", each]
    try:
        with (
            _log().open("ab") as log,
            subprocess.Popen(
                [*command, "--ready-fd", str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                pass_fds=[answer],
                start_new_session=True,
            ),
        ):
            pass  # it forks at once, so that the agent is nobody's child
        os.close(answer)
        answer = -1
        poller = select.poll()
        poller.register(ready, select.POLLIN | select.POLLHUP)
        if not poller.poll(LIMIT_SECONDS * 1000):
            raise ConnectionError(f"{target} did not answer within {LIMIT_SECONDS:g} s")
        return os.read(ready, 4096).decode(errors="replace")
    finally:
        for descriptor in (ready, answer):
            if descriptor >= 0:
                os.close(descriptor)


def _environment() -> dict[str, str]:
    found: dict[str, Any] = {**os.environ, **settings.as_environment(afresh())}
    found.pop("NOTEBOOK_EXT_CONNECTION_FILE", None)  # it is this machine's broker that has hosts
    for name in ("JPY_PARENT_PID", *rendezvous.WORKER_MARKS):
        found.pop(name, None)
    root = str(Path(__file__).parents[1])
    if not root.endswith(("site-packages", "dist-packages")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [root, found.get("PYTHONPATH", "")]))
    return found


def _place() -> Path:
    """Return the directory of all agents here, made if need be."""
    configured = directories.on_this_machine(afresh())
    place = rendezvous.prepare_journal(configured).parent / "providers"
    directories.make_private(place, directories.DATA)
    return place


def _log() -> Path:
    return _place() / "log"
