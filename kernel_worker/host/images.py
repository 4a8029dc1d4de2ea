"""The images that this host's templates start in: found in the cache, or built first.

Theory. An environment that names an image is *resolved*: its interpreter is that of the image, and
its module path the image's own. Where the image is in the cache, it is taken into use by a lock and
is there at once. Otherwise a process of its own builds it (`worker.building`), and what that writes
is handed on, line by line, to whoever waits. A build that fails is forgotten: the next worker that
is asked for tries again, and those that waited hear the last lines.

Guarantees: one build of an image at a time on this machine, whichever host or profile asks; a build
dies with its agent, installers and all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kernel_worker import images
from kernel_worker.borrowing import IMAGE, IMAGE_FILES, prelude
from kernel_worker.host.workers import end_of_load, kill_group
from kernel_worker.model import Environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.model import ImageSpec

_PROGRAM = "kernel_worker.worker.building"
"""By name: the rooms host and worker do not import each other."""
_LAST_LINES = 25
_READ_BYTES = 64 * 1024
_TRIES = 3
_NOT_IN_AN_IMAGE = ("PYTHONPATH", "PYTHONHOME")


class Here(NamedTuple):
    """What an encoded `Environment` is on this host."""

    environment: Environment
    encoded: bytes
    image: Wanted | None = None


class Wanted(NamedTuple):
    """An image that templates start in."""

    spec: ImageSpec
    name: str
    files: str
    """The name of the files beside it; empty where there are none."""
    caller: Environment
    """As the image is made with, and borrows from."""
    folder: Path

    @property
    def path(self) -> Path:
        """Where it lies, or will."""
        return self.folder / self.name

    @property
    def names(self) -> tuple[str, ...]:
        """What must be in the cache."""
        return (self.name, self.files) if self.files else (self.name,)

    def prelude(self) -> str:
        """Return what an interpreter in it executes first."""
        files = [str(self.folder / self.files)] if self.files else []
        return prelude((*self.caller.path, _HOME), files)


_HOME = str(Path(images.__file__).parent.parent)


class Build:
    """One process that builds, and who waits for it."""

    def __init__(self, wanted: Wanted) -> None:
        """Plan to build `wanted`."""
        self.wanted = wanted
        self.pid = 0
        self.output = -1
        """The read end of what it writes."""
        self.lines: list[str] = []
        """The last that it wrote."""
        self.begun = b""
        """A line that has no end yet."""
        self.tries = 0
        self.waiting: list[Callable[[str], None]] = []

    def note(self) -> bytes:
        """Return what is said to somebody who comes late; nothing where nothing was missed."""
        title = self.wanted.spec.title
        return f"Waiting for the image, which is being built: {title}\n".encode() * bool(self.lines)


class Images:
    """Those of one host agent."""

    def __init__(
        self,
        folder: Callable[[], Path],
        alive: int,
        watch: Callable[[Build], None],
        unwatch: Callable[[Build], None],
    ) -> None:
        """Build nothing yet.

        Args:
            folder: returns where they lie; asked when the first image is.
            alive: the read end of the lifeline.
            watch: called with a build that has begun: it is to be read and reaped.
            unwatch: called when nothing more is to be read of it.
        """
        self.host = ""
        """What this machine is called; empty where packages are not to be compared."""
        self._find_folder = folder
        self._alive = alive
        self._watch = watch
        self._unwatch = unwatch
        self._folder: Path | None = None
        self._used: dict[str, int] = {}
        """Open files that keep what is in use in the cache."""
        self._builds: dict[tuple[str, ...], Build] = {}
        self.resolve = lru_cache(maxsize=16)(self._resolve)
        """`_resolve` of what was asked lately."""

    def _resolve(self, environment: bytes) -> Here:
        """Return what an encoded environment is here.

        That of a caller on another machine is this host's own, with the variables that the
        function's options set.

        Raises:
            InvalidError: there is no place for images.
        """
        decoded = msgspec.msgpack.decode(environment, type=Environment)
        if not decoded.python:
            variables = {**os.environ, **decoded.variables}
            decoded = msgspec.structs.replace(
                decoded,
                python=sys.executable,
                path=tuple(sys.path),
                variables=variables,
                host=self.host,
            )
        elif decoded.image is None:
            return Here(decoded, environment)
        wanted = None
        if decoded.image is not None:
            wanted = self._wanted(decoded, decoded.image)
            decoded = _inside(wanted)
        return Here(decoded, msgspec.msgpack.encode(decoded), wanted)

    def _wanted(self, caller: Environment, spec: ImageSpec) -> Wanted:
        if self._folder is None:
            self._folder = self._find_folder()
        name, files = images.name_of(spec, caller.python), images.name_of_files(spec)
        return Wanted(spec, name, files, caller, self._folder)

    def build_of(self, environment: bytes) -> Build | None:
        """Return what builds the image of an environment just now."""
        wanted = self.resolve(environment).image
        return self._builds.get(wanted.names) if wanted is not None else None

    def prepare(self, wanted: Wanted, then: Callable[[str], None]) -> None:
        """Call `then` once an image is there, at once if it is; with why, where it cannot be."""
        if self._take_into_use(wanted):
            then("")
            return
        build = self._builds.get(wanted.names)
        if build is None:
            build = self._builds[wanted.names] = Build(wanted)
            build.waiting.append(then)
            self._begin(build)
        else:
            build.waiting.append(then)

    def _take_into_use(self, wanted: Wanted) -> bool:
        """Return whether it is complete; then it stays while this agent lives."""
        for name in wanted.names:
            if name in self._used and images.note_use(wanted.folder, name):
                continue
            lock = images.use(wanted.folder, name)
            if lock is None:
                return False
            if name in self._used:
                os.close(self._used[name])
            self._used[name] = lock
        return True

    def _begin(self, build: Build) -> None:
        """Start the process that builds."""
        build.tries += 1
        for name in build.wanted.names:
            if name in self._used and not images.is_complete(build.wanted.folder / name):
                os.close(self._used.pop(name))  # or it would wait for us
        caller, folder = build.wanted.caller, build.wanted.folder
        told = msgspec.structs.replace(caller, variables=_for_a_build(caller), image=None)
        order = msgspec.msgpack.encode((build.wanted.spec, str(folder), told))
        asked = os.memfd_create("notebook-ext-image")
        with os.fdopen(os.dup(asked), "wb") as stream:
            stream.write(order)
        os.lseek(asked, 0, os.SEEK_SET)
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, str(self._alive)],
                stdin=asked,
                stdout=write,
                stderr=write,
                env=_for_a_build(caller),
                cwd="/",
                pass_fds=(self._alive,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(read)
            self._end(build, f"{sys.executable} cannot be started: {error}")
            return
        finally:
            os.close(asked)
            os.close(write)
        process.returncode = 0  # the agent reaps its children itself
        build.pid, build.output = process.pid, read
        os.set_blocking(read, False)
        self._watch(build)

    def hear(self, build: Build) -> bytes:
        """Return the whole lines that a build has written since the last time."""
        text = build.begun
        with contextlib.suppress(BlockingIOError):
            while part := os.read(build.output, _READ_BYTES):
                text += part
            self._unwatch(build)
            text += b"\n" if text and not text.endswith(b"\n") else b""
        whole, newline, build.begun = text.rpartition(b"\n")
        lines = whole.decode(errors="replace").splitlines()
        build.lines = [*build.lines, *lines][-_LAST_LINES:]
        return whole + newline

    def last_words(self, build: Build) -> bytes:
        """Return what is left to be heard of a build whose process has ended and is reaped."""
        kill_group(build.pid)  # installers that it left
        text = self.hear(build)
        return text + (build.begun + b"\n" if build.begun else b"")

    def exited(self, build: Build, status: int) -> None:
        """The process has ended, is reaped and was heard: tell those who wait."""
        self._unwatch(build)
        os.close(build.output)
        build.output = -1
        if status:
            how, _ = end_of_load(status)
            self._end(build, self._why(build, "" if how == "exit code 1" else f" ({how})"))
        elif self._take_into_use(build.wanted):
            self._end(build, "")
        elif build.tries < _TRIES:
            self._begin(build)  # somebody has removed it already
        else:
            self._end(build, "what was built is gone again, three times")

    @staticmethod
    def _why(build: Build, how: str) -> str:
        last = "\n".join(f"  {line}" for line in build.lines)
        return f"the image ({build.wanted.spec.title}) cannot be built{how}:\n{last}"

    def _end(self, build: Build, why: str) -> None:
        del self._builds[build.wanted.names]
        for then in build.waiting:
            then(why)


def _inside(wanted: Wanted) -> Environment:
    """Return the environment of a template in an image: without what it is made from."""
    variables = {k: v for k, v in wanted.caller.variables.items() if k not in _NOT_IN_AN_IMAGE}
    programs = str(wanted.path / "bin")
    path = variables.get("PATH", "")
    variables |= {
        "PATH": f"{programs}{os.pathsep}{path}" if path else programs,
        "VIRTUAL_ENV": str(wanted.path),
        IMAGE: wanted.spec.title,
    }
    if wanted.files:
        variables[IMAGE_FILES] = str(wanted.folder / wanted.files)
    python = str(images.python_of(wanted.path))
    return Environment(python, (), variables, wanted.caller.stamp)


def own_where_missing(environment: bytes, host: str = "") -> bytes:
    """Return an encoded `Environment`: where its interpreter is not on this machine, our own.

    Args:
        environment: that of a notebook which may be on another machine.
        host: what this machine is called, where packages are to be compared.
    """
    decoded = msgspec.msgpack.decode(environment, type=Environment)
    if not decoded.python or os.access(decoded.python, os.X_OK):
        if decoded.host == host:
            return environment
        return msgspec.msgpack.encode(msgspec.structs.replace(decoded, host=host))
    wanted = {name: decoded.variables[name] for name in decoded.options}
    own = msgspec.structs.replace(decoded, python="", path=(), variables=wanted, host=host)
    return msgspec.msgpack.encode(own)


def _for_a_build(caller: Environment) -> dict[str, str]:
    """Return what the installers see: the caller's own configuration of them is in it.

    What the function's options set is not: it may be secret. `PYTHONPATH` is this process's, so
    that the program is found.
    """
    others = {*caller.options, *_NOT_IN_AN_IMAGE}
    kept = {k: v for k, v in caller.variables.items() if k not in others}
    return {**kept, **{k: os.environ[k] for k in others if k in os.environ}}
