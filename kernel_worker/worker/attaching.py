"""A worker as a Jupyter kernel: a console beside the thread that runs users' functions.

Theory. `attach` starts ipykernel, which nobody has imported before, in a thread of its own. Its
namespace is the function's: what a cell changes, the next input sees. Standard output, displays and
`get_ipython` go by context: what a cell of the console writes is the console's, everything else
stays the call's. Whoever can read the connection file (mode 0600, in a directory of mode 0700) can
talk to the kernel; nothing listens on the network.

Guarantees: the worker serves calls as before, whatever is typed; an interrupt hits the console's
cell alone; a front end that shuts the kernel down detaches. The files go when the worker ends (the
host agent sees to that).
Not guaranteed: that a cell which waits in C code is interrupted before that returns; what threads
that a cell starts print is shown in the console.
"""

from __future__ import annotations

import atexit
import builtins
import contextvars
import ctypes
import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from kernel_worker import rendezvous
from kernel_worker.wire import messages
from kernel_worker.worker import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_worker.wire import local
    from kernel_worker.worker.channel import Channel
    from kernel_worker.worker.coroutines import Coroutines

_in_console: contextvars.ContextVar[bool] = contextvars.ContextVar("in_console", default=False)
_OF_KERNEL_STREAMS = ("set_parent", "parent_header")
_BANNER = """\
Worker {worker} of {name}, pid {pid}: it goes on with its calls meanwhile.
These are the globals of {name}: what you change, its next input sees.
inputs() shows what runs: inputs()[0].locals, .frame, .frames. Leaving only detaches.
"""


def attach(
    start: local.ForkWorker,
    namespace: Callable[[], dict[str, Any]],
    coroutines: Coroutines,
    channel: Channel,
) -> None:
    """Become a kernel; the broker is told. Returns at once.

    Args:
        start: what the worker was started with.
        namespace: returns the globals of the function.
        coroutines: where `async` functions run.
        channel: the connection to the broker.
    """

    def serve() -> None:
        path = rendezvous.kernel_path(start.connection_file, start.worker)
        try:
            loop = _start(start, path, namespace(), coroutines)
        except BaseException as error:  # noqa: BLE001  whoever asked hears of it
            text = f"{type(error).__name__}: {error}"
            channel.post(messages.KernelAttached(str(path), text))
            return
        loop.call_soon(channel.post, messages.KernelAttached(str(path)))
        while True:
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                continue  # it came when its cell had just ended

    threading.Thread(target=serve, name="notebook-ext-console", daemon=True).start()


def _start(
    start: local.ForkWorker, path: Path, namespace: dict[str, Any], coroutines: Coroutines
) -> Any:
    """Start the kernel and return the loop of this thread, which serves it."""
    import asyncio  # noqa: PLC0415  see the docstring of this file

    _in_console.set(True)  # also in the tasks of the loop, which inherit it
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    rendezvous.make_kernel_directory(path)
    mine = sys.stdout, sys.stderr, sys.displayhook, sys.excepthook
    app = _make_app(start, namespace)
    own = {name: namespace[name] for name in _NAMES if name in namespace}
    app.initialize(
        [
            "--IPKernelApp.capture_fd_output=False",
            "--HistoryManager.hist_file=:memory:",
            "--transport=ipc",
            f"--ip={path.with_suffix('')}",
            f"--IPKernelApp.connection_file={path}",
        ]
    )
    for name in _NAMES:
        namespace.pop(name, None)  # a function that calls `exit` means Python's
    namespace.update(own)
    app.shell.input_transformers_cleanup.append(_leave)
    _share_streams(*mine)
    _share_shell(app.shell)
    if not hasattr(builtins, "inputs"):
        builtins.inputs = partial(running.inputs, lambda: coroutines.known_loop)  # type: ignore[attr-defined]
    atexit.unregister(app.close)  # it would wait for this thread; the process ends anyway
    app.kernel.start()
    return loop


_NAMES = ("exit", "quit", "open", "In", "Out")
"""What IPython puts into a namespace, and a function may mean something else by."""
_LEAVING = ("exit", "quit", "exit()", "quit()")


def _leave(lines: list[str]) -> list[str]:
    """Let a cell that says `exit` leave, although the name is not in the namespace."""
    return ["get_ipython().ask_exit()\n"] if "".join(lines).strip() in _LEAVING else lines


def _make_app(start: local.ForkWorker, namespace: dict[str, Any]) -> Any:
    from ipykernel.ipkernel import IPythonKernel  # noqa: PLC0415  see the docstring of this file
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415  likewise
    from ipykernel.zmqshell import ZMQInteractiveShell  # noqa: PLC0415  likewise
    from traitlets import Any as Default  # noqa: PLC0415  likewise

    thread = threading.get_ident()
    module: Any = sys.modules.get(namespace.get("__name__", ""))
    if module is not None and vars(module) is not namespace:
        module = None

    class Shell(ZMQInteractiveShell):
        """One of two in the process: the other one shows what functions display."""

        @classmethod
        def instance(cls, *args: Any, **kwargs: Any) -> Any:
            return cls(*args, **kwargs)

        def ask_exit(self) -> None:
            """Let the front end leave; the kernel stays."""
            assert self.payload_manager is not None  # noqa: S101  it is a kernel's
            self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": True})

    class Kernel(IPythonKernel):
        """Leaves signals, and the end of the process, to the worker."""

        shell_class = Shell
        user_module = Default(module)
        banner = _BANNER.format(worker=start.worker, name=start.spec.name, pid=os.getpid())
        _cells = 0

        async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
            _in_console.set(True)  # a subshell has a thread of its own
            is_main = threading.get_ident() == thread
            self._cells += is_main
            try:
                return await super().do_execute(*args, **kwargs)  # type: ignore[no-untyped-call]
            finally:
                self._cells -= is_main

        def pre_handler_hook(self) -> None:
            pass

        def post_handler_hook(self) -> None:
            pass

        def _send_interrupt_children(self) -> None:
            if self._cells:
                interrupt = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), interrupt)

        async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
            content = {"status": "ok", "restart": False}
            assert self.session is not None  # noqa: S101  it has begun
            self.session.send(stream, "shutdown_reply", content, parent, ident=ident)

    class App(IPKernelApp):
        """Starts the kernel, and nothing of the user's profile."""

        kernel_class = Kernel

        def nothing(self, *_: Any) -> None:
            pass

        init_signal = init_pdb = init_crash_handler = init_path = nothing
        init_gui_pylab = init_extensions = init_code = patch_io = nothing
        configure_tornado_logger = nothing

        def log_connection_info(self) -> None:
            names = ("shell", "iopub", "stdin", "hb", "control")
            self._ports = {name: getattr(self, f"{name}_port") for name in names}

    app = App.instance()
    app.user_ns = namespace
    return app


class _Shared:
    """`sys.stdout` or `sys.stderr`: the console's for what its cells write, else the call's."""

    def __init__(self, mine: Any, kernels: Any) -> None:
        self._mine = mine
        self._kernels = kernels

    def write(self, text: str) -> int:
        """Write to the one whose context this is."""
        written: int = self._chosen().write(text)
        return written

    def flush(self) -> None:
        """Flush it."""
        self._chosen().flush()

    def _chosen(self) -> Any:
        return self._kernels if _in_console.get() else self._mine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels if name in _OF_KERNEL_STREAMS else self._mine, name)


def _share_streams(stdout: Any, stderr: Any, displayhook: Any, excepthook: Any) -> None:
    """Put the process's streams back for everybody but the console."""
    sys.stdout = _Shared(stdout, sys.stdout)
    sys.stderr = _Shared(stderr, sys.stderr)
    sys.displayhook, sys.excepthook = displayhook, excepthook


def _share_shell(shell: Any) -> None:
    """Let `get_ipython` and `display` find the console's shell in its cells, and there alone."""
    from IPython.core.interactiveshell import InteractiveShell  # noqa: PLC0415  it is imported

    base: Any = InteractiveShell
    find, look = base.instance.__func__, base.initialized.__func__

    def instance(cls: type, *args: Any, **kwargs: Any) -> Any:
        return shell if _in_console.get() else find(cls, *args, **kwargs)

    def initialized(cls: type) -> bool:
        return _in_console.get() or look(cls)

    base.instance, base.initialized = classmethod(instance), classmethod(initialized)
