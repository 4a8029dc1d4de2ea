"""What is done with the files below one directory: named from there, listed, read, copied, removed.

Names are those of the file system, in any encoding: what is no text in UTF-8 has the surrogates
that Python gives it. A path leads to something in the directory, or is refused: not by `..`, not as
if it began at the root, not by a link to somewhere else (a link itself is listed, read and removed
as what it is).

Not guaranteed: anything of a directory that others move while it is looked at; what they remove
then is left out of a listing.
"""

from __future__ import annotations

import enum
import os
import shutil
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_BYTES: Final = 1024 * 1024
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX: Final = struct.Struct("<I76xqI")
"""What is asked of `struct statx`: stx_mask, and stx_btime's seconds and nanoseconds."""
_AT_FDCWD: Final = -100


class FileEntryType(enum.IntEnum):
    """What an entry of a directory is."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


_TYPES: Final = {
    stat.S_IFREG: FileEntryType.FILE,
    stat.S_IFDIR: FileEntryType.DIRECTORY,
    stat.S_IFLNK: FileEntryType.SYMLINK,
    stat.S_IFIFO: FileEntryType.FIFO,
    stat.S_IFSOCK: FileEntryType.SOCKET,
}


class FileEntry(NamedTuple):
    """One entry of a directory."""

    path: str
    """From the volume's root on, without a slash at its beginning."""
    type: FileEntryType
    mtime: int
    """Unix seconds."""
    size: int
    """In bytes."""


def inside(root: Path, path: str | os.PathLike[str]) -> Path:
    """Return where `path` is below `root`.

    Raises:
        InvalidError: it leads out of it, or can be none.
    """
    text: object = os.fspath(path)
    if not isinstance(text, str) or "\0" in text:
        raise InvalidError(f"path={path!r}: allowed is a str without a zero in it.")
    parts = [part for part in text.split("/") if part not in {"", "."}]
    found = root.joinpath(*parts)
    if ".." in parts or not _is_below(root, found.parent if parts else found):
        raise InvalidError(f"path={path!r}: allowed is one that stays in the volume.")
    return found


def entries(root: Path, found: Path, *, recursive: bool) -> Iterator[FileEntry]:
    """Yield what is in a directory, by name, and (`recursive`) below that; of a file itself.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    if not found.is_dir():
        yield _entry(root, found)
        return
    waiting = _children(found)
    while waiting:
        path = waiting.pop()
        try:
            entry = _entry(root, path)
        except FileNotFoundError:  # somebody has just removed it
            continue
        yield entry
        if recursive and entry.type is FileEntryType.DIRECTORY:
            waiting += _children(path)


def chunks(path: Path) -> Iterator[bytes]:
    """Yield what a file holds, in pieces of up to 1 MiB.

    Raises:
        FileNotFoundError: there is none.
        InvalidError: it is a pipe, a socket or a device, and need have no end.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InvalidError(f"path={path.name!r} is no file: allowed is one.")
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def remove(root: Path, path: str, *, recursive: bool) -> None:
    """Remove a file, a link, or (`recursive`) a directory with all that is in it.

    Raises:
        FileNotFoundError: there is nothing of that name.
        InvalidError: it is a directory, and `recursive` is not set; or it is `root` itself.
    """
    found = inside(root, path)
    if found == root:
        raise InvalidError(f"path={path!r} is the volume: use Volume.delete to remove it.")
    if not found.is_dir() or found.is_symlink():
        found.unlink()
    elif not recursive:
        raise InvalidError(f"path={path!r} is a directory: give recursive=True to remove it.")
    else:
        shutil.rmtree(found)


def copy(root: Path, sources: Sequence[str], target: str, *, recursive: bool) -> None:
    """Copy files as `cp` does: to a file's name, or into a directory.

    Raises:
        FileNotFoundError: there is nothing of one of the names.
        InvalidError: several are to be one file, or one is a directory and `recursive` is not set,
            or is to be copied into itself.
    """
    if isinstance(sources, str):
        raise InvalidError(f"src_paths={sources!r}: allowed is a list of paths.")
    places, into = [inside(root, path) for path in sources], inside(root, target)
    if len(places) > 1 and not into.is_dir():
        raise InvalidError(
            f"dst_path={target!r}: allowed is a directory, where several files are copied."
        )
    for place in places:
        to = into / place.name if into.is_dir() else into
        if not place.is_dir():
            shutil.copy2(place, to)
        elif not recursive:
            raise InvalidError(f"{place.name} is a directory: give recursive=True to copy it.")
        elif _is_below(place, to):
            raise InvalidError(
                f"dst_path={target!r} is in {place.name}: allowed is one that is not in what is"
                " copied."
            )
        else:
            shutil.copytree(place, to, symlinks=True, dirs_exist_ok=True)


def made_at(path: Path) -> float:
    """Return when a file or directory was made, in Unix seconds, as statx(2) says.

    Where its file system does not know that: when it was last changed.
    """
    import ctypes  # noqa: PLC0415  rarely

    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is not None and statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) == 0:
        mask, seconds, nanoseconds = _STATX.unpack_from(buffer)
        if mask & _STATX_BTIME:
            return float(seconds + nanoseconds / 1e9)
    return path.stat().st_ctime


def _is_below(root: Path, path: Path) -> bool:
    """Say whether `path`, followed, is `root` or in it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _children(directory: Path) -> list[Path]:
    """Return what is in a directory, the last one first; nothing where it has gone."""
    try:
        names = os.listdir(directory)  # noqa: PTH208  names are sorted, not paths
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in sorted(names, reverse=True)]


def _entry(root: Path, path: Path) -> FileEntry:
    found = path.lstat()
    kind = _TYPES.get(stat.S_IFMT(found.st_mode), FileEntryType.UNSPECIFIED)
    return FileEntry(path.relative_to(root).as_posix(), kind, int(found.st_mtime), found.st_size)
