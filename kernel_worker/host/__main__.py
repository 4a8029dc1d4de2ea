"""`python -m kernel_worker.host --connection FILE`: the agent of this machine.

There is one beside a connection file. It ends, with all of its workers, when its broker says so, or
some time after that is gone (`agent`). It leads a session of its own, so that the signals of a
terminal or a notebook kernel do not reach it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

from kernel_worker import images, settings
from kernel_worker.errors import Error
from kernel_worker.host import log, orphans, resources, templates
from kernel_worker.host.agent import Agent
from kernel_worker.model import HostId
from kernel_worker.rendezvous import claim_agent, machine_id, read_connection


def main(arguments: list[str] | None = None) -> int:
    """Be the agent; return the exit status."""
    options = _parser().parse_args(arguments)
    with contextlib.suppress(PermissionError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.early and not _told():
        return 0
    try:
        connection = read_connection(options.connection)
        if connection is None:
            raise FileNotFoundError(options.connection)
        offered = resources.measure(options.max_workers, options.gpus)
        configured = settings.load(start="/")
        log.begin(configured.log_format)
    except (Error, OSError) as error:
        log.say(f"{error}")
        return 1
    orphans.become_subreaper()
    images.prune_at_start(configured)  # it forks, too: before there is a lifeline
    lifeline = os.pipe2(os.O_CLOEXEC)
    base = templates.fork_base(*lifeline)  # before there is a thread
    path = str(Path(options.connection).absolute())
    if claim_agent(path) is None:  # behind the fork, which would have the lock too
        log.say(f"another one lives beside {path}")
        return 1
    grace_seconds = configured.broker_grace_seconds
    host = HostId("-".join(["ho", *filter(None, [options.name]), os.urandom(8).hex()]))
    agent = Agent(
        host,
        connection.address,
        path,
        offered,
        lifeline,
        machine_id(),
        grace_seconds,
        partial(images.folder_of, configured),
        configured.device_locks,
    )
    agent.is_far = options.far
    if configured.check_packages:
        agent.compare_packages(options.name or os.uname().nodename)
    agent.templates.adopt_base(base, sys.executable, dict(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    # It looks at every process, which the first call need not wait for.
    agent.soon(partial(orphans.end_those_of_a_former_agent, path, connection.pid))
    agent.run()
    return 0


def _told() -> bool:
    """Load what workers need, then wait; return whether the broker is there now."""
    templates.load()
    word = os.read(0, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return bool(word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernel_worker.host", description=__doc__)
    limit = os.environ.get("NOTEBOOK_EXT_MAX_WORKERS", "")
    parser.add_argument("--connection", required=True, help="the broker's connection file")
    parser.add_argument(
        "--max-workers",
        type=int,
        default=int(limit) if limit.isdigit() else None,
        help="at most so many workers run user code at once",
    )
    parser.add_argument(
        "--gpus",
        default=os.environ.get("NOTEBOOK_EXT_GPUS", ""),
        help="auto, none, or indices such as 0,2",
    )
    parser.add_argument("--name", default="", help="a part of the host's id, for people")
    parser.add_argument(
        "--early",
        action="store_true",
        help="begin when a byte on stdin says so",
    )
    parser.add_argument("--far", action="store_true", help="the broker is on another machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
