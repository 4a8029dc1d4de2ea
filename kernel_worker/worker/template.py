"""A template: a single-threaded process from which templates and workers are forked.

    base template        our modules, nothing of the user's
      imports template   the environment, and the installed modules that some functions share
        function template   the code of one function version
          worker            runs inputs

Theory. A template is a loop around one socket to the host agent. It loads when it is told to, says
whether a fork of it would work, forks when it is told to, reaps its children and reports how they
ended. In the child of a fork the loop *returns* what the child is to become, so that a worker's
stack is as clean as a fresh process's.

Guarantees: each child leads a session and a process group of its own, tied to the host agent's
life; when one has ended, its group is killed before it is reaped. A template has one thread, no ZMQ
context and no CUDA context when it forks, or it says `Unsafe`.
Not guaranteed: that user code did nothing else at import that a fork breaks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, assert_never

import msgspec

from kernel_worker.borrowing import IMAGE
from kernel_worker.errors import InvalidError, VersionError
from kernel_worker.model import Environment
from kernel_worker.wire import failures, local
from kernel_worker.worker import lifeline, main
from kernel_worker.worker.binding import Binding, compared, missing_package
from kernel_worker.worker.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from kernel_worker.worker.output import StreamName

_OURS = frozenset({"JPY_PARENT_PID"})
_CUDA_DEVICE = "/dev/nvidia-uvm"
_LACK_CHARACTERS = 200
_CHECK_CUDA_QUIETLY = "PYTORCH_NVML_BASED_CUDA_CHECK"


@dataclass(slots=True)
class Loaded:
    """What this process has loaded; forks inherit it."""

    binding: Binding | None = None
    instance: Instance | None = None
    said: list[tuple[StreamName, str]] = field(default_factory=list)
    """What the instance's hooks wrote here: the first worker says it."""
    host: str = ""
    """What this machine is called, where it need not be the caller's."""
    threads: dict[str, str | None] = field(default_factory=dict)
    """The caller's values of the variables that are 1 while templates import."""


class Template:
    """One template: its socket and its children."""

    def __init__(self, end: socket.socket, alive: int, loaded: Loaded) -> None:
        """Serve `end`; `alive` is the read end of the lifeline."""
        self._end = end
        self._alive = alive
        self._loaded = loaded
        self._children: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def serve(self) -> Callable[[], object]:
        """Work until the host agent hangs up; return, in this process or in a child, what next."""
        while True:
            for file, _event in self._poll.poll():
                if file == self._end.fileno():
                    received = local.receive(self._end, local.to_template)
                    if received is None:
                        return lambda: os._exit(0)
                    become = self._obey(*received)
                    if become is not None:
                        return become
                else:
                    self._reap(file)

    def _obey(self, message: local.ToTemplate, files: list[int]) -> Callable[[], object] | None:
        match message:
            case local.Load():
                self._load(message, files)
                return None
            case local.ForkTemplate():
                return self._fork(message.request, lambda: self._be_template(files[0]), files)
            case local.ForkWorker():
                return self._fork(message.request, lambda: self._be_worker(message, files), files)
            case _:
                assert_never(message)

    # ---- loading --------------------------------------------------------------------------

    def _load(self, message: local.Load, files: list[int]) -> None:
        try:
            load(self._loaded, message, files)
        except BaseException as error:  # noqa: BLE001  the broker hears of it
            frame = local.anonymous_file(failures.capture(error), "failure")
            text = f"{type(error).__name__}: {error}"[:1000]
            lack = error.lack[:_LACK_CHARACTERS] if isinstance(error, VersionError) else ""
            local.send(self._end, local.LoadFailed(text, lack), frame)
            os.close(frame)
            return
        finally:
            local.close_all(files)
        sys.stdout.flush()  # or each fork would have it
        gc.collect()
        gc.freeze()
        reason = why_unsafe("enter(snap=True)" if message.makes_instance else "an import")
        local.send(self._end, local.Unsafe(reason) if reason else local.Loaded())

    # ---- forking and reaping ----------------------------------------------------------------

    def _fork(
        self, request: int, become: Callable[[], object], files: list[int]
    ) -> Callable[[], object] | None:
        pid = os.fork()
        if pid:
            local.close_all(files)
            child = os.pidfd_open(pid)
            self._children[child] = pid
            self._poll.register(child, select.POLLIN)
            local.send(self._end, local.Forked(request, pid))
            self._loaded.said.clear()
            return None
        os.setsid()
        lifeline.arm(self._alive)
        self._end.close()
        local.close_all(list(self._children))
        return become

    def _reap(self, child: int) -> None:
        """Report a child that has ended, after killing what it left in its group."""
        pid = self._children.pop(child)
        self._poll.unregister(child)
        os.waitid(os.P_PIDFD, child, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(child)
        local.send(self._end, local.Exited(pid, status))

    # ---- in the child -----------------------------------------------------------------------

    def _be_template(self, file: int) -> None:
        template = Template(socket.socket(fileno=file), self._alive, self._loaded)
        run(template)

    def _be_worker(self, message: local.ForkWorker, files: list[int]) -> NoReturn:
        own, rest = main.Files(*files[:6]), files[6 + message.locks :]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def binding() -> Binding | Instance:
            if message.load is not None:
                load(self._loaded, message.load, rest)
                local.close_all(rest)
            if self._loaded.instance is not None:
                return self._loaded.instance
            if self._loaded.binding is None:
                raise InvalidError("the template of this worker holds no function")
            return self._loaded.binding

        main.run(message, own, binding, self._loaded.threads, self._loaded.said)


def run(template: Template) -> NoReturn:
    """Serve, and become what comes after it."""
    become = template.serve()
    del template
    become()
    os._exit(0)


def be_base(end: socket.socket, alive: int) -> NoReturn:
    """Be the base template of a process that has just started or been forked for it."""
    lifeline.arm(alive)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = ["notebook-ext-worker"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    gc.disable()
    local.send(end, local.Loaded())
    run(Template(end, alive, Loaded()))


def start(file: int, alive: int) -> NoReturn:
    """Be the base template of a fresh interpreter: what the host agent's command line calls."""
    os.setsid()
    gc.collect()
    gc.freeze()
    be_base(socket.socket(fileno=file), alive)


# ---- what loading is ----------------------------------------------------------------------------


def load(loaded: Loaded, message: local.Load, files: list[int]) -> None:
    """Take on what `message` says, from `files`.

    Raises:
        Exception: whatever the function's own imports raise. An import of `message.imports` that
            fails is left to them: they say it better.
    """
    remaining = iter(files)
    if message.has_environment:
        content = local.content_of(next(remaining))
        _enter_environment(loaded, msgspec.msgpack.decode(content, type=Environment))
    for name in message.imports:
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)
    if message.has_code:
        code = local.content_of(next(remaining))
        loaded.said += [("stderr", line) for line in compared(code, loaded.host)]
        try:
            with _written(loaded.said) if message.seals else contextlib.nullcontext():
                loaded.binding = Binding.load(code)
        except ModuleNotFoundError as error:
            _note_image(error)
            named = missing_package(code, loaded.host, error)
            if named is None:
                raise
            raise named from error
    if message.has_instance and loaded.binding is not None:
        parameters, initial = map(local.content_of, remaining)
        loaded.instance = Instance(loaded.binding, parameters, initial)
        if message.makes_instance:
            with _written(loaded.said):
                loaded.instance.make(_run_coroutine)


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # noqa: PLC0415  30 ms that most templates never need

    return asyncio.run(coroutine)


@contextlib.contextmanager
def _written(said: list[tuple[StreamName, str]]) -> Iterator[None]:
    """Append what is written meanwhile, below Python too, to `said`."""
    sys.stdout.flush()
    streams: tuple[tuple[StreamName, int], ...] = (("stdout", 1), ("stderr", 2))
    files = {name: (os.dup(number), os.memfd_create(name)) for name, number in streams}
    for name, number in streams:
        os.dup2(files[name][1], number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for name, number in streams:
            before, file = files[name]
            os.dup2(before, number)
            if text := local.content_of(file).decode(errors="replace"):
                said.append((name, text))
            local.close_all([before, file])


def _enter_environment(loaded: Loaded, environment: Environment) -> None:
    """Take on the caller's module path and variables, numeric libraries kept to one thread."""
    os.environ.clear()
    os.environ.update({k: v for k, v in environment.variables.items() if k not in _OURS})
    loaded.host = environment.host
    loaded.threads = {name: os.environ.get(name) for name in main.THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(main.THREAD_VARIABLES, "1"))
    os.environ.setdefault(_CHECK_CUDA_QUIETLY, "1")
    if environment.path:  # in an image the interpreter has its own
        sys.path[:] = environment.path
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _note_image(error: ModuleNotFoundError) -> None:
    """Say of a module that is not there in which image it is not."""
    image = os.environ.get(IMAGE)
    if image is not None and error.name:
        name = error.name.partition(".")[0]
        error.add_note(
            f"The function runs in an image ({image}), and {name} is not in it: add it, as in "
            f".pip_install({name!r})."
        )


def why_unsafe(cause: str = "an import") -> str:
    """Say why a fork of this process would be broken; empty if it would not be.

    Args:
        cause: what has run here, for the text.
    """
    names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if names:
        return f"{cause} started threads ({', '.join(names[:3])})"
    count = len(os.listdir("/proc/self/task"))  # noqa: PTH208  this is not about paths
    if count > 1:
        return f"{cause} left {count - 1} threads of a library"
    if _has_open(_CUDA_DEVICE):
        return f"{cause} initialised CUDA"
    return ""


def _has_open(device: str) -> bool:
    for file in os.listdir("/proc/self/fd"):  # noqa: PTH208  this is not about paths
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{file}").startswith(device):  # noqa: PTH115
                return True
    return False
