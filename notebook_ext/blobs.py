"""The store of this process: where large buffers of the calls that it waits for lie.

There is one while there is a session with a broker of this machine, if it can be made; where there
is none, buffers go with the messages. `here` says which (an attribute each: it is asked for with
every call).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_worker import context, rendezvous
from kernel_worker.errors import InvalidError
from notebook_ext import dropping

if TYPE_CHECKING:
    from kernel_worker.store.blobs import Accounts
    from kernel_worker.store.owning import Store
    from kernel_worker.wire.payload import Keep
    from notebook_ext.session import Session

_log = logging.getLogger("notebook_ext")


class _Here:
    """The store, if there is one."""

    directory = ""
    """Where it lies."""
    keep: Keep | None = None
    """What puts buffers there."""
    accounts: Accounts | None = None
    store: Store | None = None


here = _Here()


def begin(session: Session) -> None:
    """Make the store of a session, where its calls are not sealed: those have nothing in clear."""
    end()
    if session.is_far or context.seals or is_elsewhere():
        return
    from kernel_worker.store.blobs import Accounts  # noqa: PLC0415  with the first session
    from kernel_worker.store.owning import Store  # noqa: PLC0415  likewise

    try:
        store = Store(_meeting_place(session), session.client, session.settings.store_mib << 20)
    except (OSError, InvalidError) as error:
        _log.debug("large values go with the messages: there is no store: %s", error)
        return
    here.store = store
    here.directory = str(store.directory)
    here.accounts = Accounts(here.directory, dropping.when_dropped, lambda: session.is_idle)
    here.keep = here.accounts.keep


def is_elsewhere() -> bool:
    """Return whether this is a worker on another machine than its broker."""
    identity = context.worker_identity
    found = None if identity is None else rendezvous.read_connection(identity.connection_file)
    return found is not None and found.is_outpost


def _meeting_place(session: Session) -> Path:
    identity = context.worker_identity
    if identity is not None:
        return Path(identity.connection_file).parent
    return rendezvous.prepare_directory(session.settings)


def end() -> None:
    """Remove the store; what is mapped of it stays as it is."""
    store, here.store = here.store, None
    here.directory, here.keep, here.accounts = "", None, None
    if store is not None:
        store.close()


def taken(frames: list[bytes]) -> list[bytes]:
    """Return a batch that came, its buffers accounted for, where they are in this store."""
    return frames if here.accounts is None else here.accounts.taken(frames)
