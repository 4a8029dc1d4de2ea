"""`python -m kernel_worker.providers TARGET`: a provider's agent, one for each engine and broker.

Beside the broker it finds that by itself and invites its hosts; elsewhere (on the head of a
cluster, in its Python) `--connect` and `--hosts` name the connection files that it needs.

In its directory lie `lock`, held as long as it lives, with its pid in it; `prefix`, how the names
of its hosts begin; and `invitation.json`, their connection file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker import directories, keys, rendezvous, settings
from kernel_worker.errors import ConnectionError, Error, InvalidError  # noqa: A004  ours
from kernel_worker.providers import target as targets
from kernel_worker.providers.agent import Agent
from kernel_worker.providers.asking import Asking
from kernel_worker.providers.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.providers.provider import Provider
    from kernel_worker.providers.target import Target
    from kernel_worker.rendezvous import Connection
    from kernel_worker.settings import Settings

_PROVIDERS = {
    "local": "LocalProvider",
    "ray": "RayProvider",
    "dask": "DaskProvider",
    "slurm": "SlurmProvider",
}
_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Be the agent; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.ready_fd >= 0 and os.fork():
        os._exit(0)  # whoever started us has no child to reap
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s provider[{os.getpid()}] %(levelname)s %(message)s"
    )
    try:
        said = _serve(options)
        _tell(options.ready_fd, said)
    except (Error, OSError) as error:
        _tell(options.ready_fd, f"failed {type(error).__name__} {error}")
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


def _serve(options: argparse.Namespace) -> str:
    given = dict(word.split("=", 1) for word in options.option)
    target = targets.parse(options.target, given)
    configured = settings.load(start="/")
    directory = directory_of(configured, target.name)
    lock = _claim(directory)
    if lock is None:
        return f"ready {target.engine}: its agent runs already"
    if options.connect is not None:
        invitation = keys.read(options.hosts.expanduser().absolute(), "host")
        asking = Asking(lambda: rendezvous.elsewhere(options.connect.expanduser().absolute()))
    else:
        asking = Asking(lambda: rendezvous.find(configured))
        invitation = _invited(configured, directory, target)
    prefix = _prefix(directory, target)
    provider = _opened(target, directory, prefix, msgspec.json.encode(invitation))
    fleet = Fleet(target, f"{prefix}-{os.urandom(3).hex()}")
    agent = Agent(provider, asking, fleet)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: agent.end())
    offered = fleet.offers(provider.shapes())
    described = "; ".join(
        f"{shape.cpu:g} CPUs, {len(shape.devices)} GPUs each" for shape in offered
    )
    text = f"{target.engine}: up to {target.max_hosts} hosts of {described or 'what is to come'}"
    _log.info("%s", text)
    _tell(options.ready_fd, f"ready {text}")
    agent.run()
    os.close(lock)
    return ""


def directory_of(configured: Settings, name: str) -> Path:
    """Return where an agent keeps what it has, made if need be."""
    place = rendezvous.prepare_journal(directories.on_this_machine(configured)).parent / "providers"
    directories.make_private(place, directories.DATA)
    directories.make_private(place / name, directories.DATA)
    return place / name


def _claim(directory: Path) -> int | None:
    """Become the agent of a directory; None where another one lives."""
    lock = rendezvous.claim(directory)
    if lock is not None:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _prefix(directory: Path, target: Target) -> str:
    """Return how the names of an agent's hosts begin: the same for the one that follows it."""
    file = directory / "prefix"
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="ascii")
    prefix = f"{target.engine}-{os.urandom(3).hex()}"
    file.write_text(prefix, encoding="ascii")
    return prefix


def _invited(configured: Settings, directory: Path, target: Target) -> keys.Invitation:
    """Return the connection file of the hosts of this machine's broker."""
    broker = rendezvous.find(configured)
    if broker is None or not broker.door:
        raise ConnectionError(
            "no broker of this machine listens for hosts; start it with `notebook-ext broker start "
            "--listen tcp://ADDRESS`"
        )
    address = _reachable(broker)
    file = directory / "invitation.json"
    name = f"{_prefix(directory, target)}.hosts"
    made = keys.Keys(rendezvous.prepare_journal(directories.on_this_machine(configured)).parent)
    if file.exists() and name in made.listed("host").values():
        with contextlib.suppress(InvalidError):
            found = keys.read(file, "host")
            return msgspec.structs.replace(found, address=address)
    if name in made.listed("host").values():
        made.revoke(name)
    invitation = made.invite(name, address, "host")
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        output.write(msgspec.json.encode(invitation))
    return invitation


def _reachable(broker: Connection) -> str:
    host, _, port = broker.door.removeprefix("tcp://").rpartition(":")
    if host in {"*", "0.0.0.0", "[::]"}:  # noqa: S104  looked for, not bound
        host = os.uname().nodename
    return f"tcp://{host}:{port}"


def _opened(target: Target, directory: Path, prefix: str, invitation: bytes) -> Provider:
    """Return the provider of a target's engine, whose library is imported here and nowhere else."""
    try:
        room = importlib.import_module(f"kernel_worker.providers.{target.engine}")
    except ModuleNotFoundError as error:
        raise InvalidError(
            f"{target.engine}:// needs {error.name}, which is not installed here: "
            f'pip install "notebook-ext[{target.engine}]", in the version that the cluster has'
        ) from error
    make: Callable[..., Any] = getattr(room, _PROVIDERS[target.engine])
    made: Provider = make(target, directory, prefix, invitation)
    return made


def _tell(descriptor: int, text: str) -> None:
    """Say how it went to whoever started this and waits."""
    if descriptor >= 0 and text:
        with contextlib.suppress(OSError):  # it has gone, or was told
            os.write(descriptor, text.encode()[:4000])
            os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernel_worker.providers", description=__doc__)
    parser.add_argument("target", help="such as ray://auto")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE, of the target")
    parser.add_argument("--connect", type=Path, help="a client's connection file")
    parser.add_argument("--hosts", type=Path, help="a host's, for those that are to be placed")
    parser.add_argument("--ready-fd", type=int, default=-1, help="where to say that it serves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
