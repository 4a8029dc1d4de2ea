"""Rich displays in a worker: what `display(...)` shows here is shown where the call was made.

Theory. IPython's `display` asks the process's shell for formatters and for a publisher, and without
a shell it prints. A worker has none, and it does not import IPython by itself: an idle worker stays
light. But when somebody does (or where a template has), `InteractiveShell.initialized` is taught to
make a `Shell` on demand: formatters and a publisher, no history, no namespace, nothing compiled.
That is enough for `display`, its handles, `clear_output`, and for matplotlib's inline backend. The
figures that an input leaves open are shown, and closed, when it ends, as at the end of a cell.

Guarantees: displays and prints of an input keep their order; a worker whose function displays
nothing imports nothing for it. `display` is a builtin, as in a notebook.
Not guaranteed: magics, `get_ipython().user_ns`, widgets: they need a kernel.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any

from kernel_worker.wire.display import Display

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from kernel_worker.worker.output import Output

_SHELL_MODULE = "IPython.core.interactiveshell"
_INLINE_MODULE = "matplotlib_inline.backend_inline"


def install(output: Output) -> None:
    """Let displays of this process go to `output`."""
    _Installed.output = output
    output.input_ended = show_figures
    if not hasattr(builtins, "display"):
        builtins.display = display  # type: ignore[attr-defined]
    if _SHELL_MODULE in sys.modules:
        _teach(sys.modules[_SHELL_MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


class _Installed:
    """Where the displays of this process go."""

    output: Output | None = None


def display(*objects: Any, **options: Any) -> Any:
    """Display objects; see IPython.display.display."""
    try:
        from IPython import display as displaying  # noqa: PLC0415  only where it is used
    except ImportError:
        print(*objects)  # noqa: T201  as IPython does without a shell
        return None
    return displaying.display(*objects, **options)  # type: ignore[no-untyped-call]


def show_figures() -> None:
    """Show the figures that an input has left open."""
    helpers: Any = sys.modules.get("matplotlib._pylab_helpers")
    inline: Any = sys.modules.get(_INLINE_MODULE)
    if helpers is None or inline is None or not helpers.Gcf.figs:
        return
    try:
        inline.show(True)
    except Exception:  # noqa: BLE001  the user's figure
        sys.excepthook(*sys.exc_info())


def show_inline(shell: Any) -> None:
    """Let matplotlib's inline backend, where it is loaded already, show figures by a new shell."""
    inline: Any = sys.modules.get(_INLINE_MODULE)
    if inline is None:
        return
    configure: Any = inline.configure_inline_support
    configure.current_backend = "unset"  # it would spare itself the formatters: these are others
    configure(shell, f"module://{_INLINE_MODULE}")


class _Finder:
    """Waits for the module of the shell to be imported."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002  the protocol of finders
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _SHELL_MODULE:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # it loads
        return spec


class _Loader:
    """Loads the module as its own loader does, then teaches it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _teach(module)


def _teach(module: ModuleType) -> None:
    """Let the shell of this process be there as soon as somebody looks for it."""
    base: Any = module.InteractiveShell
    looks: Callable[[type], bool] = base.initialized.__func__

    def initialized(cls: type) -> bool:
        if not looks(cls):
            _make_shell(base)
        return looks(cls)

    base.initialized = classmethod(initialized)


def publisher() -> type:
    """Return the class of what publishes displays to the call that they belong to."""
    from IPython.core.displaypub import DisplayPublisher  # noqa: PLC0415  see the docstring

    output = _Installed.output

    class Publisher(DisplayPublisher):
        """Publishes to the call."""

        def publish(
            self,
            data: dict[str, Any],
            metadata: dict[str, Any] | None = None,
            *_: object,
            transient: dict[str, Any] | None = None,
            update: bool = False,
            **__: object,
        ) -> None:
            if output is not None:
                output.display(Display(data, metadata or {}, transient or {}, update))

        def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002  IPython's
            if output is not None:
                output.display(Display(clear=True, wait=wait))

    return Publisher


def _make_shell(base: Any) -> None:
    from IPython.core.events import EventManager, available_events  # noqa: PLC0415  see above

    class Shell(base):  # type: ignore[misc]  # known by its module
        """The least that `display` needs."""

        def __init__(self) -> None:
            super(base, self).__init__()
            self.configurables = [self]
            self.init_display_formatter()
            self.display_pub = publisher()(parent=self)
            self.events = EventManager(self, available_events)
            self.user_ns: dict[str, Any] = {}

        def showtraceback(self, *_: object, **__: object) -> None:
            sys.excepthook(*sys.exc_info())

    show_inline(Shell.instance())
