"""Segments: the files of one store, which hold buffers, and are used again while they are warm.

Theory. A store is a directory in memory (tmpfs) that belongs to one client. To write into pages
that are there costs half of what new ones cost, so a segment that nobody needs any more becomes a
*free* one, by its name, and whoever writes next takes it over, by renaming it: one of several that
try succeeds. Every life of a segment has a name of its own. Who maps one holds a shared lock on the
file for as long as the mapping lives (the descriptor is the mapping's own: a process that dies lets
go of it, and a child that was forked holds it too); who takes one over needs that lock alone, or
leaves the file to those who still map it. Then it looks whether the name is still there: a name
that is gone may have become another segment.

Guarantees: a mapping shows what was written before it was handed out, whatever happens to the store
meanwhile; it can be written to, and nobody else sees that. Room is taken before anything is written
(a mapping beyond a full file system is a SIGBUS), in memory only while enough of that is left;
else on a disk, if the store has a directory there, or nowhere.
Not guaranteed: anything against processes of the same user that write to its files.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel_worker.wire.frames import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STORED_BYTES: Final = 256 * 1024
"""Buffers of one value that are smaller together go with the message …"""
MAPPED_BYTES: Final = 256 * 1024
"""… and what is smaller is copied where it is read: to map it would cost more …"""
MAPPINGS: Final = 256
"""… and so is what comes beyond so many mappings: each is a descriptor."""
DISK: Final = "disk"
"""The entry of a store that leads to its directory on a disk."""
LIMIT: Final = "limit-"
"""Begins the entry of a store that says how much of it may lie in memory."""
_PAGE: Final = mmap.PAGESIZE
_FREE, _TAKEN = "f", "b"
_KEPT_PART: Final = 8
"""Free segments take no more than this part of the file system, …"""
_ROOM_PART: Final = 16
"""… and of it, and of the machine's memory, so much stays empty."""
_MEMORY = Path("/proc/meminfo")
_PAGEMAP = "/proc/self/pagemap"
_ENTRY_BYTES: Final = 8
_IN_FILE, _PRESENT_OR_SWAPPED = 0x20, 0xC0
_UNCHANGED = bytes(byte for byte in range(256) if byte & _IN_FILE or not byte & _PRESENT_OR_SWAPPED)


class Entry(NamedTuple):
    """A segment, as its name tells."""

    name: str
    is_free: bool
    size_bytes: int


def entries(directory: str) -> list[Entry]:
    """Return the segments of a store in memory, or of its part on a disk, the smallest first."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):  # noqa: PTH208  on the path of each large value
            kind, _, rest = name.partition("-")
            size, _, token = rest.partition("-")
            if kind in {_FREE, _TAKEN} and token and size.isdigit():
                found.append(Entry(name, kind == _FREE, int(size)))
    return sorted(found, key=lambda entry: entry.size_bytes)


def names(directory: str) -> Iterator[str]:
    """Yield the names, as a place has them, of the segments of a store that are not free."""
    for part in ("", f"{DISK}/"):
        for entry in entries(f"{directory}/{part}"):
            if not entry.is_free:
                yield part + entry.name


def write(directory: str, buffers: Sequence[memoryview]) -> list[Place] | None:
    """Write buffers into one segment of a store; return where each lies.

    Args:
        directory: the store.
        buffers: of bytes.

    Returns:
        None where there is no room.
    """
    offsets, end = [], 0
    for buffer in buffers:
        offsets.append(end)
        end += buffer.nbytes + -buffer.nbytes % _PAGE
    for part in ("", f"{DISK}/"):
        name = _written(f"{directory}/{part}", buffers, offsets, end)
        if name:
            return [
                Place(part + name, offset, buffer.nbytes)
                for offset, buffer in zip(offsets, buffers, strict=True)
            ]
    return None


def _written(
    directory: str, buffers: Sequence[memoryview], offsets: Sequence[int], end: int
) -> str:
    """Return the name of the segment in `directory` that holds them; empty: there is no room."""
    name, file = _taken_over(directory, end)
    try:
        if not name:
            name, file = _made(directory, end)
        for buffer, offset in zip(buffers, offsets, strict=True):
            _write_all(file, buffer, offset)
    except OSError:
        if name:
            remove(directory, name)
        return ""
    finally:
        if file >= 0:
            os.close(file)
    return name


def _write_all(file: int, buffer: memoryview, offset: int) -> None:
    while buffer:  # one write takes no more than 2 GiB
        count = os.pwrite(file, buffer, offset)
        buffer, offset = buffer[count:], offset + count


def _taken_over(directory: str, size_bytes: int) -> tuple[str, int]:
    """Take over a free segment that fits, which nobody maps; return its new name, and it open."""
    seen = _seen.setdefault(directory, [])
    found = _taken_of(seen, directory, size_bytes)
    if not found[0]:
        seen[:] = [entry for entry in entries(directory) if entry.is_free]
        found = _taken_of(seen, directory, size_bytes)
    if len(_seen) > _SEEN:
        del _seen[next(iter(_seen))]
    return found


_seen: dict[str, list[Entry]] = {}
"""The free segments of a store, when it was looked at last: to look costs more than to try."""
_SEEN: Final = 8


def _taken_of(seen: list[Entry], directory: str, size_bytes: int) -> tuple[str, int]:
    for entry in seen.copy():
        if not size_bytes <= entry.size_bytes <= 2 * size_bytes + _PAGE:
            continue
        with contextlib.suppress(ValueError):  # another thread may do the same
            seen.remove(entry)
        name = _new_name(_TAKEN, entry.size_bytes)
        path = f"{directory}/{name}"
        try:
            os.rename(f"{directory}/{entry.name}", path)  # noqa: PTH104
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # another one was quicker
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            remove(directory, name)  # it lives as long as it is mapped
            continue
        return name, file
    return "", -1


def _made(directory: str, size_bytes: int) -> tuple[str, int]:
    """Make a segment; return its name, and it open.

    Raises:
        OSError: there is no room.
    """
    step = max(_PAGE, 1 << max(0, size_bytes.bit_length() - 4))
    size_bytes += -size_bytes % step
    _check_room(directory, size_bytes)
    name = _new_name(_TAKEN, size_bytes)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    path = f"{directory}/{name}"
    file = os.open(path, flags, 0o600)
    try:
        os.posix_fallocate(file, 0, size_bytes)
    except OSError:
        os.close(file)
        remove(directory, name)
        raise
    return name, file


def _check_room(directory: str, size_bytes: int) -> None:
    """Raise `OSError` where a new segment would leave too little room."""
    room = os.statvfs(directory)
    left = room.f_bavail * room.f_frsize - size_bytes
    if left < room.f_blocks * room.f_frsize // _ROOM_PART:
        raise OSError("too little room is left")
    if os.path.basename(os.path.normpath(directory)) == DISK:  # noqa: PTH119
        return
    used = sum(entry.size_bytes for entry in entries(directory))
    total, available = memory_bytes()
    if used + size_bytes > _limit(directory) or available - size_bytes < total // _ROOM_PART:
        raise OSError("too little memory is left")


def _limit(directory: str) -> float:
    for name in os.listdir(directory):  # noqa: PTH208
        if name.startswith(LIMIT):
            return int(name.removeprefix(LIMIT))
    return float("inf")


def memory_bytes() -> tuple[int, float]:
    """Return how much memory the machine has, and how much of it can be had (if it says so)."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMORY.read_text().splitlines()[:3]:
            name, value = line.split()[:2]
            found[name] = int(value) * 1024
    return found.get("MemTotal:", 0), found.get("MemAvailable:", float("inf"))


def _new_name(kind: str, size_bytes: int) -> str:
    return f"{kind}-{size_bytes}-{os.urandom(8).hex()}"


def free(directory: str, name: str) -> None:
    """Let others use a segment whose name nobody needs any more; on a disk, remove it."""
    if name.startswith(DISK):
        remove(directory, name)
        return
    with contextlib.suppress(OSError):  # it has gone, and the store perhaps too
        new = f"{directory}/{_new_name(_FREE, size_of(name))}"
        os.rename(f"{directory}/{name}", new)  # noqa: PTH104


def size_of(name: str) -> int:
    """Return how many bytes a segment has, as its name tells; 0 where it does not."""
    _, size, *_ = [*name.split("-"), "", ""]
    return int(size) if size.isdigit() else 0


def trim(directory: str) -> None:
    """Remove free segments until they take no more than their part of the file system."""
    with contextlib.suppress(OSError):
        room = os.statvfs(directory)
        kept = room.f_blocks * room.f_frsize // _KEPT_PART
        for entry in entries(directory):
            kept -= entry.size_bytes if entry.is_free else 0
            if entry.is_free and kept < 0:
                remove(directory, entry.name)


def remove(directory: str, name: str) -> None:
    """Remove a segment, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(f"{directory}/{name}")  # noqa: PTH108


# ---- reading ----------------------------------------------------------------------------------


class Mapping(mmap.mmap):
    """A buffer of a segment."""

    holds: object
    """What is to live as long as it does."""
    place: tuple[str, Place]
    """The store, and where in it: no other buffer ever has the same."""


class _Known(weakref.ref[Mapping]):
    """What a mapping is one of."""

    __slots__ = ("directory", "place")

    directory: str
    place: Place


_known: dict[int, _Known] = {}
"""The mappings of this process, by their addresses; some are gone."""


def fetch(directory: str, place: Place, holds: object = None) -> Mapping | bytearray:
    """Return a buffer of a store: a private mapping of it, or a copy where that is better.

    Args:
        directory: the store.
        place: where in it.
        holds: what is to live as long as the mapping does.

    Raises:
        OSError: it is not there.
    """
    file = _opened(directory, place)
    try:
        found = _read(file, place)
    finally:
        os.close(file)
    if isinstance(found, Mapping):
        found.holds = holds
        found.place = directory, place
        _note(found, directory, place)
    return found


def _opened(directory: str, place: Place) -> int:
    """Return a segment open, and locked as one that is read."""
    path = f"{directory}/{place.name}"
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        status = os.fstat(file)
        if os.stat(path).st_ino != status.st_ino or status.st_size < place.offset + place.nbytes:  # noqa: PTH116
            raise FileNotFoundError(f"{path} is another file than it was")
    except BaseException:
        os.close(file)
        raise
    return file


def _read(file: int, place: Place) -> Mapping | bytearray:
    if place.nbytes < MAPPED_BYTES or not _may_map():
        return _copied(file, place)
    private, writable = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    return Mapping(file, place.nbytes, private, writable, offset=place.offset)


class Held:
    """A buffer of a store, of which there may be many private mappings."""

    def __init__(self, directory: str, place: Place) -> None:
        """Hold it from now on.

        Raises:
            OSError: it is not there.
        """
        self._place = place
        self._file = _opened(directory, place)

    def fetch(self) -> Mapping | bytearray:
        """Return another mapping, or a copy where that is better; as `fetch`."""
        return _read(self._file, self._place)

    def __del__(self) -> None:
        file, self._file = getattr(self, "_file", -1), -1
        if file >= 0:
            os.close(file)


def _copied(file: int, place: Place) -> bytearray:
    copy, read = bytearray(place.nbytes), 0
    with memoryview(copy) as view:
        while read < place.nbytes:
            count = os.preadv(file, [view[read:]], place.offset + read)
            if not count:
                raise FileNotFoundError(f"{place.name} ends too soon")
            read += count
    return copy


def _may_map() -> bool:
    if len(_known) < MAPPINGS // 2:
        return True
    for address, known in list(_known.items()):
        if known() is None:
            _known.pop(address, None)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return len(_known) < (min(MAPPINGS, soft // 4) if soft >= 0 else MAPPINGS)


def _note(mapping: Mapping, directory: str, place: Place) -> None:
    known = _Known(mapping)
    known.directory, known.place = directory, place
    _known[_address(mapping)] = known


def unchanged(directory: str, buffer: memoryview) -> tuple[Place, object] | None:
    """Return where a buffer lies in a store, and what its mapping holds, if it is a mapping of it.

    And nobody has written to it: the kernel says of each page whether it is the file's still.
    (Source: Documentation/admin-guide/mm/pagemap.rst; a page has 8 bytes, of which bit 61 says
    that it is one of a file, 62 and 63 that it is there at all.)

    Args:
        directory: the store.
        buffer: of bytes.
    """
    if not _known or buffer.readonly:
        return None
    address = _address(buffer)
    known = _known.get(address)
    mapping = known() if known is not None else None
    if mapping is None or known is None or known.directory != directory:
        return None
    if known.place.nbytes != buffer.nbytes or not _is_clean(address, buffer.nbytes):
        return None
    return known.place, mapping.holds


def _address(buffer: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _is_clean(address: int, nbytes: int) -> bool:
    pages = -(-nbytes // _PAGE)
    try:
        file = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        table = os.pread(file, pages * _ENTRY_BYTES, address // _PAGE * _ENTRY_BYTES)
    except OSError:
        return False
    finally:
        os.close(file)
    tops = table[_ENTRY_BYTES - 1 :: _ENTRY_BYTES] if sys.byteorder == "little" else table[::8]
    return len(tops) == pages and not tops.translate(None, _UNCHANGED)
