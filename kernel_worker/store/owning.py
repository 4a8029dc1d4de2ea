"""Whose a store is, where it lies, and how what a dead client has left is swept.

Theory. All stores of one user lie in one directory, in memory where there is any: `/dev/shm`; else
beside the broker's socket. A client holds a lock for as long as it lives, on a file
beside its store; a store whose lock can be had belongs to nobody, and goes. The broker looks when a
client has gone, and each client when it begins: so what a crash leaves lasts until somebody comes.

Guarantees: a store of a living client is never touched; directories are mode 0700.
Not guaranteed: that a store goes whose client was killed together with the broker, before the next
one comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker import directories
from kernel_worker.store import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108  ours below it is 0700, and checked
FREE_SECONDS: Final = 30.0
"""A free segment that nobody has used for so long goes."""
_NAME: Final = f"notebook-ext-{os.getuid()}"
_LOCK: Final = ".lock"
_ON_DISK: Final = "store"
_TRIES: Final = 100


def root_of(broker: Path) -> Path:
    """Return where the stores of the clients of a broker lie, by its runtime directory."""
    if os.access(MEMORY, os.W_OK | os.X_OK) and directories.filesystem_of(MEMORY) == "tmpfs":
        return MEMORY / _NAME
    return broker / _ON_DISK


class Store:
    """The store of this process: there from `__init__` to `close`."""

    def __init__(self, broker: Path, name: str, limit_bytes: float) -> None:
        """Make the store `name`, after a look for those that are nobody's.

        Args:
            broker: the runtime directory of the broker.
            name: nobody else's.
            limit_bytes: how much of it may lie in memory.

        Raises:
            OSError: it cannot be made.
            InvalidError: its directory is not this user's alone.
        """
        self._root = root_of(broker)
        self._disk = broker / _ON_DISK
        self._pid = os.getpid()
        sweep(broker)
        self._lock = _locked_in(self._root, f"{name}{_LOCK}")
        self.directory = self._root / name
        self.directory.mkdir(mode=0o700)
        (self.directory / f"{segments.LIMIT}{limit_bytes}").touch(mode=0o600)
        if self._root != self._disk:
            directories.make_private(self._disk)
            (self._disk / name).mkdir(mode=0o700)
            (self.directory / segments.DISK).symlink_to(self._disk / name)

    def close(self) -> None:
        """Remove it, and what it lies in if nobody else has anything there. Repeatable."""
        if self._lock >= 0 and self._pid == os.getpid():
            _remove(self.directory)
            os.close(self._lock)
            self._lock = -1
            _leave(self._root, self._disk)


def sweep(broker: Path, now: float | None = None) -> int:
    """Remove the stores of clients that are gone, and old free segments of the others.

    Args:
        broker: the runtime directory of the broker.
        now: seconds since the epoch, by the clock of files.

    Returns:
        How many bytes are left, in segments.
    """
    root, left = root_of(broker), 0
    before = (time.time() if now is None else now) - FREE_SECONDS
    for store in _stores(root):
        lock = store.with_name(f"{store.name}{_LOCK}")
        with _if_dead(lock) as is_dead:
            if is_dead:
                _remove(store)
                continue
        for entry in segments.entries(os.fspath(store)):
            if entry.is_free and _changed_at(store / entry.name) < before:
                segments.remove(os.fspath(store), entry.name)
            else:
                left += entry.size_bytes
    _leave(root, broker / _ON_DISK)
    return left


def held_by_client(root: Path | None = None) -> dict[str, int]:
    """Return how many bytes each store of this user in shared memory takes, by its client."""
    stores = _stores(MEMORY / _NAME if root is None else root)
    taken = {store.name: segments.entries(os.fspath(store)) for store in stores}
    return {name: sum(each.size_bytes for each in found) for name, found in taken.items()}


def _stores(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        locks = [each for each in root.iterdir() if each.suffix == _LOCK]
        return [each.with_suffix("") for each in locks]
    return []


def _locked_in(root: Path, name: str) -> int:
    """Return a lock file, locked, in a directory that others remove where it is empty."""
    for _ in range(_TRIES):
        directories.make_private(root)
        with contextlib.suppress(FileNotFoundError):
            return _locked(root / name)
    raise FileNotFoundError(f"{root} is removed again and again")


def _locked(path: Path) -> int:
    """Return a lock file, locked; who sweeps may remove it just before."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)


@contextlib.contextmanager
def _if_dead(lock: Path) -> Iterator[bool]:
    """Say whether nobody holds a lock file; then it is held meanwhile, and goes."""
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False  # somebody else was quicker
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(file)


def _remove(store: Path) -> None:
    disk = store / segments.DISK
    with contextlib.suppress(OSError):
        shutil.rmtree(disk.readlink(), ignore_errors=True)
    shutil.rmtree(store, ignore_errors=True)
    store.with_name(f"{store.name}{_LOCK}").unlink(missing_ok=True)


def _leave(root: Path, disk: Path) -> None:
    for directory in (root, disk):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except OSError:
        return 0.0
