"""IPython's shell in a worker, for cells with its syntax: `!cmd`, `%timeit`, `%%time`, `name?`.

An `InteractiveShell` without kernel, history and terminal, whose variables are the cell's. It is
made when the first such cell runs here, and kept for the next.

Guarantees: displays go where those of functions go; what `!cmd` writes is shown as it is written,
and the stop button ends the command.
Not guaranteed: magics that need a kernel or a front end (`%gui`, `%%javascript` with requirements).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from kernel_worker.worker import displays, interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator


class CellShell(InteractiveShell):
    """The shell of a worker's cells."""

    def system(self, command: str) -> None:
        """Run a command of `!`; what it writes goes where this process's own output goes."""
        sys.stdout.flush()
        sys.stderr.flush()
        line = self.var_expand(command, depth=1)  # type: ignore[no-untyped-call]
        shell = os.environ.get("SHELL") or None
        ended = subprocess.run(line, shell=True, check=False, executable=shell)  # noqa: S602  the user's own command
        self.user_ns["_exit_code"] = ended.returncode

    system_piped = system_raw = system

    def init_display_pub(self) -> None:
        """Let displays go to the call; the trait for the class takes no configuration."""
        self.display_pub = displays.publisher()(parent=self, shell=self)
        self.configurables.append(self.display_pub)  # type: ignore[arg-type]  # as its own does

    def enable_gui(self, gui: object = None) -> None:
        """There is none; `%matplotlib inline` asks all the same."""


@contextlib.contextmanager
def shell(namespace: dict[str, Any], number: int) -> Iterator[None]:
    """Let IPython's shell be there: `namespace` are its variables, `In[number]` its cell."""
    made = _shell_of(namespace)
    made.execution_count = number
    with made.builtin_trap, made.display_trap:
        yield


def _shell_of(namespace: dict[str, Any]) -> CellShell:
    found: Any = InteractiveShell._instance  # noqa: SLF001  `instance()` would make one
    if isinstance(found, CellShell) and found.user_ns is namespace:
        return found
    if found is not None:
        type(found).clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made: CellShell = CellShell.instance(config=config, user_ns=namespace)
    displays.show_inline(made)
    made.set_hook("show_in_pager", _show, 0)  # type: ignore[no-untyped-call]
    return made


interrupts.see_through(CellShell.system.__code__)


def _show(_shell: object, data: Any, *_: object, **__: object) -> None:
    print(data.get("text/plain", "") if isinstance(data, dict) else data)  # noqa: T201  `name?`
