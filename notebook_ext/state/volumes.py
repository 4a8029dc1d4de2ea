"""`Volume`: a named directory on the broker's machine, for files that outlive a call.

What it is here. A directory of this user, `vol.path`, beside the journal. All workers of the
machine see the same files at once, and so does the notebook, if it runs there: what one writes the
other reads, as in any directory. So `commit` and `reload`, which on Modal's cloud carry changes
between machines, have nothing to do. A file that is put by `batch_upload` is there whole or not at
all.

A directory cannot be mounted somewhere else without root: `volumes={"/data": vol}` is taken where
`/data` leads there already (a link that was made once), and is refused with what to do otherwise.

Not guaranteed: anything between two programs that write one file at the same time.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from kernel_worker import directories, rendezvous
from kernel_worker.errors import InvalidError, NotFoundError
from notebook_ext import blobs, cloud, process
from notebook_ext.config import current as current_settings
from notebook_ext.state import trees
from notebook_ext.state.handles import Many, checked_name
from notebook_ext.state.trees import FileEntry, FileEntryType
from notebook_ext.state.uploads import OURS, Upload, own_name, sweep
from notebook_ext.twin import Waiting, blocks_thread, class_twin, done, in_thread, stream, twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

__all__ = ["FileEntry", "FileEntryType", "Upload", "Volume", "VolumeInfo", "check_mounts"]

T = TypeVar("T")


class VolumeInfo(NamedTuple):
    """What is known of a volume."""

    name: str
    created_at: float
    """Unix seconds."""


def _look_up(
    kind: type[Volume], /, name: str, *, create_if_missing: bool = False, **cloud_only: object
) -> Waiting[Volume]:
    """Do as `from_name`, and look that it is there.

    Raises:
        NotFoundError: there is none, and `create_if_missing` is not set.
    """
    return kind.from_name(name, create_if_missing=create_if_missing, **cloud_only).hydrate.start()


def _delete(
    kind: type[Volume], /, name: str, *, allow_missing: bool = False, **cloud_only: object
) -> Waiting[None]:
    """Remove the Volume of that name with all its files, for good.

    Raises:
        NotFoundError: there is none, and `allow_missing` is not set.
    """
    return kind.objects.delete.start(name, allow_missing=allow_missing, **cloud_only)


def _rename(
    kind: type[Volume], /, old_name: str, new_name: str, **cloud_only: object
) -> Waiting[None]:
    """Give a volume another name.

    Raises:
        NotFoundError: there is none of the old one.
        InvalidError: there is one of the new one already.
    """
    cloud.check("Volume.rename", cloud_only)
    old, new = kind.from_name(old_name), kind.from_name(new_name)
    return _doing(lambda: old._rename(new))  # noqa: SLF001  its own


class Volume:
    """A named directory on the broker's machine; see `path`.

    In a remote function that captures one it is the same directory. Every method is there as
    `.aio` too, and does its work in a thread then.
    """

    __slots__ = ("__weakref__", "_creates", "_name")

    objects: ClassVar[Volumes]

    def __init__(self, name: str, *, creates: bool) -> None:
        """Use `from_name`, `lookup` or `ephemeral`."""
        self._name = name
        self._creates = creates

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        create_if_missing: bool = False,
        version: object = None,  # noqa: ARG003  Modal's
        **cloud_only: object,
    ) -> Self:
        """Return the volume of that name; nothing is looked at before it is used.

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores.
            create_if_missing: make it where there is none.
            version: accepted for Modal's sake.
            **cloud_only: `environment_name` selects a profile, others change nothing.

        Raises:
            InvalidError: it is no such name.
        """
        cloud.check("Volume.from_name", cloud_only)
        if checked_name("Volume", name) in {".", ".."}:
            raise InvalidError(f"the name {name!r} of a Volume: allowed is one that is no path.")
        return cls(name, creates=create_if_missing)

    lookup = class_twin(_look_up)
    delete = class_twin(_delete)
    rename = class_twin(_rename)

    @classmethod
    def ephemeral(cls, **cloud_only: object) -> EphemeralVolume:
        """Return one without a name, for a `with` or `async with`; it ends with that."""
        cloud.check("Volume.ephemeral", cloud_only)
        return EphemeralVolume()

    @property
    def name(self) -> str | None:
        """Its name; None of an ephemeral one."""
        return None if self._name.startswith(OURS) else self._name

    @property
    def object_id(self) -> str:
        """What it is called among all of this user's."""
        return f"vo-{self._name}"

    @property
    def path(self) -> Path:
        """The directory: read and write files there, with whatever does that.

        Raises:
            NotFoundError: there is no such volume.
            InvalidError: it is on another machine.
        """
        found = _root(creates=self._creates) / self._name
        if self._creates:
            found.mkdir(mode=0o700, exist_ok=True)
        if not found.is_dir():
            what = "an ephemeral volume" if self.name is None else f"the volume {self._name!r}"
            hint = "" if self.name is None else "; create_if_missing=True makes it"
            raise NotFoundError(f"{what} is not there{hint}")
        return found

    @twin
    def info(self) -> Waiting[VolumeInfo]:
        """Return what is known of it."""
        return _doing(lambda: VolumeInfo(self._name, trees.made_at(self.path)))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Volume {self.name or 'ephemeral'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Volume) and self._name == other._name

    def __hash__(self) -> int:
        return hash(("volume", self._name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._name, self._creates)

    # ---- what there is to do for others --------------------------------------------------------

    @twin
    def commit(self) -> Waiting[None]:
        """Do nothing: what was written is seen by all at once."""
        return _doing(self._look)

    @twin
    def reload(self) -> Waiting[None]:
        """Do nothing: what others wrote is seen at once."""
        return _doing(self._look)

    @twin
    def hydrate(self) -> Waiting[Any]:
        """Look that it is there, and make it where it may be made; return it."""
        return _doing(self._looked_at)

    # ---- files --------------------------------------------------------------------------------

    @twin
    def listdir(self, path: str = "/", *, recursive: bool = False) -> Waiting[list[FileEntry]]:
        """Return the entries of a directory, by name; of a file itself.

        Raises:
            FileNotFoundError: there is nothing of that name.
        """
        return _doing(lambda: list(self._entries(path, recursive=recursive)))

    @stream
    def iterdir(self, path: str = "/", *, recursive: bool = True) -> Both[FileEntry]:
        """Yield the entries of a directory, and (`recursive`) of those below it."""
        return Both(lambda: self._entries(path, recursive=recursive))

    @stream
    def read_file(self, path: str) -> Both[bytes]:
        """Yield what a file holds, in pieces of up to 1 MiB; `b"".join(...)` is all of it.

        Raises:
            FileNotFoundError: (where it is iterated) there is none.
        """
        return Both(lambda: trees.chunks(self._inside(path)))

    @twin
    def read_file_into_fileobj(self, /, path: str, fileobj: IO[bytes], **_: object) -> Waiting[int]:
        """Write what a file holds into `fileobj`; return how many bytes those were."""
        return _doing(lambda: sum(map(fileobj.write, trees.chunks(self._inside(path)))))

    @twin
    def remove_file(self, path: str, *, recursive: bool = False) -> Waiting[None]:
        """Remove a file, a link, or (`recursive`) a directory with all that is in it.

        Raises:
            FileNotFoundError: there is nothing of that name.
            InvalidError: it is a directory, and `recursive` is not set; or the volume itself.
        """
        return _doing(lambda: trees.remove(self.path, path, recursive=recursive))

    @twin
    def copy_files(
        self, src_paths: Sequence[str], dst_path: str, *, recursive: bool = False
    ) -> Waiting[None]:
        """Copy files within the volume, as `cp` does: to a file's name, or into a directory.

        Raises:
            FileNotFoundError: there is nothing of one of the names.
            InvalidError: several are to be one file, or one is a directory and `recursive` is not
                set, or is to be copied into itself.
        """
        return _doing(lambda: trees.copy(self.path, src_paths, dst_path, recursive=recursive))

    def batch_upload(self, force: bool = False) -> Upload:  # noqa: FBT001, FBT002  Modal's
        """Return what takes files (`put_file`, `put_directory`), for a `with` or `async with`.

        They are copied as the block ends: none where it ends by an exception, and none where one of
        them is there already, unless `force` is set.
        """
        return Upload(self.path, force=force)

    # ---- how --------------------------------------------------------------------------------

    def _look(self) -> None:
        self.path  # noqa: B018  looks

    def _looked_at(self) -> Self:
        self._look()
        return self

    def _inside(self, path: str) -> Path:
        return trees.inside(self.path, path)

    def _entries(self, path: str, *, recursive: bool) -> Iterator[FileEntry]:
        root = self.path
        return trees.entries(root, trees.inside(root, path), recursive=recursive)

    def _rename(self, new: Volume) -> None:
        old, place = self.path, _root() / new._name
        try:
            place.mkdir(mode=0o700)  # of several who want this name one gets it
        except FileExistsError:
            raise InvalidError(
                f"new_name={new._name!r}: there is a volume of that name; give another one."
            ) from None
        try:
            old.rename(place)
        except OSError:
            place.rmdir()
            raise


class EphemeralVolume:
    """What `Volume.ephemeral()` returns: makes one as the block begins, and removes it."""

    def __enter__(self) -> Volume:
        """Make it, and remove what processes that were killed have left."""
        root = _root(creates=True)
        sweep(root)
        self._made = Volume(own_name(), creates=False)
        (root / self._made._name).mkdir(mode=0o700)  # noqa: SLF001  its own room
        return self._made

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        _remove(self._made, allow_missing=True)

    async def __aenter__(self) -> Volume:
        """Make it."""
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        """Remove it."""
        await in_thread(self.__exit__)


class Volumes:
    """`Volume.objects`: all volumes, by name."""

    @twin
    def create(
        self, /, name: str, *, allow_existing: bool = False, **cloud_only: object
    ) -> Waiting[None]:
        """Make one.

        Raises:
            InvalidError: there is one already, and `allow_existing` is not set.
        """
        cloud.check("create", cloud_only)
        made = Volume.from_name(name, create_if_missing=True)
        return _doing(lambda: _make(made, allow_existing=allow_existing))

    @twin
    def list(
        self, /, *, max_objects: int | None = None, **cloud_only: object
    ) -> Waiting[Many[Volume]]:
        """Return all that have a name, by name."""
        cloud.check("list", cloud_only)
        return _doing(lambda: _all()[:max_objects])

    @twin
    def delete(
        self, /, name: str, *, allow_missing: bool = False, **cloud_only: object
    ) -> Waiting[None]:
        """Remove one with all its files, for good.

        Raises:
            NotFoundError: there is none, and `allow_missing` is not set.
        """
        cloud.check("delete", cloud_only)
        found = Volume.from_name(name)
        return _doing(lambda: _remove(found, allow_missing=allow_missing))


Volume.objects = Volumes()


class Both(Generic[T]):
    """What is iterated with `for` or `async for`; each iteration begins anew."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        """Iterate what `begin` returns."""
        self._begin = begin

    def __iter__(self) -> Iterator[T]:
        """Yield all."""
        return self._begin()

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield all, each from a thread."""
        found: Iterator[T] = self._begin()
        while step := await in_thread(lambda: list(itertools.islice(found, 1))):
            yield step[0]


def check_mounts(mounts: object) -> None:
    """Look at `volumes={...}`: each place has to lead to the volume already.

    Raises:
        InvalidError: one does not; what to do.
    """
    if not isinstance(mounts, Mapping):
        raise InvalidError(f"volumes={mounts!r}: allowed is a dict of paths to Volumes.")
    for place, volume in mounts.items():
        if not isinstance(volume, Volume) or not Path(place).is_absolute():
            raise InvalidError(
                f"volumes={{{place!r}: {volume!r}}}: allowed are absolute paths and Volumes."
            )
        if process.is_far() or Path(place).resolve() != volume.path.resolve():
            where = "its path" if process.is_far() else str(volume.path)
            raise InvalidError(
                f"volumes={{{place!r}: {volume!r}}}: nothing can be mounted there without root: use"
                f" the directory {where}, which is volume.path in the function; or have {place}"
                f" lead there, once: `sudo ln -s {where} {place}`."
            )


def _root(*, creates: bool = False) -> Path:
    if process.is_far() or blobs.is_elsewhere():
        raise InvalidError(
            "volumes lie on the broker's machine, and this process is on another: use them in"
            " remote functions that run there, and give small files as arguments."
        )
    settings = directories.on_this_machine(current_settings())
    if creates:
        root = rendezvous.prepare_journal(settings).parent / "volumes"
        root.mkdir(mode=0o700, exist_ok=True)
        return root
    return rendezvous.journal_path(settings).parent / "volumes"


def _all() -> list[Volume]:
    root = _root()
    names = sorted(each.name for each in root.iterdir()) if root.exists() else []
    return [Volume(name, creates=False) for name in names if not name.startswith(OURS)]


def _make(volume: Volume, *, allow_existing: bool) -> None:
    try:
        (_root(creates=True) / str(volume.name)).mkdir(mode=0o700)
    except FileExistsError:
        if not allow_existing:
            raise InvalidError(
                f"name={volume.name!r}: there is a volume of that name; give allow_existing=True."
            ) from None


def _remove(volume: Volume, *, allow_missing: bool) -> None:
    try:
        found = volume.path
        gone = found.rename(found.with_name(own_name()))
    except (NotFoundError, FileNotFoundError):
        if not allow_missing:
            raise
        return
    shutil.rmtree(gone)


def _arrive(name: str, creates: bool) -> Volume:  # noqa: FBT001  a pickle's
    return Volume(name, creates=creates)


def _doing(act: Callable[[], T]) -> Waiting[T]:
    """Do `act`: here, where somebody waits in this thread, or in another one."""
    return done(act()) if blocks_thread() else in_thread(act)
