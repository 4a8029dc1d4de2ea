"""The one session of this process, made by the first call and closed at exit.

A process that was forked makes its own. The session's machinery (zmq and all) is imported when it
is made: importing `notebook_ext` alone stays light.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_worker.settings import Settings
    from notebook_ext.session import Session


class _Current:
    """The session of this process, if there is one."""

    session: Session | None = None
    lock = threading.Lock()


def current() -> Session:
    """Return the session that this process's calls go through; make it if there is none."""
    session = _Current.session
    if session is not None and session.is_usable:
        return session
    with _Current.lock:
        if _Current.session is None or not _Current.session.is_usable:
            from notebook_ext import blobs, shell_interrupts  # noqa: PLC0415  see the docstring
            from notebook_ext.session import Session  # noqa: PLC0415  likewise

            if _Current.session is not None:
                _Current.session.close()  # its thread has ended by itself: what else it has goes
            _Current.session = Session()
            blobs.begin(_Current.session)
            shell_interrupts.shorten()
            _revive_gateway(_Current.session)
        return _Current.session


def _revive_gateway(session: Session) -> None:
    """Have deployed endpoints served again, where there are any and nobody does."""
    from kernel_worker import context  # noqa: PLC0415  a session has it

    settings = session.settings
    if context.worker_identity is not None or settings.connection_file is not None:
        return
    if endpoints_file(settings).exists():
        from notebook_ext.web import deployed  # noqa: PLC0415  rarely

        deployed.revive()


def endpoints_file(settings: Settings) -> Path:
    """Return where deployed endpoints are listed, once there were any; see `web.deployed`."""
    from kernel_worker import directories, rendezvous  # noqa: PLC0415  as above

    settings, _ = directories.instead_of_network(settings)
    return rendezvous.journal_path(settings).with_name("web-endpoints.json")


def connected() -> Session | None:
    """Return the session of this process if there is one."""
    session = _Current.session
    return session if session is not None and session.is_usable else None


def is_far() -> bool:
    """Return whether calls go, or will go, to a broker on another machine."""
    session = _Current.session
    if session is not None:
        return session.is_far
    from kernel_worker import context  # noqa: PLC0415  not for an import alone
    from notebook_ext.config import current as settings_in_force  # noqa: PLC0415  likewise

    return settings_in_force().connection_file is not None and context.worker_identity is None


def close() -> None:
    """Close the session, if there is one; the next call makes another."""
    with _Current.lock:
        session, _Current.session = _Current.session, None
    if session is not None:
        from notebook_ext import blobs  # noqa: PLC0415  there is one

        session.close()
        blobs.end()


def _forget() -> None:
    """Leave the parent's session alone in a process that was forked."""
    _Current.session = None
    _Current.lock = threading.Lock()


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
