"""`python -m kernel_worker.worker.building ALIVE`: builds one image, as stdin says.

The host agent starts it, and hands on what it writes. It leads a process group of its own, which
dies with the agent (`lifeline`), installers and all; these have the lock open too, so that nobody
else begins while one of them still writes.

Packages are installed by uv where it is found, else by the pip of the caller's interpreter, else by
one of the image's own. Both are configured as their user has configured them, by variables and
files; what pip alone was told about where packages are, uv is told too.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker import images
from kernel_worker.borrowing import IMAGE_FILES, prelude
from kernel_worker.errors import Error, InvalidError
from kernel_worker.model import Environment, ImageSpec
from kernel_worker.worker import lifeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kernel_worker.model import ImageStep

_ORDER: msgspec.msgpack.Decoder[tuple[ImageSpec, str, Environment]] = msgspec.msgpack.Decoder(
    tuple[ImageSpec, str, Environment]
)
_OF_UV = {
    "index_url": "UV_DEFAULT_INDEX",
    "extra_index_url": "UV_INDEX",
    "find_links": "UV_FIND_LINKS",
    "no_index": "UV_NO_INDEX",
    "trusted_host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""What pip's settings are called as variables of uv."""
_TOLD_UV = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_NO_INDEX", "UV_CONFIG_FILE")
_HAS_PIP = "import pip, sys; sys.exit([*map(int, pip.__version__.split('.')[:2])] < [22, 3])"
_NO_NETWORK = (
    "Temporary failure in name resolution",
    "Failed to establish a new connection",
    "Could not connect",
    "dns error",
    "error sending request",
    "Network is unreachable",
    "Connection refused",
)
_NO_SPACE = ("No space left on device", "Disk quota exceeded")
_NONE_FOUND = ("(from versions: none)", "was not found in the package registry")


def main() -> int:
    """Build what stdin says; return the exit status."""
    lifeline.arm(int(sys.argv[1]))
    spec, folder, caller = _ORDER.decode(sys.stdin.buffer.read())
    try:
        build(spec, Path(folder), caller)
    except Error as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"{type(error).__name__}: {error}.{hint_of(str(error), ())}")
        return 1
    return 0


def build(spec: ImageSpec, folder: Path, caller: Environment) -> None:
    """Build an image and what lies beside it, where they are not there.

    Raises:
        InvalidError: a step of it failed; what it wrote says why.
        OSError: the disk.
    """
    files = images.name_of_files(spec)
    if files and not _is_there(folder, files):
        with _alone(folder, files):
            if not images.is_complete(folder / files):
                _unpack(spec, folder / files)
    name = images.name_of(spec, caller.python)
    if _is_there(folder, name):
        return
    with _alone(folder, name) as lock:
        if images.is_complete(folder / name):
            return
        started = time.monotonic()
        with _whole(folder / name):
            _Builder(spec, folder, caller, lock).run()
            seconds = time.monotonic() - started
            about = images.About(spec.title, os.path.realpath(caller.python), seconds)
            images.complete(folder / name, about)
        _say(f"The image is ready after {seconds:.1f} s.")


def _is_there(folder: Path, name: str) -> bool:
    """Return whether it is complete: then nobody need be alone with it."""
    lock = images.use(folder, name)
    if lock is not None:
        os.close(lock)
    return lock is not None


class _alone:  # noqa: N801  used like a function
    """`images.alone`, which says so where it has to wait."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> int:
        try:
            return self._stack.enter_context(images.alone(self._folder, self._name, waits=False))
        except BlockingIOError:
            _say("Another process builds or uses it: waiting for that.")
        return self._stack.enter_context(images.alone(self._folder, self._name))

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Leave nothing at `path` of what is not made to the end: a disk may be full of it."""
    images.remove(path)
    try:
        yield
    except BaseException:
        images.remove(path)
        raise


def _unpack(spec: ImageSpec, path: Path) -> None:
    with _whole(path):
        for file in spec.files:
            place = path / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.content)
            place.chmod(file.mode)
        images.complete(path, images.About(f"{len(spec.files)} files"))


class _Builder:
    """One build."""

    def __init__(self, spec: ImageSpec, folder: Path, caller: Environment, lock: int) -> None:
        self._spec = spec
        self._caller = caller
        self._lock = lock
        self._path = folder / images.name_of(spec, caller.python)
        self._python = str(images.python_of(self._path))
        files = images.name_of_files(spec)
        self._files = folder / files if files else None
        self._uv = _find_uv(caller)
        self._pip: list[str] | None = None
        self._configured: dict[str, str] | None = None

    def run(self) -> None:
        """Make the environment and do every step."""
        _say(f"Building an image, once on this machine: {self._spec.title}")
        self._do("venv", [self._caller.python, "-m", "venv", "--without-pip", str(self._path)])
        for step in self._spec.steps:
            _say(f"$ {step.title}")
            variables = dict(step.variables)
            if step.kind == "function":
                self._call(step, variables)
            else:
                self._install(step, variables)

    def _install(self, step: ImageStep, variables: dict[str, str]) -> None:
        if step.kind == "uv" and self._uv is None:
            raise InvalidError(
                f"{step.title}: uv is not found on PATH, nor beside {self._caller.python}; install "
                "it (`pip install uv`), or use .pip_install(...), which takes pip then."
            )
        with tempfile.TemporaryDirectory() as scratch:
            limits = Path(scratch) / "what-workers-need.txt"
            limits.write_text("".join(f"{line}\n" for line in self._spec.constraints))
            arguments = ["--constraint", str(limits), *step.arguments]
            if step.requirements:
                wanted = Path(scratch) / "requirements.txt"
                wanted.write_text(step.requirements)
                arguments += ["--requirement", str(wanted)]
            if self._uv is not None:
                command = [self._uv, "pip", "install", "--no-progress", "--python", self._python]
                variables = {**self._told_by_pip(), **variables}
            else:
                command = [*self._find_pip(), "install", "--no-input", "--progress-bar", "off"]
            self._do(step.title, [*command, *arguments], variables)

    def _find_pip(self) -> list[str]:
        """Return the command of a pip that installs into the image."""
        if self._pip is None:
            shared = [self._caller.python, "-m", "pip"]
            if _succeeds([self._caller.python, "-c", _HAS_PIP]):
                self._pip = [*shared, "--disable-pip-version-check", "--python", self._python]
            elif _succeeds([self._python, "-m", "ensurepip"]):
                self._pip = [self._python, "-m", "pip", "--disable-pip-version-check"]
            else:
                raise InvalidError(
                    f"{self._caller.python} has no pip (22.3 or newer) and no ensurepip, and uv is "
                    "not found: install one of them."
                )
        return self._pip

    def _told_by_pip(self) -> dict[str, str]:
        """Return what pip was told about where packages are, in uv's words, unless uv was told."""
        if self._configured is None:
            self._configured = {}
            if not any(name in os.environ for name in _TOLD_UV) and not _uv_files():
                listed = subprocess.run(
                    [self._caller.python, "-m", "pip", "config", "list"],
                    check=False,
                    capture_output=True,
                    text=True,
                )
                self._configured = in_words_of_uv(listed.stdout)
        return self._configured

    def _call(self, step: ImageStep, variables: dict[str, str]) -> None:
        content = os.memfd_create("notebook-ext-function")
        with os.fdopen(os.dup(content), "wb") as stream:
            stream.write(step.content)
        os.lseek(content, 0, os.SEEK_SET)
        os.set_inheritable(content, True)
        files = [str(self._files)] if self._files else []
        home = str(Path(images.__file__).parent.parent)
        code = (
            f"{prelude((*self._caller.path, home), files)}"
            f"from kernel_worker.worker.building import call; call({content})"
        )
        where = {"VIRTUAL_ENV": str(self._path)}
        if self._files:
            where[IMAGE_FILES] = str(self._files)
        try:
            self._do(step.title, [self._python, "-c", code], {**where, **variables}, (content,))
        finally:
            os.close(content)

    def _do(
        self,
        title: str,
        command: Sequence[str],
        variables: dict[str, str] | None = None,
        files: tuple[int, ...] = (),
    ) -> None:
        """Run a command whose output is ours; the lock is open in it.

        Raises:
            InvalidError: it failed.
        """
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_own_variables(), **(variables or {})},
            pass_fds=(self._lock, *files),
        )
        assert process.stdout is not None  # noqa: S101  asked for
        seen = b""
        with process.stdout as stream:
            while part := os.read(stream.fileno(), 65536):
                seen = (seen + part)[-65536:]
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
        status = process.wait()
        if status:
            hint = hint_of(seen.decode(errors="replace"), self._spec.constraints)
            raise InvalidError(f"{title} failed (exit status {status}).{hint}")


def _own_variables() -> dict[str, str]:
    """Return what installers are started with: nothing that has them install elsewhere."""
    elsewhere = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "NO_COLOR": "1", "PIP_USER": "0"}


def call(file: int) -> None:
    """Call the function that `file` holds: what an image's interpreter does for `run_function`."""
    import pickle  # noqa: PLC0415  in that process only

    from kernel_worker.worker.binding import Binding  # noqa: PLC0415  likewise

    code, snapshot, arguments = msgspec.msgpack.decode(
        Path(f"/proc/self/fd/{file}").read_bytes(), type=tuple[bytes, bytes, bytes]
    )
    binding = Binding.load(code)
    binding.bind(snapshot)
    args, kwargs = pickle.loads(arguments)
    made: Any = binding.function(*args, **kwargs)
    if binding.is_async:
        import asyncio  # noqa: PLC0415  likewise

        asyncio.run(made)


def in_words_of_uv(listed: str) -> dict[str, str]:
    """Return what `pip config list` says about where packages are, as variables of uv."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.rpartition(".")
        variable = _OF_UV.get(key.replace("-", "_"))
        if not equals or variable is None or section not in {"global", "install", ":env:"}:
            continue
        with contextlib.suppress(ValueError, SyntaxError):
            text = str(ast.literal_eval(value))  # pip writes a `repr`
            found[variable] = ("," if variable == "UV_FIND_LINKS" else " ").join(text.split())
    return found


def _uv_files() -> bool:
    """Return whether the user has configured uv by a file."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return (Path(home) / "uv" / "uv.toml").exists() or Path("/etc/uv/uv.toml").exists()


def _find_uv(caller: Environment) -> str | None:
    """Return the uv that the caller has, beside its interpreter or on PATH."""
    beside = Path(caller.python).parent / "uv"
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("uv", path=caller.variables.get("PATH"))


def _succeeds(command: Sequence[str]) -> bool:
    return not subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True
    ).returncode


def hint_of(seen: str, constraints: Sequence[str]) -> str:
    """Return what to do, where what an installer wrote is known to mean something."""
    if any(each in seen for each in _NO_SPACE):
        return (
            " The disk of the setting data_dir is full, or that of temporary files: make room "
            "(`notebook-ext image prune` removes images that are not in use), or set another one."
        )
    if any(each in seen for each in _NO_NETWORK):
        return (
            " No package index could be reached from here: connect this machine, tell pip or uv of "
            "one that it reaches (their own configuration counts), or install from files."
        )
    if any(each in seen for each in _NONE_FOUND):
        return " The index that pip or uv uses here has no such package, or could not be reached."
    if found := [each for each in constraints if each in seen]:
        return f" Workers need {', '.join(found)}, as the notebook has it."
    return ""


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  its output is what it is for


if __name__ == "__main__":
    sys.exit(main())
