"""The images of this machine: environments that were built once, by what they were built from.

    <data_dir>/images-<machine>/
      im-<digest>/             a virtual environment
        notebook-ext.json      says that it is complete, and what is in it; its time is the last use
      im-<digest>.lock         flocked: alone by whoever builds or removes it, shared by who uses it
      fi-<digest>/             files that lie beside images, in the same way

Theory. A virtual environment holds its own path, so that it cannot be built elsewhere and renamed.
Instead the file that says that it is complete is put there last, by a rename: what was left half
made has none, and whoever has the lock removes it. The kernel lets a lock go with the last process
that has it open, and the installers that a builder starts have it open too: nothing is ever changed
that another process still writes.

Guarantees: what `use` returns is complete and stays until the file that it returns is closed.
Not guaranteed: that nobody else changes files in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kernel_worker import directories
from kernel_worker.model import digest_of
from kernel_worker.rendezvous import machine_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kernel_worker.model import ImageSpec
    from kernel_worker.settings import Settings

COMPLETE = "notebook-ext.json"
_ENVIRONMENT, _FILES = "im-", "fi-"


class About(msgspec.Struct, frozen=True):
    """What is in an image."""

    title: str
    python: str = ""
    """The interpreter that it was made with."""
    seconds: float = 0.0
    """How long it took."""
    bytes: int = 0


class Kept(NamedTuple):
    """An image, or the files beside one, in the cache."""

    name: str
    path: Path
    about: About
    used_at: float
    """Unix seconds."""


def folder_of(settings: Settings) -> Path:
    """Return where the images of this machine lie.

    Raises:
        InvalidError: this is no directory of this user's alone, or cannot be made.
    """
    settings = directories.on_this_machine(settings)
    name = f"images-{machine_name()}"
    return directories.prepare(settings.data_dir, name, directories.DATA)


def name_of(image: ImageSpec, python: str) -> str:
    """Return what an image is called that is made with the interpreter `python`."""
    steps = [
        msgspec.structs.replace(step, content=b"") if step.stamp else step for step in image.steps
    ]
    made_with = os.path.realpath(python)
    what = msgspec.msgpack.encode((steps, sorted(image.constraints), made_with))
    return _ENVIRONMENT + digest_of(what)[:20]


def name_of_files(image: ImageSpec) -> str:
    """Return what the files beside an image are called; empty where there are none."""
    if not image.files:
        return ""
    return _FILES + digest_of(msgspec.msgpack.encode(image.files))[:20]


def python_of(path: Path) -> Path:
    """Return the interpreter of an image."""
    return path / "bin" / "python"


def use(folder: Path, name: str) -> int | None:
    """Return an open file that keeps an image there, or None where it is not, or not complete."""
    lock = _open_lock(folder, name)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # somebody builds or removes it
        os.close(lock)
        return None
    if note_use(folder, name):
        return lock
    os.close(lock)
    return None


def note_use(folder: Path, name: str) -> bool:
    """Note that an image is used now, which is kept there; return whether it is complete."""
    try:
        os.utime(folder / name / COMPLETE)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def alone(folder: Path, name: str, *, waits: bool = True) -> Iterator[int]:
    """Be the only one who has to do with an image; give the file that must be open for that.

    Raises:
        BlockingIOError: somebody else has, and this does not wait.
    """
    lock = _open_lock(folder, name)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield lock
    finally:
        os.close(lock)


def is_complete(path: Path) -> bool:
    """Say whether what lies there was made to the end."""
    return (path / COMPLETE).is_file()


def complete(path: Path, about: About) -> None:
    """Say that what lies there is complete."""
    about = msgspec.structs.replace(about, bytes=size_of(path))
    new = path / f"{COMPLETE}.new"
    new.write_bytes(msgspec.json.encode(about))
    new.replace(path / COMPLETE)


def kept(folder: Path) -> list[Kept]:
    """Return what is in the cache and complete, the last used first."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            about = msgspec.json.decode((path / COMPLETE).read_bytes(), type=About)
            found.append(Kept(path.name, path, about, (path / COMPLETE).stat().st_mtime))
    return sorted(found, key=lambda one: -one.used_at)


def prune(folder: Path, unused_seconds: float, names: Iterable[str] = ()) -> list[Kept]:
    """Remove what nobody has used for so long, and what was left half made; return the former.

    Args:
        folder: where they lie.
        unused_seconds: at least; 0 is all of them but what is in use.
        names: only these, where some are given.
    """
    now, removed, wanted = time.time(), [], set(names)
    known = {one.name: one for one in kept(folder)}
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        one = known.get(path.name)
        if wanted and path.name not in wanted:
            continue
        if one is not None and now - one.used_at < unused_seconds:
            continue
        with contextlib.suppress(BlockingIOError), alone(folder, path.name, waits=False):
            if one is not None and _was_used_since(one):
                continue
            remove(path)
            removed += [one] if one is not None else []
    return removed


def prune_at_start(settings: Settings) -> None:
    """Remove what nobody has used for `image_ttl`, in a process of its own where there is any."""
    settings = directories.on_this_machine(settings)
    folder = settings.data_dir / f"images-{machine_name()}"
    try:
        oldest = min((one.used_at for one in kept(folder)), default=time.time())
    except OSError:
        return
    if time.time() - oldest < settings.image_ttl_seconds or os.fork():
        return
    try:
        os.setsid()
        prune(folder, settings.image_ttl_seconds)
    finally:
        os._exit(0)


def remove(path: Path) -> None:
    """Remove what lies there: first what says that it is complete."""
    import shutil  # noqa: PLC0415  the host agent hardly ever needs it

    (path / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def size_of(path: Path) -> int:
    """Return how many bytes lie below `path`; what is linked counts nothing."""
    total = 0
    for here, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size  # noqa: PTH118  thousands
    return total


def _was_used_since(one: Kept) -> bool:
    try:
        return (one.path / COMPLETE).stat().st_mtime > one.used_at
    except OSError:
        return False


def _open_lock(folder: Path, name: str) -> int:
    return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
