"""The files of an image: local ones that its workers find in a folder of their own."""

from __future__ import annotations

import fnmatch
import importlib.util
import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from kernel_worker.errors import InvalidError
from kernel_worker.model import ImageFile
from notebook_ext.image_steps import existing

if TYPE_CHECKING:
    from collections.abc import Iterator

Ignore = Sequence[str] | Callable[[Path], bool]
MOST_BYTES = 32 * 1024 * 1024
"""So much travels to each host with an image."""
_NEVER = ("__pycache__", "*.pyc")


class Added(NamedTuple):
    """A layer of local files."""

    local: Path
    """A file or a folder."""
    remote: str
    """Where that lies, relative to the files of the image."""
    ignore: Ignore = ()

    def stamp(self) -> tuple[object, ...]:
        """Return what changes when one of the files does."""
        found = [(path, path.stat()) for path, _ in self.files()]
        return tuple((path, about.st_mtime_ns, about.st_size) for path, about in found)

    def files(self) -> Iterator[tuple[Path, str]]:
        """Yield the files and where they lie, relative."""
        if not self.local.is_dir():
            yield existing("local_path", self.local), self.remote
            return
        for path in sorted(self.local.rglob("*")):
            inner = path.relative_to(self.local)
            if path.is_file() and not self._ignores(inner):
                yield path, str(PurePosixPath(self.remote, *inner.parts))

    def _ignores(self, inner: Path) -> bool:
        if any(fnmatch.fnmatch(part, each) for part in inner.parts for each in _NEVER):
            return True
        if callable(self.ignore):
            return self.ignore(inner)
        names = (*inner.parts, str(inner))
        return any(fnmatch.fnmatch(name, each) for name in names for each in self.ignore)


def added_file(local_path: object, remote_path: object) -> Added:
    """Return the layer of one file."""
    local = existing("local_path", local_path)
    remote = local.name if remote_path is None else str(remote_path)
    remote = f"{remote}/{local.name}" if remote.endswith(("/", ".")) else remote
    return Added(local, _relative(remote))


def added_folder(local_path: object, remote_path: object, ignore: Ignore) -> Added:
    """Return the layer of a folder."""
    local = existing("local_path", local_path)
    remote = local.name if remote_path is None else str(remote_path)
    return Added(local, _relative(remote), ignore)


def added_modules(names: Sequence[str], ignore: Ignore) -> list[Added]:
    """Return the layers of modules, to be imported under their names."""
    return [_module(name, ignore) for name in names]


def _module(name: str, ignore: Ignore) -> Added:
    top = str(name).partition(".")[0]
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    origin = spec.origin if spec is not None else None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if folders:
        return Added(Path(folders[0]), top, ignore)
    if origin is None or not origin.endswith(".py"):
        raise InvalidError(
            f"add_local_python_source({name!r}): allowed are modules that can be imported here."
        )
    return Added(Path(origin), Path(origin).name)


def read(layers: Sequence[Added]) -> tuple[ImageFile, ...]:
    """Return the files of all layers; the last of those that lie in one place.

    Raises:
        InvalidError: one is gone, or they are too large together.
    """
    found: dict[str, ImageFile] = {}
    total = 0
    for layer in layers:
        for path, name in layer.files():
            status = path.stat()
            total += status.st_size
            if total > MOST_BYTES:
                raise InvalidError(
                    f"add_local_…({str(layer.local)!r}): the files of an image are more than "
                    f"{MOST_BYTES // 1024**2} MiB; leave some out with ignore=[…], or call "
                    "with nb.put(...) of what is large."
                )
            mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            found[name] = ImageFile(name, path.read_bytes(), mode)
    return tuple(found[name] for name in sorted(found))


def _relative(remote: str) -> str:
    """Return a place among the files of an image."""
    place = PurePosixPath(remote)
    if place.is_absolute() or ".." in place.parts:
        raise InvalidError(
            f"remote_path={remote!r}: allowed is a relative path: workers share this machine's "
            "file system, and find it below the folder that $NOTEBOOK_EXT_IMAGE_FILES names, or "
            "where .workdir('.') lets them be."
        )
    return str(place)
