"""Where a function runs: the interpreter, module path and variables of this process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from kernel_worker.borrowing import IMAGE
from kernel_worker.model import ELSEWHERE, Digest, Environment, digest_of, is_text
from notebook_ext import process

_NOT_SENT = frozenset(
    {
        "JPY_PARENT_PID",
        "JPY_SESSION_NAME",
        "NOTEBOOK_EXT_CONNECTION_FILE",
        "NOTEBOOK_EXT_SESSION",
    }
)


class Surroundings(NamedTuple):
    """An `Environment` as an object."""

    digest: Digest
    encoded: bytes


_STAMP_SECONDS = 0.2
"""How often the folders of installed packages are looked at."""


class _Known:
    """The environment that was found last."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.stamps: tuple[int, ...] = ()
        self.looked_at = -1.0
        self.folders: tuple[str, ...] = ()
        self.variables: dict[str, str] = {}
        self.is_far = False
        self.surroundings: Surroundings | None = None


_known = _Known()


def current() -> Surroundings:
    """Return the environment object; a new one after an install or a change of `sys.path`.

    Variables are those of the first use: later changes travel with each call. What is no UTF-8
    cannot travel and is left out.
    """
    now = time.monotonic()
    same_path = sys.path == _known.path and process.is_far() is _known.is_far
    if _known.surroundings is not None and same_path and now < _known.looked_at + _STAMP_SECONDS:
        return _known.surroundings
    _known.looked_at = now
    if not same_path:
        _known.path = list(sys.path)
        _known.is_far = process.is_far()
        _known.folders = tuple(p for p in sys.path if p.endswith(_INSTALLED_FOLDERS))
    stamps = tuple(map(_mtime_ns, _known.folders))
    if _known.surroundings is None or not same_path or stamps != _known.stamps:
        _known.stamps = stamps
        _known.surroundings = _made()
    return _known.surroundings


_INSTALLED_FOLDERS = ("site-packages", "dist-packages")


def _made() -> Surroundings:
    if not _known.variables:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in _NOT_SENT and is_text(name) and is_text(value)
        }
        _known.variables = dict(sorted(kept.items()))
    if _known.is_far or IMAGE in os.environ:  # in an image: where it was made from is not known
        encoded = msgspec.msgpack.encode(ELSEWHERE)
        return Surroundings(digest_of(encoded), encoded)
    here = os.getcwd()  # noqa: PTH109  what '' in sys.path means
    path = tuple(filter(is_text, dict.fromkeys(entry or here for entry in _known.path)))
    stamp = digest_of(repr(_known.stamps).encode())
    environment = Environment(sys.executable, path, _known.variables, stamp)
    encoded = msgspec.msgpack.encode(environment)
    return Surroundings(digest_of(encoded), encoded)


def at_start() -> dict[str, str]:
    """Return the variables that this process was started with: what differs was set in it."""
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _mtime_ns(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116  on the path of each call
    except OSError:
        return 0
