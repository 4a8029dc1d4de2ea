"""The machine: directories and who may enter them, room, limits of processes, GPUs."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker import directories, images, rendezvous
from kernel_worker.errors import InvalidError
from kernel_worker.store import owning
from notebook_ext.doctor.finding import Finding, mib, of_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.settings import Settings
    from notebook_ext.doctor.finding import Grade

ENOUGH_BYTES: Final = 256 * 2**20
"""Less room than this is worth a warning …"""
LEAST_BYTES: Final = 2**20
"""… and less than this a problem."""
ENOUGH_FILES: Final = 1024
LEAST_FILES: Final = 128
ENOUGH_PROCESSES: Final = 64
_LOOK_SECONDS: Final = 20
CGROUP = Path("/sys/fs/cgroup")


def findings(settings: Settings) -> Iterator[Finding]:
    """Look at the machine; directories that are missing are made, as the first call does."""
    yield from places(settings)
    yield shared_memory()
    yield open_files()
    yield from file_size()
    yield from processes()
    yield gpus(settings)
    yield from cached_images(settings)


def cached_images(settings: Settings) -> Iterator[Finding]:
    """Say how large the images are that are kept, where there are any."""
    try:
        found = images.kept(images.folder_of(settings))
    except (InvalidError, OSError):
        return  # said of the data directory
    if found:
        size = mib(sum(one.about.bytes for one in found))
        said = f"{len(found)}, {size}: `notebook-ext image list` shows them"
        yield Finding("images", "ok", said)


def places(settings: Settings) -> Iterator[Finding]:
    """Look at the directories: whose they are, how long their paths are, how much room is left."""
    roots = [("temporary files", Path(tempfile.gettempdir()), "TMPDIR")]
    try:
        directory = rendezvous.prepare_directory(settings)
        yield Finding("runtime directory", "ok", f"{directory}, yours alone")
        roots.append(("runtime directory", directory, directories.RUNTIME))
        yield _socket(directory)
    except InvalidError as error:
        yield of_error("runtime directory", error)
    local, notice = directories.instead_of_network(settings)
    if notice:
        yield Finding("data directory", "warning", *notice.split("; ", 1))
    try:
        journal = rendezvous.prepare_journal(local)
        yield Finding("data directory", "ok", f"{journal.parent}, yours alone, with file locks")
        roots.append(("data directory", journal.parent, directories.DATA))
    except InvalidError as error:
        yield of_error("data directory", error)
    for name, root, variable in roots:
        yield room(name, root, variable)


def room(name: str, directory: Path, variable: str) -> Finding:
    """Say how much room the disk (or tmpfs) of a directory has."""
    free = shutil.disk_usage(directory).free
    kind = directories.filesystem_of(directory)
    grade: Grade = "ok"
    if free < ENOUGH_BYTES:
        grade = "warning" if free >= LEAST_BYTES else "problem"
    remedy = "" if grade == "ok" else f"make room there, or set {variable} to another directory"
    return Finding(f"room, {name}", grade, f"{mib(free)} free in {directory} ({kind})", remedy)


def shared_memory(place: Path = owning.MEMORY) -> Finding:
    """Say what the large values of this user's processes take, and how much room is left there."""
    held = owning.held_by_client()
    kind = directories.filesystem_of(place)
    if kind != "tmpfs":
        said = f"{place} is none: large values lie beside the broker's socket, on a disk perhaps"
        return Finding("shared memory", "warning", said, f"mount a tmpfs at {place}")
    room = shutil.disk_usage(place)
    said = f"{mib(room.free)} free in {place}"
    if held:
        said += f"; values of {len(held)} processes take {mib(sum(held.values()))}"
    if room.free >= ENOUGH_BYTES:
        return Finding("shared memory", "ok", said)
    remedy = "remove what others have left there; for a container, start it with --shm-size=2g"
    return Finding("shared memory", "warning", f"{said}: large values go to a disk", remedy)


def _socket(directory: Path) -> Finding:
    path = rendezvous.socket_path(directory)
    size = len(os.fsencode(path))
    said = f"{size} of {rendezvous.MAX_SOCKET_PATH_BYTES} bytes"
    if path.parent != directory:
        said += f": {path}, because that of the runtime directory is too long"
    return Finding("socket path", "ok", said)


def open_files() -> Finding:
    """Say how many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES:
        return Finding("open files", "ok", f"{_limit(soft)} a process")
    grade: Grade = "warning" if soft >= LEAST_FILES else "problem"
    said = f"{soft} a process: a host agent needs about ten a worker"
    return Finding(
        "open files", grade, said, f"`ulimit -n {_suggested(hard)}` before Jupyter starts"
    )


def _suggested(hard: int) -> int:
    return 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)


def file_size() -> Iterator[Finding]:
    """Warn where files may only be small."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft != resource.RLIM_INFINITY:
        said = f"at most {mib(soft)}: spawned calls wait when the journal is as large"
        yield Finding("file size", "warning", said, "`ulimit -f unlimited` before Jupyter starts")


def processes() -> Iterator[Finding]:
    """Say how many more processes there may be, as far as limits are known."""
    left = {}
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.getuid():  # root is not bound by it
        left["`ulimit -u`"] = soft - _own_threads()
    most = _number(CGROUP / "pids.max")
    if most is not None:
        left["pids.max of the cgroup"] = most - (_number(CGROUP / "pids.current") or 0)
    if not left:
        yield Finding("processes", "ok", "no limit")
    for name, count in left.items():
        if count >= ENOUGH_PROCESSES:
            yield Finding("processes", "ok", f"{count} more, by {name}")
        else:
            said = f"only {count} more, by {name}: workers and their threads may not start"
            yield Finding("processes", "warning", said, f"end some, or raise {name}")


def gpus(settings: Settings) -> Finding:
    """Say which GPUs NVIDIA's tool sees."""
    if settings.gpus == ():
        return Finding("gpus", "ok", "none is to be used (setting gpus)")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpus", "ok", "none: nvidia-smi is not installed")
    remedy = "see what `nvidia-smi` says: driver and kernel module may not fit together"
    try:
        ended = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, check=False, timeout=_LOOK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("gpus", "warning", f"{tool} does not work: {error}", remedy)
    listed = ended.stdout.split("\n")
    found = [line.partition(" (UUID")[0] for line in listed if line.startswith("GPU ")]
    if ended.returncode or not found:
        last = (ended.stderr or ended.stdout).strip().rpartition("\n")[2]
        return Finding("gpus", "warning", f"{tool} finds none: {last}", remedy)
    return Finding("gpus", "ok", ", ".join(found))


def _limit(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else str(value)


def _own_threads() -> int:
    """Return how many threads this user has: that is what RLIMIT_NPROC counts."""
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(list((entry / "task").iterdir()))
        except OSError:
            continue  # it has just ended
    return count


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
