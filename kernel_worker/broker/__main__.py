"""`python -m kernel_worker.broker`: the broker's process. Clients start it (`rendezvous`).

Started with `--ready-fd` it detaches itself, and says through that descriptor that it listens, or
that it cannot (its log says why). Where it was killed before that, nothing is said.
Configured by `NOTEBOOK_EXT_*` environment variables alone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

from kernel_worker.broker.log_limit import LogLimit
from kernel_worker.errors import Error

if TYPE_CHECKING:
    from kernel_worker.rendezvous import Connection
    from kernel_worker.settings import Settings

_WHY_BYTES = 2000
_MOST_LEASES = 1 << 44
"""More than a broker gives in months."""

_log = logging.getLogger(__name__)


def main() -> int:
    """Be the broker until it ends; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kernel_worker.broker", description=__doc__)
    parser.add_argument("--ready-fd", type=int, default=-1, help="where to say that it listens")
    parser.add_argument("--no-host", action="store_true", help="start no host agent")
    arguments = parser.parse_args()
    if arguments.ready_fd >= 0 and os.fork():
        os._exit(0)  # whoever started us has no child to reap, and cannot take us with it
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s broker[{os.getpid()}] %(levelname)s %(message)s",
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    starter = _Starter(arguments.ready_fd)
    try:
        return _serve(starter, with_agent=not arguments.no_host)
    except Error as error:  # what it says is enough for whoever reads the end of the log
        _log.error("the broker ends: %s", error)
        starter.fail(str(error))
    except Exception:  # noqa: BLE001  its log is all that anybody will see
        _log.exception("the broker ends")
        starter.fail()
    return 1


def _serve(starter: _Starter, *, with_agent: bool) -> int:
    from kernel_worker import keys, rendezvous, settings  # noqa: PLC0415  after the fork

    configured = settings.load(start="/")
    if configured.log_format == "json":
        from kernel_worker.broker.log_json import JsonLines  # noqa: PLC0415  where it is asked for

        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    directory = rendezvous.prepare_directory(configured)
    lock = rendezvous.claim(directory)
    if lock is None:
        _log.info("another broker lives in %s", directory)
        starter.tell(rendezvous.READY)
        return 0
    path, agent = str(directory / "connection.json"), None
    if with_agent:
        _check_devices(configured)
        from kernel_worker.broker.agent import begin_early  # noqa: PLC0415  only with one

        agent = begin_early(path)
    from kernel_worker.journal.thread import Journal  # noqa: PLC0415  while the agent loads

    place = rendezvous.prepare_journal(configured)
    journal = Journal(place, configured.result_ttl_seconds)
    from kernel_worker.broker.loop import Broker  # noqa: PLC0415  while the journal opens

    socket = rendezvous.socket_path(directory)
    socket.unlink(missing_ok=True)
    former = rendezvous.killed(directory)
    connection = rendezvous.Connection(
        address=f"ipc://{socket}",
        pid=os.getpid(),
        incarnation=os.urandom(4).hex(),
        machine=rendezvous.machine_id(),
        path=path,
        door=former.door if former is not None else "",
        links=former.links if former is not None else (),
        leases_from=_leases_from(former),
        payload_key=str(keys.payload_key_of(place.parent)),
    )
    try:
        broker = Broker(configured, connection, journal, with_agent=with_agent, early_agent=agent)
        _allow_files()  # behind what goes by the limit that we were started with
        rendezvous.publish(broker.connection)
        _log.info(
            "listens on %s",
            " and ".join(filter(None, [connection.address, broker.connection.door])),
        )
        starter.tell(rendezvous.READY)
        broker.run()
    finally:
        socket.unlink(missing_ok=True)
        os.close(lock)
    return 0


def _check_devices(configured: Settings) -> None:
    """Look whether the devices are there that were named, while somebody waits for an answer.

    Raises:
        InvalidError: one is not: no host agent of this broker could start.
    """
    if configured.gpus:
        from kernel_worker import gpus  # noqa: PLC0415  where there are any

        gpus.devices(",".join(map(str, configured.gpus)))


def _allow_files() -> None:
    """Take as many descriptors as the system gives: each peer here is one.

    libzmq ends a process that has none left for a peer of its own machine.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leases_from(former: Connection | None) -> int:
    """Return what the ids of leases are to be above.

    Those that a broker before this one gave, whose workers may live on, are below it: by the clock,
    and by what that one began with where the clock was set back.
    """
    by_clock = int(time.time() * 16) << 24
    return by_clock if former is None else max(by_clock, former.leases_from + _MOST_LEASES)


class _Starter:
    """Whoever started the broker and waits for one word."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, word: bytes) -> None:
        """Say `word`, unless something was said before."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has gone meanwhile, and others may come
                os.write(descriptor, word)
            os.close(descriptor)

    def fail(self, why: str = "") -> None:
        """Say that there is no broker, and why, where a line can say that."""
        from kernel_worker.rendezvous import FAILED  # noqa: PLC0415  as in `_serve`

        said = b" ".join([FAILED, *filter(None, [why.encode()[:_WHY_BYTES]])])
        self.tell(said)


if __name__ == "__main__":
    sys.exit(main())
