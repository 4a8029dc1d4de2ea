"""What an image's interpreter borrows of an installation: our packages and those that they need.

Theory. An image has what the user asked for. Our workers need more: themselves, pyzmq, msgspec,
cloudpickle and, to show things and to be attached to, ipykernel. Installing these anew would need a
package index for each image, in versions that fit the notebook's. They are there: the image is made
with the notebook's own interpreter, so that what it has installed runs there too. So `prelude` adds
a finder that comes *last*, and knows the names of these packages and no others: what the notebook
has besides is not seen, and what the image has itself comes first.

Metadata is read here and not by `importlib.metadata`, whose import alone is larger than the agent
may be.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IMAGE = "NOTEBOOK_EXT_IMAGE"
"""The variable that says to workers what is in their image …"""
IMAGE_FILES = "NOTEBOOK_EXT_IMAGE_FILES"
"""… and where the files lie that came with it."""
OURS = frozenset({"kernel_worker", "notebook_ext"})
_DISTRIBUTION = "notebook-ext"
_NEEDED = frozenset({"_cffi_backend", "cloudpickle", "cryptography", "msgspec", "nacl", "zmq"})
"""Where no metadata says it (a checkout on the path): what a worker cannot do without."""
_REQUIREMENT = re.compile(r"Requires-Dist: *([A-Za-z0-9][A-Za-z0-9._-]*)(.*)")
_FINDER = """\
import sys
from importlib.machinery import PathFinder
class Borrowed:
    names, places = frozenset({names!r}), {places!r}
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name in cls.names:
            return PathFinder.find_spec(name, cls.places)
sys.meta_path.append(Borrowed)
sys.path[:1] = {files!r}
"""


def prelude(places: Sequence[str], files: Sequence[str]) -> str:
    """Return what an image's interpreter, started with `-c`, executes first.

    Args:
        places: the module path of the installation from which it borrows.
        files: what comes first on its own path.
    """
    found = tuple(places)
    return _FINDER.format(names=names(found), places=list(found), files=list(files))


@lru_cache(maxsize=8)
def names(places: tuple[str, ...]) -> tuple[str, ...]:
    """Return the top-level modules that `notebook-ext` and all that it requires consist of."""
    known = dict(_distributions(places))
    found = {*OURS, *_NEEDED}
    todo, seen = [_DISTRIBUTION], set[str]()
    while todo:
        name = todo.pop()
        about = known.get(name)
        if name in seen or about is None:
            continue
        seen.add(name)
        found.update(_top_level(about))
        todo += _requirements(about)
    return tuple(sorted(found))


def _distributions(places: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield name and metadata folder of what is installed, the first on the path last."""
    for place in reversed(places):
        with contextlib.suppress(OSError):
            for about in Path(place).glob("*.dist-info"):
                yield _normalised(about.name.partition("-")[0]), about


def _normalised(name: str) -> str:
    """Return a distribution's name in one form. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(about: Path) -> list[str]:
    found = []
    for line in _lines(about / "METADATA"):
        if not line:
            break  # the description follows
        match = _REQUIREMENT.match(line)
        if match and "extra ==" not in match[2]:
            found.append(_normalised(match[1]))
    return found


def _top_level(about: Path) -> set[str]:
    """Return the names of the modules and packages at the top of a distribution."""
    tops = set()
    for line in _lines(about / "RECORD"):
        top, slash, _ = line.partition("/")
        if slash and not top.endswith((".dist-info", ".data", ".libs")) and top != "..":
            tops.add(top)
        elif not slash and (name := top.partition(",")[0]).endswith((".py", ".so")):
            tops.add(name.partition(".")[0])
    return tops - {"__pycache__", "bin"}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
