"""`Volume.batch_upload`: files on their way into a volume, all of them or none.

Theory. Everything is copied to a directory beside the volumes first, and moved into place when all
of it is there: whoever looks sees each file whole or not at all, and what fails, or is killed,
while it copies has changed nothing. (Where the volume lies on another file system than what is
beside it, that directory is a hidden one in the volume.) What killed processes have left there is
removed by the next upload.

Not guaranteed: that others see all files at one moment, or that what they put at the same time
under the same name stays.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final, NamedTuple, Self

from kernel_worker.errors import InvalidError
from notebook_ext.state import trees
from notebook_ext.twin import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS: Final = "~"
"""Begins the names of directories that are ours, beside the volumes: `~<process>-<chance>`."""


class _File(NamedTuple):
    source: Path | IO[bytes]
    target: Path
    mode: int | None


class Upload:
    """Files on their way into a volume; see `Volume.batch_upload`."""

    def __init__(self, root: Path, *, force: bool) -> None:
        """Take files for the volume that is `root`."""
        self._root = root
        self._force = force
        self._files: list[_File] = []

    def put_file(
        self,
        local_file: str | Path | IO[bytes],
        remote_path: str | PurePosixPath,
        mode: int | None = None,
    ) -> None:
        """Take a file, by its name here or as what is open for reading.

        Args:
            local_file: the file.
            remote_path: where it is to be; below that, under its name, where it ends in a slash.
            mode: its permissions; None: as they are.

        Raises:
            FileNotFoundError: there is no such file here.
            InvalidError: `remote_path` is no file's name in the volume.
        """
        into = str(remote_path)
        if isinstance(local_file, str | Path):
            local_file = Path(local_file)
            if not local_file.is_file():
                raise FileNotFoundError(f"there is no file {local_file}")
            if into.endswith("/"):
                into += local_file.name
        target = trees.inside(self._root, into)
        if into.endswith("/") or target == self._root:
            raise InvalidError(f"remote_path={into!r}: allowed is the name of a file.")
        self._files.append(_File(local_file, target, mode))

    def put_directory(
        self,
        local_path: str | Path,
        remote_path: str | PurePosixPath,
        recursive: bool = True,  # noqa: FBT001, FBT002  Modal's
    ) -> None:
        """Take the files of a directory, and (`recursive`) of those below it.

        Raises:
            FileNotFoundError: there is no such directory here.
        """
        top = Path(local_path)
        if not top.is_dir():
            raise FileNotFoundError(f"there is no directory {top}")
        for found in sorted(top.rglob("*") if recursive else top.glob("*")):
            if found.is_file():
                below = PurePosixPath(remote_path) / found.relative_to(top).as_posix()
                self.put_file(found, below)

    def __enter__(self) -> Self:
        """Take files."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Copy them, unless the block ends by an exception."""
        if kind is None:
            self._copy()

    async def __aenter__(self) -> Self:
        """Take files."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Copy them, unless the block ends by an exception."""
        if kind is None:
            await in_thread(self._copy)

    # ---- how --------------------------------------------------------------------------------

    def _copy(self) -> None:
        self._check()
        with staging(self._root) as stage:
            staged = [(stage / str(at), file) for at, file in enumerate(self._files)]
            for part, file in staged:
                _copy_file(file, part)
            for part, file in staged:
                file.target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(file.target)

    def _check(self) -> None:
        """Look whether all can be there.

        Raises:
            OSError: one cannot.
        """
        seen: set[Path] = set()
        for _, target, _ in self._files:
            shown = target.relative_to(self._root)
            above = next(each for each in target.parents if os.path.lexists(each))
            if not above.is_dir():
                raise NotADirectoryError(f"{above.relative_to(self._root)} is no directory")
            if target.is_dir():
                raise IsADirectoryError(f"{shown} is a directory; a file has another name")
            if target in seen and not self._force:
                raise FileExistsError(f"{shown} is put twice; batch_upload(force=True) keeps one")
            if os.path.lexists(target) and not self._force:
                raise FileExistsError(
                    f"{shown} is there already; batch_upload(force=True) replaces it"
                )
            seen.add(target)


def _copy_file(file: _File, part: Path) -> None:
    if isinstance(file.source, Path):
        shutil.copyfile(file.source, part)
        part.chmod(file.source.stat().st_mode & 0o777)
    else:
        with part.open("wb") as made:
            shutil.copyfileobj(file.source, made, trees.CHUNK_BYTES)
    if file.mode is not None:
        part.chmod(file.mode)


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Yield a directory of our own on the file system of the volume that is `root`."""
    beside = root.parent
    sweep(beside)
    is_near = beside.stat().st_dev == root.stat().st_dev
    stage = beside / own_name() if is_near else root / f".{own_name()}"
    stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def own_name() -> str:
    """Return a new name for a directory of this process."""
    return f"{OURS}{os.getpid()}-{os.urandom(6).hex()}"


def sweep(volumes: Path) -> None:
    """Remove what processes that are gone have left beside the volumes."""
    for left in volumes.glob(f"{OURS}*-*"):
        if not Path("/proc", left.name[1:].partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
