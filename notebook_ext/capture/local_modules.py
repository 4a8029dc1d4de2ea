"""Local modules: those that can be imported here and are not installed.

They are read from disk, not from what the kernel imported: an edit is what runs next. What a file
imports is cached by its path, modification time and size.
"""

from __future__ import annotations

import ast
import site
import sys
import sysconfig
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kernel_worker.wire.bundle import ModuleSource
from notebook_ext.capture.names import Import, absolute

if TYPE_CHECKING:
    from collections.abc import Iterable

_OURS = frozenset({"notebook_ext", "kernel_worker"})
_NEVER = frozenset({"__main__", "__mp_main__", "builtins", "kernel_worker"})


class Stamp(NamedTuple):
    """Tells whether a file was edited."""

    path: str
    mtime_ns: int
    size: int


class LocalModule(NamedTuple):
    """A local module as it is on disk."""

    source: ModuleSource
    stamp: Stamp
    imports: tuple[str, ...]
    """Full names of what it may import; some may be no modules."""


class Found(NamedTuple):
    """What some names lead to, transitively."""

    local: tuple[LocalModule, ...]
    """Sorted by name."""
    installed: tuple[str, ...]
    """Sorted."""
    missing: tuple[str, ...]
    """Names at the top that are neither; they may be written yet."""


_files: dict[str, LocalModule] = {}


def find(names: Iterable[str]) -> Found:
    """Return the local modules that `names` lead to, and the installed ones that they need."""
    local: dict[str, LocalModule] = {}
    installed: set[str] = set()
    missing: list[str] = []
    todo = [part for name in names for part in _with_parents(name)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or is_standard(name):
            continue
        seen.add(name)
        module = locate(name)
        if module is not None:
            local[name] = module
            todo += [part for found in module.imports for part in _with_parents(found)]
        elif _is_installed(name):
            installed.add(_public(name))
        elif "." not in name:
            missing.append(name)
    return Found(
        tuple(local[name] for name in sorted(local)), tuple(sorted(installed)), tuple(missing)
    )


def _public(name: str) -> str:
    """Return the public part of a module's name: of `sklearn.svm._classes`, `sklearn.svm`."""
    parts = name.split(".")
    private = [index for index, part in enumerate(parts) if index and part.startswith("_")]
    return ".".join(parts[: private[0]] if private else parts)


def is_standard(name: str) -> bool:
    """Say whether this module is there wherever Python is, or is not to be shipped at all."""
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in _NEVER


def stamp_of(path: str) -> Stamp | None:
    """Return the present stamp of a file, None if there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return Stamp(path, found.st_mtime_ns, found.st_size)


def locate(name: str) -> LocalModule | None:
    """Return the local module called `name`, or None if there is none or it is installed."""
    if is_standard(name) or name.partition(".")[0] in _OURS:
        return None
    place = _place(name)
    if place is None or not _is_local_path(place[0]):
        return None
    path, is_package = place
    stamp = stamp_of(path)
    if stamp is None:
        return None
    known = _files.get(name)
    if known is None or known.stamp != stamp or known.source.is_package != is_package:
        known = _files[name] = _read(name, stamp, is_package=is_package)
    return known


def _place(name: str) -> tuple[str, bool] | None:
    """Return the source file of a module and whether it is a package."""
    module = sys.modules.get(name)
    if module is not None:
        path = getattr(module, "__file__", None)
        is_package = hasattr(module, "__path__")
    else:
        parent = name.rpartition(".")[0]
        around = locate(parent) if parent else None
        if parent and around is None:
            return None
        folders = [str(Path(around.source.path).parent)] if around else None
        spec = PathFinder.find_spec(name, folders)
        path = spec.origin if spec and spec.has_location else None
        is_package = bool(spec and spec.submodule_search_locations)
    return (path, is_package) if isinstance(path, str) and path.endswith(".py") else None


def _read(name: str, stamp: Stamp, *, is_package: bool) -> LocalModule:
    source = Path(stamp.path).read_bytes()
    package = name if is_package else name.rpartition(".")[0]
    return LocalModule(
        ModuleSource(name, stamp.path, source, is_package), stamp, _imports(source, package)
    )


def _imports(source: bytes, package: str) -> tuple[str, ...]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # the worker's import will say what is wrong
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            members = tuple(alias.name for alias in node.names)
            names.update(
                dict.fromkeys(full(Import(node.module or "", node.level, members), package))
            )
    return tuple(names)


def full(found: Import, package: str) -> tuple[str, ...]:
    """Return the full names of what an import statement in `package` may import."""
    base = absolute(found, package)
    if base is None:
        return ()
    return (base, *(f"{base}.{member}" for member in found.members))


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@lru_cache(maxsize=4096)
def _is_local_path(path: str) -> bool:
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return not any(Path(path).is_relative_to(folder) for folder in _installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return (*(paths[n] for n in names), *site.getsitepackages(), site.getusersitepackages())


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return True
    parent = sys.modules.get(name.rpartition(".")[0])
    if "." in name and parent is None:
        return False
    folders = getattr(parent, "__path__", None)
    try:
        return PathFinder.find_spec(name, folders) is not None if folders or not parent else False
    except (ImportError, ValueError, AttributeError):
        return False
