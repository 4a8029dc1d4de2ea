"""The directories that everything lies in: made and checked, or refused in one line.

Two are configured, the *runtime directory* (sockets, locks, connection files, logs) and the *data
directory* (the journal and its key). Each broker has a directory of its own below both, mode 0700.

Theory. Who can write to a directory can put another one in the place of ours, and who owns ours
reads what is secret and decides what workers run. So both are looked at before anything in them is.
A home directory on a network file system is no place for the journal: locks there may be refused,
or hold on one machine alone. Where nobody chose it, a directory of this machine takes its place.

Guarantees: what `prepare` returns is a directory of this user that nobody else can enter, in one
that nobody else can write to (or none but their own entries of: the sticky bit). Anything else is
an `InvalidError` of one line that names the directory, the problem and the remedy.
Not guaranteed: anything about the directories above those; and that there is still room tomorrow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.settings import Settings

RUNTIME: Final = "NOTEBOOK_EXT_RUNTIME_DIR"
DATA: Final = "NOTEBOOK_EXT_DATA_DIR"
NETWORK: Final = re.compile(
    r"afs|beegfs|ceph|cifs|fuse\.(ceph|glusterfs|sshfs)|gpfs|lustre|nfs4?|panfs|pvfs2|smb3|smbfs"
)
"""File systems of other machines, as the kernel calls them."""
MOUNTS = Path("/proc/self/mountinfo")
LOCAL = Path("/var/tmp")  # noqa: S108  ours below it is 0700, and checked; it outlives a reboot
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

_log = logging.getLogger(__name__)


def prepare(root: Path, name: str, variable: str) -> Path:
    """Return the directory `name` in `root`; both are made where they are missing, and checked.

    Args:
        root: what is configured.
        name: of this user's broker.
        variable: the environment variable that sets `root`, for the message.

    Raises:
        InvalidError: one is not this user's alone, or cannot be made.
    """
    with refusing(root, variable):
        if not os.path.lexists(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            make_private(root, variable)
        _check_root(root, variable)
        make_private(root / name, variable)
        return root / name


def make_private(directory: Path, variable: str = RUNTIME) -> None:
    """Create `directory` where it is missing; refuse it where it is not this user's alone."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    _check_owner(directory, status, variable)
    if status.st_mode & 0o077:
        problem = f"can be entered by others (mode {stat.S_IMODE(status.st_mode):04o}, not 0700)"
        raise _unsafe(directory, problem, f"`chmod 700 {directory}`", variable)


@contextlib.contextmanager
def refusing(directory: Path, variable: str) -> Iterator[None]:
    """Say of a directory that the system refuses to work with what it says, and what to do."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        if error.filename is not None and str(error.filename) != str(directory):
            said = f"{said} ({error.filename})"
        raise InvalidError(
            f"{directory} cannot be used: {said}; set {variable} to a directory on a disk of this "
            "machine that has room and that you can write to"
        ) from error


def check_locks(directory: Path) -> None:
    """Refuse a data directory on whose file system files cannot be locked, as SQLite does."""
    with refusing(directory, DATA):
        file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another process looks whether they work: they do
        finally:
            os.close(file)


def on_this_machine(settings: Settings) -> Settings:
    """Return what `instead_of_network` does, and say so where that is something else."""
    chosen, notice = instead_of_network(settings)
    if notice:
        _log.warning("notebook_ext: %s", notice)
    return chosen


def instead_of_network(settings: Settings) -> tuple[Settings, str]:
    """Return settings whose data directory is on this machine, unless the user chose another.

    Returns:
        The settings, and a notice where they are not those that were given: the problem, a
        semicolon, what to do.
    """
    if settings.origins.get("data_dir") != "default":
        return settings, ""
    kind = filesystem_of(settings.data_dir)
    if not NETWORK.fullmatch(kind):
        return settings, ""
    local = LOCAL / f"notebook-ext-{os.getuid()}"
    notice = (
        f"{settings.data_dir} is on a network file system ({kind}): spawned calls are kept in "
        f"{local}, on this machine alone; set {DATA} to choose a place"
    )
    return dataclasses.replace(settings, data_dir=local), notice


def filesystem_of(path: Path) -> str:
    """Return the type of the file system of `path`, as the kernel calls it; empty if unknown.

    Source: proc_pid_mountinfo(5). The last of several mounts on one point is the one that is seen.
    """
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    found, longest = "", -1
    real = path.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split(" ")[4].replace(r"\040", " "))
        if len(point.parts) >= longest and (real == point or point in real.parents):
            found, longest = rest.split(" ")[0], len(point.parts)
    return found


def _check_root(directory: Path, variable: str) -> None:
    """Refuse a directory in which somebody else could put another one in place of ours."""
    status = directory.lstat()
    _check_owner(directory, status, variable, allowed=0)
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        problem = f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
        raise _unsafe(directory, problem, f"`chmod go-w {directory}`", variable)


def _check_owner(
    directory: Path, status: os.stat_result, variable: str, allowed: int | None = None
) -> None:
    """Refuse what is not a directory of this user (or of `allowed`) by what `lstat` says of it."""
    if stat.S_ISLNK(status.st_mode):
        problem, remedy = "is a symbolic link, which is not accepted", "remove it"
    elif not stat.S_ISDIR(status.st_mode):
        problem, remedy = "is not a directory", "remove it"
    elif status.st_uid not in {os.getuid(), allowed}:
        problem = f"belongs to user {status.st_uid}, not to you ({os.getuid()})"
        remedy = "have it removed"
    else:
        return
    raise _unsafe(directory, problem, remedy, variable)


def _unsafe(directory: Path, problem: str, remedy: str, variable: str) -> InvalidError:
    return InvalidError(f"{directory} {problem}; {remedy}, or set {variable} to another directory")
